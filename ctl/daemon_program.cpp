// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/daemon_program.hpp"

#include <unistd.h>

#include <filesystem>

namespace qhup::ctl {

std::string find_daemon_program() {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
    for (const fs::path& path :
         {here / "qhupd",
          here.parent_path() / "sbin/qhupd",
          fs::path("/usr/sbin/qhupd"),
          fs::path("/usr/local/sbin/qhupd")}) {
        if (::access(path.c_str(), X_OK) == 0) {
            return path.string();
        }
    }
    return {};
}

} // namespace qhup::ctl
