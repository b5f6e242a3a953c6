// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/selftest_judge.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <iterator>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::string_view kCount = "count ";
constexpr std::size_t kDigits = 10;
constexpr std::uint64_t kKibPerMib = 1024;
constexpr std::size_t kMostNamed = 3; // VMs in a sentence
// Without a new number. The first comes after the firmware, which emulated on a busy host is slow.
constexpr std::chrono::minutes kFirstNumber{3};
constexpr std::chrono::minutes kNextNumber{1};

std::optional<std::uint64_t> number_in(std::string_view digits) {
    std::uint64_t number = 0;
    const char* end = digits.data() + digits.size();
    const auto [rest, error] = std::from_chars(digits.data(), end, number);
    return digits.size() == kDigits && error == std::errc{} && rest == end ? std::optional(number)
                                                                           : std::nullopt;
}

/// What follows the words up to the end of their line; nothing: they are not there.
std::optional<std::string> rest_of_line(std::string_view text, std::string_view words) {
    const std::size_t at = text.find(words);
    if (at == std::string_view::npos) {
        return std::nullopt;
    }
    text.remove_prefix(at + words.size());
    return std::string(text.substr(0, text.find_first_of("\r\n")));
}

/// The last line that is not empty.
std::string last_line(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) {
        text.remove_suffix(1);
    }
    const std::size_t begin = text.rfind('\n');
    return std::string(begin == std::string_view::npos ? text : text.substr(begin + 1));
}

std::string explain_no_device(const std::string& device, const std::string& error) {
    return error == "No such file or directory" ? "no " + device
                                                : "QEMU may not open " + device + ": " + error;
}

std::string explain_no_kvm(std::string_view log) {
    if (const auto error = rest_of_line(log, "Could not access KVM kernel module: ")) {
        return explain_no_device("/dev/kvm", *error);
    }
    const auto error = rest_of_line(log, "failed to initialize kvm: ");
    return error ? "QEMU could not use /dev/kvm: " + *error : "QEMU did not say why not";
}

std::string explain_label(const HostUse& use) {
    if (use.label.empty()) {
        // why: without a module that labels processes, the kernel says EINVAL or has no such file.
        const bool is_none =
            use.label_error == 0 || use.label_error == EINVAL || use.label_error == ENOENT;
        return is_none ? "no security module is loaded"
                       : "the label of their processes could not be read: errno " +
                             std::to_string(use.label_error);
    }
    return "they ran as '" + use.label + "'";
}

bool is_confined(const HostUse& use) {
    return !use.label.empty() && use.label.find("unconfined") == std::string::npos;
}

/// By AppArmor "libvirt-UUID (enforce)", by SELinux "system_u:system_r:svirt_t:s0:c1,c2".
bool is_confined_by_libvirt(const HostUse& use) {
    return use.label.starts_with("libvirt-") || use.label.find(":svirt") != std::string::npos;
}

using Uses = bool (*)(const HostUse& use);

bool uses_kvm(const HostUse& use) {
    return use.has_kvm;
}
bool uses_huge_pages(const HostUse& use) {
    return use.huge_kib != 0;
}
bool uses_vhost(const HostUse& use) {
    return use.has_vhost;
}

TriedView make_one(
    std::string name,
    Uses uses,
    const std::vector<HostUse>& guests,
    const std::vector<HostUse>& vms,
    std::string seen,
    std::string reason
) {
    const auto users = std::count_if(guests.begin(), guests.end(), uses);
    TriedView tried;
    tried.name = std::move(name);
    tried.used = users == std::ssize(guests);
    tried.text = tried.used ? std::move(seen)
                 : users == 0
                     ? std::move(reason)
                     : "only " + std::to_string(users) + " of " + std::to_string(guests.size()) +
                           " processes of the guests used it";
    tried.vms = static_cast<std::uint32_t>(std::count_if(vms.begin(), vms.end(), uses));
    return tried;
}

} // namespace

std::string explain_no_vhost(std::string_view log) {
    if (const auto error = rest_of_line(log, "open vhost char device failed: ")) {
        return explain_no_device("/dev/vhost-net", *error);
    }
    if (const auto error = rest_of_line(log, "could not open /dev/net/tun: ")) {
        return "no tap for a guest: " + explain_no_device("/dev/net/tun", *error);
    }
    const std::string line = last_line(log);
    return line.empty() ? "a guest with vhost did not start, and QEMU did not say why"
                        : "a guest with vhost did not start: " + line;
}

std::string explain_vhost(const std::vector<BlockerView>& blockers, bool is_open) {
    const std::string opened = is_open ? "QEMU opened /dev/vhost-net, but " : "";
    const auto blocker = std::find_if(blockers.begin(), blockers.end(), [](const BlockerView& b) {
        return b.id == "netdev/net0";
    });
    return opened + (blocker != blockers.end()
                         ? "QEMU refuses to upgrade a guest with it: " + blocker->reason
                         : "the guests have no network driver that would start it");
}

std::vector<TriedView> make_tried(
    const std::vector<HostUse>& guests, const std::vector<HostUse>& vms, const HostLimits& limits
) {
    std::vector<TriedView> tried;
    if (guests.empty()) {
        return tried;
    }
    const auto least =
        std::min_element(guests.begin(), guests.end(), [](const HostUse& a, const HostUse& b) {
            return a.huge_kib < b.huge_kib;
        });
    const std::string pages = std::to_string(limits.huge_pages) + " of the " +
                              std::to_string(limits.wanted_pages) +
                              " huge pages of 2 MiB that the guests need are free";
    const std::string label = explain_label(guests.front());
    tried.push_back(make_one(
        "kvm",
        uses_kvm,
        guests,
        vms,
        "each had a virtual machine of /dev/kvm",
        explain_no_kvm(limits.log)
    ));
    tried.push_back(make_one(
        "huge_pages",
        uses_huge_pages,
        guests,
        vms,
        "each had " + std::to_string(least->huge_kib / kKibPerMib) + " MiB or more in them",
        pages
    ));
    tried.push_back(
        make_one("vhost", uses_vhost, guests, vms, "each had /dev/vhost-net open", limits.vhost)
    );
    tried.push_back(make_one("security_module", is_confined, guests, vms, label, label));
    if (limits.has_libvirt || std::any_of(vms.begin(), vms.end(), is_confined_by_libvirt)) {
        tried.push_back(make_one(
            "libvirt_profile",
            is_confined_by_libvirt,
            guests,
            vms,
            label,
            "libvirt makes a profile for each VM that it starts itself, and did not start these"
        ));
    }
    return tried;
}

bool has_tried(const SelftestView& selftest, std::string_view name) noexcept {
    return std::any_of(selftest.tried.begin(), selftest.tried.end(), [name](const TriedView& each) {
        return each.name == name && each.used;
    });
}

std::vector<std::string> list_untried(const HostUse& vm, const SelftestView& selftest) {
    std::vector<std::string> names;
    for (const TriedView& each : selftest.tried) {
        const bool is_in_use = (each.name == "kvm" && uses_kvm(vm)) ||
                               (each.name == "huge_pages" && uses_huge_pages(vm)) ||
                               (each.name == "vhost" && uses_vhost(vm));
        if (is_in_use && !each.used) {
            names.push_back(each.name);
        }
    }
    return names;
}

BlockerView make_partly_tested(
    const std::string& name, const std::vector<std::string>& vms, const SelftestView& selftest
) {
    const auto tried =
        std::find_if(selftest.tried.begin(), selftest.tried.end(), [&name](const TriedView& each) {
            return each.name == name;
        });
    std::string users;
    for (std::size_t i = 0; i < std::min(vms.size(), kMostNamed); ++i) {
        users += (i == 0 ? "" : ", ") + vms[i];
    }
    users += vms.size() > kMostNamed ? " and " + std::to_string(vms.size() - kMostNamed) + " more"
                                     : std::string();
    return {
        .id = "engine/selftest/" + name,
        .klass = "selftest",
        .reason = "The selftest from " + selftest.from + " to " + selftest.to +
                  " has passed without " + words_of_tried(name) + ", which " + users +
                  (vms.size() == 1 ? " uses" : " use") +
                  (tried == selftest.tried.end() ? "" : ": " + tried->text),
    };
}

bool CountWatch::is_stuck(std::uint64_t numbers, Time now) {
    if (numbers > numbers_) {
        numbers_ = numbers;
        last_rise_ = now;
    }
    return now - last_rise_ > (numbers_ == 0 ? kFirstNumber : kNextNumber);
}

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

std::vector<std::string> vhost_arguments() {
    return {
        "-netdev",
        "tap,id=net0,script=no,downscript=no,vhost=on,vhostforce=on",
        "-device",
        "virtio-net-pci,netdev=net0,romfile="};
}

std::vector<std::string> selftest_command(
    const std::vector<std::string>& arguments,
    const std::string& name,
    const std::string& folder,
    bool has_systemd,
    bool has_network
) {
    std::vector<std::string> words;
    // why: a tap in a network of its own leaves the host's as it is, and goes with it.
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
            "--property=TimeoutStartSec=2min",
            "--property=RuntimeMaxSec=30min",
            "--property=StandardError=append:" + folder + "/log",
        };
        if (has_network) {
            words.emplace_back("--property=PrivateNetwork=yes");
        }
        words.emplace_back("--");
    } else {
        words = {
            "/bin/sh", "-c", R"(exec setsid --fork "$@" </dev/null >>"$0" 2>&1)", folder + "/log"};
        if (has_network) {
            words.insert(words.end(), {"unshare", "--net"});
        }
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

const SelftestView* find_passed(
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
    return newest != selftests.rend() && newest->passed ? &*newest : nullptr;
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
