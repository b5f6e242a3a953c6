// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest of a selftest as values: what it is started with, and whether it was well, from what it
// said. And what a VM's upgrade is told about selftests. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "daemon/api_types_selftest.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// Names of the guests begin so; a run over all VMs, and policies, leave them out.
inline constexpr std::string_view kSelftestGuests = "qhup-selftest-";

bool is_selftest_guest(std::string_view vm) noexcept;

/// RAM of each guest, and so many huge pages of 2 MiB.
inline constexpr std::uint32_t kSelftestGuestMib = 64;

/// What a process of QEMU uses of the host, as the kernel says.
struct HostUse {
    bool has_kvm = false;       ///< it has a virtual machine of /dev/kvm open
    bool has_vhost = false;     ///< it has /dev/vhost-net open
    std::uint64_t huge_kib = 0; ///< memory in huge pages that it has touched
    std::string label{};        ///< of the security module; "" if it has none
    int label_error = 0;        ///< errno, if the label could not be read
};

/// What decides what a guest can use of the host.
struct HostLimits {
    std::size_t huge_pages = 0;   ///< of 2 MiB, that nobody uses or has reserved
    std::size_t wanted_pages = 0; ///< of all guests together
    std::string log{};            ///< what the first guest's QEMU printed
    std::string vhost{};          ///< why no guest has vhost
    bool has_libvirt = false;     ///< libvirt is on this host
};

/// QEMU's words about a guest that was to have vhost and did not start, as a reason.
std::string explain_no_vhost(std::string_view log);

/// Why no guest is upgraded with vhost, although one could be started with it.
///
/// @param blockers  what it says against its upgrade
/// @param is_open   it has opened /dev/vhost-net
std::string explain_vhost(const std::vector<BlockerView>& blockers, bool is_open);

/// What of the host the guests have tried.
///
/// @param guests  each process that ran a guest
/// @param vms     those of the host
std::vector<TriedView> make_tried(
    const std::vector<HostUse>& guests, const std::vector<HostUse>& vms, const HostLimits& limits
);

/// Whether each guest was seen to use it.
bool has_tried(const SelftestView& selftest, std::string_view name) noexcept;

/// Names of what this VM uses and the selftest did not try, of KVM, huge pages and vhost.
std::vector<std::string> list_untried(const HostUse& vm, const SelftestView& selftest);

/// What is said about an upgrade of VMs that use what the selftest that has passed did not try.
///
/// @param vms  by name; not empty
BlockerView make_partly_tested(
    const std::string& name, const std::vector<std::string>& vms, const SelftestView& selftest
);

/// Says when a guest is stuck: when its count has not risen for too long, however slow the host is.
class CountWatch {
public:
    using Time = std::chrono::steady_clock::time_point;

    explicit CountWatch(Time now) : last_rise_(now) {}

    /// @param numbers  how many it has said so far
    bool is_stuck(std::uint64_t numbers, Time now);

private:
    Time last_rise_;
    std::uint64_t numbers_ = 0;
};

/// QEMU's command line for a guest whose files are in `folder`: disk, qmp, serial.
std::vector<std::string> selftest_arguments(
    const std::vector<std::string>& binary, // path, and what its release adds
    const std::string& name,
    const std::string& folder,
    bool has_hugepages
);

/// What a guest has beside that to use vhost.
std::vector<std::string> vhost_arguments();

/// The command that starts it: with systemd as a unit of its own, else as a process of its own.
/// What it prints goes to `folder`/log.
///
/// @param has_network  it gets a network namespace of its own, in which it may make a tap
std::vector<std::string> selftest_command(
    const std::vector<std::string>& arguments,
    const std::string& name,
    const std::string& folder,
    bool has_systemd,
    bool has_network = false
);

/// What a guest said on its serial port.
struct SelftestCount {
    std::uint64_t numbers = 0; ///< how many lines
    std::uint64_t last = 0;    ///< the highest number
    std::string problem;       ///< what is wrong with them, as a sentence without stop; "": nothing
};

/// Whole lines only: the guest may be in the middle of one. Each number must be one more than the
/// number before, from 1.
SelftestCount read_count(std::string_view serial);

/// The number in the sector that the guest writes again and again; nothing: it is none.
std::optional<std::uint64_t> number_of_sector(std::string_view sector, std::size_t offset);

/// Why the selftest has not passed, as a sentence without its stop; "": it has.
std::string judge_run(const RunView& run);

/// The newest selftest of this pair of binaries under this kernel, if it has passed; else nullptr.
const SelftestView* find_passed(
    const std::vector<SelftestView>& selftests,
    std::string_view from_build_id,
    std::string_view to_build_id,
    std::string_view kernel
) noexcept;

/// What is said about an upgrade that no selftest has tried.
BlockerView make_untested(const std::string& from, const std::string& to, std::string_view kernel);

} // namespace qhup::daemon
