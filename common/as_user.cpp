// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/as_user.hpp"

#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>

namespace qhup {
namespace {

using CapabilitySets = std::array<__user_cap_data_struct, 2>;

std::uint32_t first_effective() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    CapabilitySets sets{};
    return ::syscall(SYS_capget, &header, sets.data()) == 0 ? sets[0].effective : 0;
}

/// Of the calling thread alone.
/// @return  errno; 0: it is this user, without rights
int become(uid_t uid) {
    // why: not setresuid() of the C library, which changes every thread.
    if (::syscall(SYS_setresuid, uid, uid, uid) != 0) {
        return errno;
    }
    // why: after it, since it takes a right; root's capabilities come back with an exec otherwise.
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    CapabilitySets none{};
    const bool is_bare = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                         ::syscall(SYS_capset, &header, none.data()) == 0;
    return is_bare ? 0 : errno;
}

} // namespace

bool may_take_user() {
    return (first_effective() & (1U << CAP_SETUID)) != 0;
}

bool is_own_user_with_rights() {
    return ::geteuid() != 0 && may_take_user();
}

bool is_ours(uid_t owner) {
    if (owner == 0 || owner == ::geteuid()) {
        return true;
    }
    std::array<char, 4096> buffer{};
    passwd entry{};
    passwd* found = nullptr;
    return ::geteuid() == 0 &&
           ::getpwnam_r(kServiceUser, &entry, buffer.data(), buffer.size(), &found) == 0 &&
           found != nullptr && found->pw_uid == owner;
}

Result<void> run_as_user(uid_t uid, const std::string& what, const std::function<void()>& work) {
    // why: the kernel takes it from the whole process when one thread changes its user, and a
    // daemon that systemd ends because it hangs should leave its memory to be looked at, if the
    // host wants that.
    static const int dumpable = ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    int error = 0;
    std::exception_ptr thrown;
    try {
        std::thread other([&error, &thrown, &work, uid] {
            error = become(uid);
            try {
                if (error == 0) {
                    work();
                }
            } catch (...) {
                thrown = std::current_exception();
            }
        });
        other.join();
    } catch (const std::system_error& failed) {
        error = failed.code().value();
    }
    if (dumpable == 1) {
        ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    }
    if (thrown) {
        std::rethrow_exception(thrown);
    }
    if (error != 0) {
        return make_system_failure(error, what + " as user " + std::to_string(uid));
    }
    return {};
}

} // namespace qhup
