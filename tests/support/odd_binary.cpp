// SPDX-License-Identifier: GPL-2.0-or-later
//
// odd-binary: what a file that is said to be a QEMU may do when it is asked what it is. The end of
// argv[0] says what: "/x/hangs". One that answers tells as names of types what it was given.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

extern "C" char** environ; // NOLINT(readability-redundant-declaration): not in every header

namespace {

[[noreturn]] void hang() {
    std::signal(SIGTERM, SIG_IGN);
    while (true) {
        ::pause();
    }
}

[[noreturn]] void flood(std::ostream& stream) {
    const std::string line(1U << 16U, 'x');
    while (true) {
        stream << line << std::flush;
    }
}

/// What the process has, as names.
std::vector<std::string> describe_self() {
    std::vector<std::string> names{"device"};
    for (int fd = 0; fd < 1024; ++fd) {
        if (::fcntl(fd, F_GETFD) >= 0) {
            names.push_back("fd-" + std::to_string(fd));
        }
    }
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        const bool is_wanted = line.starts_with("CapEff:") || line.starts_with("CapPrm:") ||
                               line.starts_with("NoNewPrivs:") || line.starts_with("SigIgn:");
        const std::size_t tab = line.find('\t');
        if (is_wanted && tab != std::string::npos) {
            names.push_back(line.substr(0, tab) + line.substr(tab + 1));
        }
    }
    names.emplace_back(::getpgrp() == ::getpid() ? "own-group" : "group-of-others");
    names.emplace_back(*environ == nullptr ? "no-environment" : "some-environment");
    return names;
}

void answer() {
    std::cout << R"({"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, )"
              << R"("package": ""}, "capabilities": []}})"
              << "\n";
    const auto reply = [](std::string_view id, const std::string& value) {
        std::cout << R"({"return": )" << value << R"(, "id": ")" << id << "\"}\n";
    };
    std::string types;
    for (const std::string& name : describe_self()) {
        types += std::string(types.empty() ? "" : ", ") + R"({"name": ")" + name + "\"}";
    }
    reply("qmp_capabilities", "{}");
    reply("query-hot-upgrade-blocker-classes", "[]");
    reply("query-machines", R"([{"name": "pc-x-1.0", "alias": "pc"}])");
    reply("qom-list-types", "[" + types + "]");
    reply("quit", "{}");
    std::cout << std::flush;
}

/// As QEMU: all names are looked at before the first option is done.
int show_version(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "-spice" || word == "-tpmdev") {
            std::cerr << "qemu: " << word << ": invalid option\n";
            return 1;
        }
    }
    std::cout << "QEMU emulator version 10.0.0\n";
    return 0;
}

int be_a_qemu(int argc, char** argv) {
    if (std::string_view(argv[1]) == "-version") {
        return show_version(argc, argv);
    }
    if (std::string_view(argv[argc - 2]) == "-dump-vmstate") {
        std::ofstream(argv[argc - 1]) << R"({"vmschkmachine": {"Name": "none"}, "nic": {"Name": )"
                                      << R"("nic", "Description": {"name": "net", )"
                                      << R"("version_id": 3, "minimum_version_id": 2}}})";
        return 0;
    }
    answer();
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    const std::string_view name = argv[0];
    const std::string_view kind = name.substr(name.rfind('/') + 1);
    if (argc < 3) {
        return 2;
    }
    if (kind == "hangs") {
        hang();
    } else if (kind == "hangs-with-a-child") {
        (void)::fork();
        hang();
    } else if (kind == "dies") {
        std::cerr << "no such thing\n";
        return 3;
    } else if (kind == "crashes") {
        std::raise(SIGKILL);
    } else if (kind == "mumbles") {
        std::cout << "{\x01\xff[[[\n\n{\"return\": 7}\n";
    } else if (kind == "floods") {
        flood(std::cout);
    } else if (kind == "complains") {
        flood(std::cerr);
    } else if (kind == "leaves-a-child") {
        if (::fork() == 0) {
            hang();
        }
        return be_a_qemu(argc, argv);
    } else if (kind == "hangs-later") {
        if (std::string_view(argv[1]) == "-version") {
            hang();
        }
        return be_a_qemu(argc, argv);
    } else {
        return be_a_qemu(argc, argv);
    }
    return 0;
}
