// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/selftest_judge.hpp"

#include <algorithm>
#include <charconv>

namespace qhup::daemon {
namespace {

constexpr std::string_view kCount = "count ";
constexpr std::size_t kDigits = 10;

std::optional<std::uint64_t> number_in(std::string_view digits) {
    std::uint64_t number = 0;
    const char* end = digits.data() + digits.size();
    const auto [rest, error] = std::from_chars(digits.data(), end, number);
    return digits.size() == kDigits && error == std::errc{} && rest == end ? std::optional(number)
                                                                           : std::nullopt;
}

} // namespace

bool is_selftest_guest(std::string_view vm) noexcept {
    return vm.starts_with(kSelftestGuests);
}

std::vector<std::string> selftest_arguments(
    const std::vector<std::string>& binary,
    const std::string& name,
    const std::string& folder,
    bool has_hugepages
) {
    const std::string size = std::to_string(kSelftestGuestMib) + "M";
    std::vector<std::string> words{binary.front()};
    std::string machine = "q35,accel=kvm:tcg,hot-upgrade=on";
    std::vector<std::string> ram;
    if (has_hugepages) {
        machine += ",memory-backend=ram";
        ram = {
            "-object",
            "memory-backend-memfd,id=ram,share=on,hugetlb=on,hugetlbsize=2M,size=" + size};
    }
    const std::vector<std::string> rest{
        "-nodefaults",
        "-name",
        name,
        "-machine",
        machine,
        "-m",
        size,
        "-display",
        "none",
        "-drive",
        "file=" + folder + "/disk,format=raw,if=none,id=disk",
        "-device",
        "virtio-blk-pci,drive=disk",
        "-chardev",
        "file,id=serial,path=" + folder + "/serial",
        "-serial",
        "chardev:serial",
        "-qmp",
        "unix:" + folder + "/qmp,server=on,wait=off",
    };
    words.insert(words.end(), rest.begin(), rest.end());
    words.insert(words.end(), ram.begin(), ram.end());
    words.insert(words.end(), binary.begin() + 1, binary.end());
    return words;
}

std::vector<std::string> selftest_command(
    const std::vector<std::string>& arguments,
    const std::string& name,
    const std::string& folder,
    bool has_systemd
) {
    std::vector<std::string> words;
    if (has_systemd) {
        // why: as qhup-vm@.service. The process that is there at the end is not the first one.
        words = {
            "/usr/bin/systemd-run",
            "--quiet",
            "--collect",
            "--unit=" + name,
            "--description=Guest of a selftest of qhupd",
            "--service-type=notify",
            "--property=NotifyAccess=all",
            "--property=TimeoutStartSec=30s",
            "--property=RuntimeMaxSec=30min",
            "--property=StandardError=append:" + folder + "/log",
            "--"};
    } else {
        words = {
            "/bin/sh", "-c", R"(exec setsid --fork "$@" </dev/null >>"$0" 2>&1)", folder + "/log"};
    }
    words.insert(words.end(), arguments.begin(), arguments.end());
    return words;
}

SelftestCount read_count(std::string_view serial) {
    SelftestCount count;
    for (std::size_t end = serial.find('\n');
         end != std::string_view::npos && count.problem.empty();
         end = serial.find('\n')) {
        std::string_view line = serial.substr(0, end);
        serial.remove_prefix(end + 1);
        if (line.ends_with('\r')) {
            line.remove_suffix(1);
        }
        const auto number =
            line.starts_with(kCount) ? number_in(line.substr(kCount.size())) : std::nullopt;
        if (!number) {
            count.problem = "the guest said '" + std::string(line.substr(0, 80)) + "'";
        } else if (*number != count.last + 1) {
            count.problem = "the guest said " + std::to_string(*number) + " after " +
                            std::to_string(count.last);
        } else {
            count.last = *number;
            ++count.numbers;
        }
    }
    return count;
}

std::optional<std::uint64_t> number_of_sector(std::string_view sector, std::size_t offset) {
    return sector.size() < offset + kDigits ? std::nullopt
                                            : number_in(sector.substr(offset, kDigits));
}

std::string judge_run(const RunView& run) {
    for (const RunVmView& vm : run.vms) {
        if (vm.outcome != "upgraded") {
            const std::string reason =
                !vm.blockers.empty() ? vm.blockers.front().reason : vm.message;
            return "guest " + vm.vm + " was not upgraded but is " +
                   (vm.outcome.empty() ? "unfinished" : vm.outcome) +
                   (vm.code.empty() ? "" : " (" + vm.code + ")") +
                   (reason.empty() ? "" : ": " + reason);
        }
    }
    return run.vms.empty() ? "no guest was upgraded" : "";
}

bool has_passed(
    const std::vector<SelftestView>& selftests,
    std::string_view from_build_id,
    std::string_view to_build_id,
    std::string_view kernel
) noexcept {
    // why: the newest counts; what passed once and fails now is no proof any more.
    const auto newest =
        std::find_if(selftests.rbegin(), selftests.rend(), [&](const SelftestView& each) {
            return each.state == "finished" && each.from_build_id == from_build_id &&
                   each.to_build_id == to_build_id && each.kernel == kernel;
        });
    return newest != selftests.rend() && newest->passed;
}

BlockerView make_untested(const std::string& from, const std::string& to, std::string_view kernel) {
    return {
        .id = "engine/selftest",
        .klass = "selftest",
        .reason = "No selftest from " + (from.empty() ? "this VM's QEMU" : from) + " to " + to +
                  " has passed on this host under kernel " + std::string(kernel) +
                  "; 'qhupd-ctl selftest --to " + to + "' upgrades throwaway guests first.",
    };
}

} // namespace qhup::daemon
