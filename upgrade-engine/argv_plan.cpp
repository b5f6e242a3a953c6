// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/argv_plan.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <optional>
#include <utility>

namespace qhup::upgrade {
namespace {

// qemu: qemu-options.hx of 7.2.22 and 10.0.13; the releases between from
// docs/about/removed-features.rst.
// clang-format off
constexpr std::array kOptions{
    QemuOption{"D", true, {}, {}},
    QemuOption{"L", true, {}, {}},
    QemuOption{"M", true, {}, {}},
    QemuOption{"S", false, {}, {}},
    QemuOption{"accel", true, {}, {}},
    QemuOption{"acpitable", true, {}, {}},
    QemuOption{"action", true, {}, {}},
    QemuOption{"add-fd", true, {}, {}},
    QemuOption{"append", true, {}, {}},
    QemuOption{"async-teardown", false, {}, {9, 0, 0}},
    QemuOption{"audio", true, {}, {}},
    QemuOption{"audio-help", false, {}, {8, 2, 0}},
    QemuOption{"audiodev", true, {}, {}},
    QemuOption{"bios", true, {}, {}},
    QemuOption{"blockdev", true, {}, {}},
    QemuOption{"boot", true, {}, {}},
    QemuOption{"cdrom", true, {}, {}},
    QemuOption{"chardev", true, {}, {}},
    QemuOption{"chroot", true, {}, {9, 0, 0}},
    QemuOption{"compat", true, {}, {}},
    QemuOption{"cpu", true, {}, {}},
    QemuOption{"d", true, {}, {}},
    QemuOption{"daemonize", false, {}, {}},
    QemuOption{"debugcon", true, {}, {}},
    QemuOption{"device", true, {}, {}},
    QemuOption{"dfilter", true, {}, {}},
    QemuOption{"display", true, {}, {}},
    QemuOption{"drive", true, {}, {}},
    QemuOption{"dtb", true, {}, {}},
    QemuOption{"dump-vmstate", true, {}, {}},
    QemuOption{"echr", true, {}, {}},
    QemuOption{"enable-kvm", false, {}, {}},
    QemuOption{"enable-sync-profile", false, {}, {}},
    QemuOption{"fda", true, {}, {}},
    QemuOption{"fdb", true, {}, {}},
    QemuOption{"fsdev", true, {}, {}},
    QemuOption{"full-screen", false, {}, {}},
    QemuOption{"fw_cfg", true, {}, {}},
    QemuOption{"g", true, {}, {}},
    QemuOption{"gdb", true, {}, {}},
    QemuOption{"global", true, {}, {}},
    QemuOption{"h", false, {}, {}},
    QemuOption{"hda", true, {}, {}},
    QemuOption{"hdb", true, {}, {}},
    QemuOption{"hdc", true, {}, {}},
    QemuOption{"hdd", true, {}, {}},
    QemuOption{"help", false, {}, {}},
    QemuOption{"icount", true, {}, {}},
    QemuOption{"incoming", true, {}, {}},
    QemuOption{"initrd", true, {}, {}},
    QemuOption{"iscsi", true, {}, {}},
    QemuOption{"jitdump", false, {8, 0, 0}, {}},
    QemuOption{"k", true, {}, {}},
    QemuOption{"kernel", true, {}, {}},
    QemuOption{"loadvm", true, {}, {}},
    QemuOption{"m", true, {}, {}},
    QemuOption{"machine", true, {}, {}},
    QemuOption{"mem-path", true, {}, {}},
    QemuOption{"mem-prealloc", false, {}, {}},
    QemuOption{"mon", true, {}, {}},
    QemuOption{"monitor", true, {}, {}},
    QemuOption{"msg", true, {}, {}},
    QemuOption{"mtdblock", true, {}, {}},
    QemuOption{"name", true, {}, {}},
    QemuOption{"net", true, {}, {}},
    QemuOption{"netdev", true, {}, {}},
    QemuOption{"nic", true, {}, {}},
    QemuOption{"no-acpi", false, {}, {9, 0, 0}},
    QemuOption{"no-fd-bootchk", false, {}, {}},
    QemuOption{"no-hpet", false, {}, {9, 0, 0}},
    QemuOption{"no-reboot", false, {}, {}},
    QemuOption{"no-shutdown", false, {}, {}},
    QemuOption{"no-user-config", false, {}, {}},
    QemuOption{"nodefaults", false, {}, {}},
    QemuOption{"nographic", false, {}, {}},
    QemuOption{"numa", true, {}, {}},
    QemuOption{"object", true, {}, {}},
    QemuOption{"old-param", false, {}, {}},
    QemuOption{"only-migratable", false, {}, {}},
    QemuOption{"option-rom", true, {}, {}},
    QemuOption{"overcommit", true, {}, {}},
    QemuOption{"parallel", true, {}, {}},
    QemuOption{"perfmap", false, {8, 0, 0}, {}},
    QemuOption{"pflash", true, {}, {}},
    QemuOption{"pidfile", true, {}, {}},
    QemuOption{"plugin", true, {}, {}},
    QemuOption{"portrait", false, {}, {9, 2, 0}},
    QemuOption{"preconfig", false, {}, {}},
    QemuOption{"prom-env", true, {}, {}},
    QemuOption{"qmp", true, {}, {}},
    QemuOption{"qmp-pretty", true, {}, {}},
    QemuOption{"qtest", true, {}, {}},
    QemuOption{"qtest-log", true, {}, {}},
    QemuOption{"readconfig", true, {}, {}},
    QemuOption{"rotate", true, {}, {9, 2, 0}},
    QemuOption{"rtc", true, {}, {}},
    QemuOption{"run-with", true, {8, 1, 0}, {}},
    QemuOption{"runas", true, {}, {10, 0, 0}},
    QemuOption{"s", false, {}, {}},
    QemuOption{"sandbox", true, {}, {}},
    QemuOption{"sd", true, {}, {}},
    QemuOption{"seed", true, {}, {}},
    QemuOption{"semihosting", false, {}, {}},
    QemuOption{"semihosting-config", true, {}, {}},
    QemuOption{"serial", true, {}, {}},
    QemuOption{"set", true, {}, {}},
    QemuOption{"shim", true, {10, 0, 0}, {}},
    QemuOption{"singlestep", false, {}, {9, 0, 0}},
    QemuOption{"smbios", true, {}, {}},
    QemuOption{"smp", true, {}, {}},
    QemuOption{"snapshot", false, {}, {}},
    QemuOption{"spice", true, {}, {}},
    QemuOption{"tpmdev", true, {}, {}},
    QemuOption{"trace", true, {}, {}},
    QemuOption{"usb", false, {}, {}},
    QemuOption{"usbdevice", true, {}, {}},
    QemuOption{"uuid", true, {}, {}},
    QemuOption{"version", false, {}, {}},
    QemuOption{"vga", true, {}, {}},
    QemuOption{"virtfs", true, {}, {}},
    QemuOption{"vnc", true, {}, {}},
    QemuOption{"watchdog-action", true, {}, {}},
    QemuOption{"win2k-hack", false, {}, {}},
    QemuOption{"xen-attach", false, {}, {}},
    QemuOption{"xen-domid", true, {}, {}},
    QemuOption{"xen-domid-restrict", false, {}, {}},
};
// clang-format on

constexpr QemuVersion kAudiodevMustBeNamed{8, 2, 0};
constexpr QemuVersion kVirtioMemRefusesPrealloc{8, 0, 0};
constexpr QemuVersion kOneInsnPerTb{8, 1, 0};
constexpr QemuVersion kRunWith{8, 1, 0};
constexpr QemuVersion kReconnectMs{9, 2, 0};
constexpr QemuVersion kNoZeroTopology{9, 0, 0};
constexpr QemuVersion kNoVirtioBlkScsi{9, 1, 0};
constexpr QemuVersion kNoDecompressCheck{9, 1, 0};

/// A suboption or back end that one of the releases does not have and that has no other spelling.
struct Gap {
    std::string_view option; ///< option it belongs to
    std::string_view key;    ///< the key, or with `is_first` the first word of the argument
    bool is_first;           ///< match the first word instead of a key
    QemuVersion since;       ///< first release that has it; {} if 7.2 does
    QemuVersion until;       ///< first release without it; {} if 10.0 has it
};

// clang-format off
constexpr std::array kGaps{
    Gap{"machine",    "aux-ram-share",      false, {10, 0, 0}, {}},
    Gap{"accel",      "hax",                true,  {},         {8, 2, 0}},
    Gap{"accel",      "eager-split-size",   false, {8, 2, 0},  {}},
    Gap{"accel",      "device",             false, {10, 0, 0}, {}},
    Gap{"smp",        "modules",            false, {9, 1, 0},  {}},
    Gap{"smp",        "books",              false, {8, 2, 0},  {}},
    Gap{"smp",        "drawers",            false, {8, 2, 0},  {}},
    Gap{"smbios",     "processor-family",   false, {9, 0, 0},  {}},
    Gap{"audiodev",   "pipewire",           true,  {8, 1, 0},  {}},
    Gap{"audio",      "pipewire",           true,  {8, 1, 0},  {}},
    Gap{"chardev",    "hub",                true,  {10, 0, 0}, {}},
    Gap{"chardev",    "input-path",         false, {8, 1, 0},  {}},
    Gap{"netdev",     "af-xdp",             true,  {8, 2, 0},  {}},
    Gap{"netdev",     "reconnect-ms",       false, {9, 2, 0},  {}},
    Gap{"netdev",     "reconnect",          false, {8, 0, 0},  {}},
    Gap{"object",     "memory-backend-shm", true,  {9, 1, 0}, {}},
    Gap{"fsdev",      "proxy",              true,  {},         {9, 2, 0}},
    Gap{"virtfs",     "proxy",              true,  {},         {9, 2, 0}},
    Gap{"fsdev",      "max_xattr",          false, {9, 2, 0},  {}},
    Gap{"virtfs",     "max_xattr",          false, {9, 2, 0},  {}},
    Gap{"spice",      "password",           false, {},         {8, 0, 0}},
    Gap{"overcommit", "mem-lock=on-fault",  false, {10, 0, 0}, {}},
    Gap{"device",     "sga",                true,  {},         {8, 0, 0}},
    Gap{"device",     "pvrdma",             true,  {},         {9, 1, 0}},
};
// clang-format on

/// Devices whose `audiodev=` could be left out while the first -audiodev was the default.
constexpr std::array<std::string_view, 11> kSoundDevices{
    "AC97",
    "ac97",
    "ES1370",
    "es1370",
    "sb16",
    "cs4231a",
    "gus",
    "adlib",
    "hda-duplex",
    "hda-micro",
    "hda-output",
};

/// Options that a target must not get, and why.
struct Refusal {
    std::string_view option;
    std::string_view reason;
};

constexpr std::array kRefusals{
    Refusal{
        "chroot",
        "The VM was started with -chroot, so a new QEMU would not find its libraries and "
        "files; start the VM without it."},
    Refusal{
        "snapshot",
        "The VM was started with -snapshot, and its temporary overlays cannot be opened "
        "a second time; start the VM without it."},
    Refusal{
        "preconfig",
        "The VM was configured by hand after -preconfig, which cannot be repeated; put "
        "that configuration on the command line."},
    Refusal{
        "plugin",
        "The VM was started with -plugin, and what the plugin knows would be lost; start the VM "
        "without it."},
};

/// Options that mean something only when the VM is started for the first time.
constexpr std::array<std::string_view, 6> kStartOnly{
    "S",
    "loadvm",
    "daemonize",
    "pidfile",
    "runas",
    "incoming",
};

/// One element of a command line: an option with its argument, or a disk image without option.
struct Item {
    const QemuOption* option = nullptr; ///< null: a disk image
    std::string spelled;                ///< "-m", "--m", or the disk image
    std::string value;                  ///< the argument, if the option has one
};

template <class Range, class Value>
bool contains(const Range& range, const Value& value) {
    return std::find(range.begin(), range.end(), value) != range.end();
}

bool has_option(const Item& item, std::string_view name) {
    return item.option != nullptr && item.option->name == name;
}

bool is_machine(const Item& item) {
    return has_option(item, "machine") || has_option(item, "M");
}

Item make_item(std::string_view name, std::string value) {
    return Item{find_qemu_option(name), "-" + std::string(name), std::move(value)};
}

/// Splits at single commas; ",," is a comma inside a value and stays as it is.
std::vector<std::string> split_keyval(std::string_view text) {
    std::vector<std::string> parts(1);
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != ',') {
            parts.back() += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == ',') {
            parts.back() += ",,";
            ++i;
        } else {
            parts.emplace_back();
        }
    }
    return parts;
}

std::string join_keyval(const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) {
        if (!text.empty()) {
            text += ',';
        }
        text += part;
    }
    return text;
}

std::string escape_commas(std::string_view value) {
    std::string text;
    for (const char c : value) {
        text += c;
        if (c == ',') {
            text += c;
        }
    }
    return text;
}

std::string_view key_of(std::string_view part) {
    return part.substr(0, part.find('='));
}

/// The value of `key=value`; nothing for a part without '='.
std::optional<std::string_view> value_of(std::string_view part) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
        return std::nullopt;
    }
    return part.substr(equals + 1);
}

bool is_off(std::string_view value) {
    return value == "off" || value == "no" || value == "false" || value == "n";
}

std::string value_named(std::string_view key, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
        if (key_of(part) == key) {
            return std::string(value_of(part).value_or(""));
        }
    }
    return {};
}

bool is_json(std::string_view value) {
    return !value.empty() && value.front() == '{';
}

/// The first word of an argument: "tap" in "tap,id=n", and in "type=tap,id=n" as well.
std::string first_word(std::string_view option, const std::vector<std::string>& parts) {
    if (!parts.front().empty() && !value_of(parts.front())) {
        return parts.front();
    }
    for (const std::string& part : parts) {
        const std::string_view key = key_of(part);
        const bool names_it =
            (option == "device" && key == "driver") || (option == "audiodev" && key == "driver") ||
            (option == "audio" && key == "driver") || (option == "chardev" && key == "backend") ||
            (option == "netdev" && key == "type") || (option == "accel" && key == "accel") ||
            ((option == "fsdev" || option == "virtfs") && key == "fsdriver") ||
            ((option == "machine" || option == "M") && key == "type");
        if (names_it) {
            return std::string(*value_of(part));
        }
    }
    return {};
}

/// Plans one command line. Each function appends to items_ or problems_ and keeps the order.
class Planner {
public:
    explicit Planner(const ArgvRequest& request) : request_(request) {}

    ArgvPlan run() {
        std::vector<std::string> arguments = request_.source_argv;
        if (arguments.empty()) {
            refuse("", "The VM does not say how it was started; restart it with a QEMU that does.");
            return std::move(plan_);
        }
        arguments.erase(arguments.begin());
        take_off_tail(arguments);
        for (Item& item : parse(arguments, Whose::vm)) {
            translate(std::move(item));
        }
        add_single_step();
        name_audio_backend();
        refuse_preallocated_virtio_mem();
        make_machine_concrete();
        for (Item& item : parse(request_.tail, Whose::release)) {
            check_tail(item);
            items_.push_back(std::move(item));
        }
        check_gaps();
        emit();
        return std::move(plan_);
    }

private:
    /// Who wrote an option, and can mend it.
    enum class Whose { vm, release };

    std::string release_name() const {
        return "The release" + (request_.release.empty() ? "" : " " + request_.release);
    }

    void refuse(std::string option, std::string reason) {
        plan_.problems.push_back({std::move(option), std::move(reason)});
    }

    std::string target_name() const { return "QEMU " + to_string(request_.target); }

    void take_off_tail(std::vector<std::string>& arguments) const {
        std::size_t longest = 0;
        for (const std::vector<std::string>& tail : request_.known_tails) {
            const bool is_there = tail.size() <= arguments.size() &&
                                  std::equal(tail.rbegin(), tail.rend(), arguments.rbegin());
            longest = is_there ? std::max(longest, tail.size()) : longest;
        }
        arguments.resize(arguments.size() - longest);
    }

    void refuse_unknown(const std::string& argument, Whose whose) {
        const std::string what = " is not one of QEMU 7.2 or 10.0, so it is not known whether it "
                                 "has an argument; ";
        refuse(
            argument,
            whose == Whose::release ? release_name() + " adds the option " + argument + ", which" +
                                          what + "correct its options."
                                    : "The option " + argument + what + "start the VM without it."
        );
    }

    void refuse_incomplete(const std::string& argument, Whose whose) {
        const std::string what = " needs an argument and is the last word of ";
        refuse(
            argument,
            whose == Whose::release
                ? release_name() + " adds the option " + argument + ", which" + what +
                      "its options; correct them."
                : "The option " + argument + what +
                      "the command line; start the VM with a complete command line."
        );
    }

    std::vector<Item> parse(const std::vector<std::string>& arguments, Whose whose) {
        std::vector<Item> items;
        for (std::size_t i = 0; i < arguments.size(); ++i) {
            const std::string& argument = arguments[i];
            if (argument.empty() || argument.front() != '-') {
                items.push_back({nullptr, argument, ""});
                continue;
            }
            // qemu: vl.c, lookup_opt(): --foo is the same as -foo, and nothing is abbreviated.
            const std::size_t dashes = argument.size() > 1 && argument[1] == '-' ? 2 : 1;
            const QemuOption* option = find_qemu_option(std::string_view(argument).substr(dashes));
            if (option == nullptr) {
                refuse_unknown(argument, whose);
                continue;
            }
            Item item{option, argument, ""};
            if (option->has_argument) {
                if (i + 1 == arguments.size()) {
                    refuse_incomplete(argument, whose);
                    continue;
                }
                item.value = arguments[++i];
            }
            items.push_back(std::move(item));
        }
        return items;
    }

    void translate(Item item) {
        if (item.option == nullptr) {
            items_.push_back(std::move(item));
            return;
        }
        const std::string_view name = item.option->name;
        for (const Refusal& refusal : kRefusals) {
            if (refusal.option == name) {
                refuse(item.spelled, std::string(refusal.reason));
                return;
            }
        }
        if (contains(kStartOnly, name)) {
            return;
        }
        const bool is_passed = item.value.starts_with("/dev/fd/") ||
                               item.value.starts_with("/proc/self/fd/") ||
                               item.value == "/dev/stdin";
        if (name == "readconfig" && is_passed) {
            refuse(
                item.spelled,
                "The VM was started with -readconfig of " + item.value +
                    ", which cannot be read a second time; put it into a file."
            );
            return;
        }
        if (name == "no-acpi") {
            items_.push_back(make_item("machine", "acpi=off"));
        } else if (name == "no-hpet") {
            items_.push_back(make_item("machine", "hpet=off"));
        } else if (name == "async-teardown") {
            add_async_teardown();
        } else if (name == "run-with") {
            translate_run_with(item);
        } else if (name == "singlestep") {
            single_step_ = true;
        } else if ((name == "perfmap" || name == "jitdump") && !is_known_to(*item.option, request_.target)) {
            // Helps a profiler on the host; the guest does not see it.
        } else {
            translate_value(std::move(item));
        }
    }

    void translate_value(Item item) {
        const std::string_view name = item.option->name;
        if (is_json(item.value)) {
            items_.push_back(std::move(item));
            return;
        }
        if (name == "chardev") {
            translate_chardev(item);
        } else if (name == "smp") {
            translate_smp(item);
        } else if (name == "accel") {
            translate_accel(item);
        } else if (name == "device") {
            translate_device(item);
        } else if (name == "global" && item.value.starts_with("migration.decompress-error-check=") && request_.target >= kNoDecompressCheck) {
            return;
        }
        items_.push_back(std::move(item));
    }

    void add_async_teardown() {
        const bool is_new = request_.target >= kRunWith;
        items_.push_back(
            is_new ? make_item("run-with", "async-teardown=on") : make_item("async-teardown", "")
        );
    }

    void translate_run_with(const Item& item) {
        for (const std::string& part : split_keyval(item.value)) {
            const std::string_view key = key_of(part);
            if (key == "chroot") {
                refuse(item.spelled + " chroot", std::string(kRefusals.front().reason));
            } else if (key == "async-teardown") {
                if (!is_off(value_of(part).value_or("on"))) {
                    add_async_teardown();
                }
            } else if (key != "user") {
                refuse(
                    item.spelled,
                    "The argument " + part + " of " + item.spelled +
                        " is not known; start the VM without it."
                );
            }
        }
    }

    void translate_chardev(Item& item) const {
        std::vector<std::string> parts = split_keyval(item.value);
        if (parts.front() == "tty" || parts.front() == "backend=tty") {
            parts.front() = "serial";
        } else if (parts.front() == "parport" || parts.front() == "backend=parport") {
            parts.front() = "parallel";
        }
        if (request_.target < kReconnectMs) {
            for (std::string& part : parts) {
                if (key_of(part) == "reconnect-ms") {
                    part = seconds_from_ms(*value_of(part));
                }
            }
        }
        item.value = join_keyval(parts);
    }

    /// "reconnect=2" from "1500": older releases count in seconds, and 0 means never.
    static std::string seconds_from_ms(std::string_view text) {
        unsigned long ms = 0;
        const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), ms);
        if (error != std::errc{} || stop != text.data() + text.size()) {
            return "reconnect=" + std::string(text);
        }
        return "reconnect=" + std::to_string(ms / 1000 + (ms % 1000 != 0 ? 1 : 0));
    }

    void translate_smp(Item& item) const {
        if (request_.target < kNoZeroTopology) {
            return;
        }
        std::vector<std::string> parts = split_keyval(item.value);
        // qemu: hw/core/machine-smp.c of 7.2 computes a topology member of 0 as if it were not
        // there.
        std::erase_if(parts, [](const std::string& part) { return value_of(part) == "0"; });
        item.value = join_keyval(parts);
    }

    void translate_accel(Item& item) {
        if (request_.target >= kOneInsnPerTb) {
            return;
        }
        std::vector<std::string> parts = split_keyval(item.value);
        const auto is_single_step = [](const std::string& part) {
            return key_of(part) == "one-insn-per-tb";
        };
        for (const std::string& part : parts) {
            single_step_ =
                single_step_ || (is_single_step(part) && !is_off(value_of(part).value_or("on")));
        }
        std::erase_if(parts, is_single_step);
        item.value = join_keyval(parts);
    }

    void translate_device(Item& item) {
        std::vector<std::string> parts = split_keyval(item.value);
        if (request_.target < kNoVirtioBlkScsi ||
            !first_word("device", parts).starts_with("virtio-blk")) {
            return;
        }
        for (const std::string& part : parts) {
            if (key_of(part) == "scsi" && !is_off(value_of(part).value_or("on"))) {
                refuse(
                    item.spelled,
                    "A virtio-blk device has scsi=on, which " + target_name() +
                        " no longer offers; use virtio-scsi for this disk."
                );
            }
        }
        std::erase_if(parts, [](const std::string& part) { return key_of(part) == "scsi"; });
        item.value = join_keyval(parts);
    }

    /// -singlestep of 7.2 is a property of the accelerator in 10.0.
    void add_single_step() {
        if (!single_step_) {
            return;
        }
        if (request_.target < kOneInsnPerTb) {
            items_.push_back(make_item("singlestep", ""));
            return;
        }
        bool has_accel = false;
        for (Item& item : items_) {
            if (!has_option(item, "accel")) {
                continue;
            }
            has_accel = true;
            const std::vector<std::string> parts = split_keyval(item.value);
            const bool is_there =
                std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
                    return key_of(part) == "one-insn-per-tb";
                });
            if (first_word("accel", parts) == "tcg" && !is_there) {
                item.value += ",one-insn-per-tb=on";
            }
        }
        if (!has_accel && !move_machine_accel()) {
            items_.push_back(make_item("accel", "tcg,one-insn-per-tb=on"));
        }
    }

    /// Makes -accel out of -machine accel=a:b, since the two cannot be combined.
    /// @return true if there was one
    bool move_machine_accel() {
        std::string list;
        for (Item& item : items_) {
            if (!is_machine(item)) {
                continue;
            }
            std::vector<std::string> parts = split_keyval(item.value);
            for (const std::string& part : parts) {
                list = key_of(part) == "accel" ? std::string(value_of(part).value_or("")) : list;
            }
            std::erase_if(parts, [](const std::string& part) { return key_of(part) == "accel"; });
            item.value = join_keyval(parts);
        }
        std::erase_if(items_, [](const Item& item) {
            return is_machine(item) && item.value.empty();
        });
        if (list.empty()) {
            return false;
        }
        std::size_t begin = 0;
        while (begin <= list.size()) {
            const std::size_t end = std::min(list.find(':', begin), list.size());
            const std::string accel = list.substr(begin, end - begin);
            items_.push_back(make_item("accel", accel == "tcg" ? "tcg,one-insn-per-tb=on" : accel));
            begin = end + 1;
        }
        return true;
    }

    /// Until 8.2 the first -audiodev was the default of every sound device.
    void name_audio_backend() {
        if (request_.target < kAudiodevMustBeNamed) {
            return;
        }
        std::string first_id;
        const bool has_audio = std::any_of(items_.begin(), items_.end(), [](const Item& item) {
            return has_option(item, "audio");
        });
        for (const Item& item : items_) {
            if (!has_option(item, "audiodev") || is_json(item.value) || !first_id.empty()) {
                continue;
            }
            for (const std::string& part : split_keyval(item.value)) {
                first_id =
                    key_of(part) == "id" ? std::string(value_of(part).value_or("")) : first_id;
            }
        }
        for (Item& item : items_) {
            if (!has_option(item, "device") || is_json(item.value)) {
                continue;
            }
            const std::vector<std::string> parts = split_keyval(item.value);
            const bool is_named =
                std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
                    return key_of(part) == "audiodev";
                });
            const std::string driver = first_word("device", parts);
            if (is_named || (!contains(kSoundDevices, driver) && driver != "usb-audio")) {
                continue;
            }
            if (!first_id.empty()) {
                item.value += ",audiodev=" + first_id;
            } else if (!has_audio) {
                refuse(
                    item.spelled,
                    "The sound device " + driver + " names no audiodev=, and " + target_name() +
                        " may have no default; start the VM with -audiodev none,id=NAME and "
                        "audiodev=NAME."
                );
            }
        }
    }

    /// 7.2 lets virtio-mem use memory that is allocated at once; later it is refused.
    void refuse_preallocated_virtio_mem() {
        if (request_.target < kVirtioMemRefusesPrealloc) {
            return;
        }
        std::vector<std::string> preallocated;
        for (const Item& item : items_) {
            if (!has_option(item, "object") || is_json(item.value)) {
                continue;
            }
            const std::vector<std::string> parts = split_keyval(item.value);
            const std::string prealloc = value_named("prealloc", parts);
            if (first_word("object", parts).starts_with("memory-backend-") && !prealloc.empty() &&
                !is_off(prealloc)) {
                preallocated.push_back(value_named("id", parts));
            }
        }
        for (const Item& item : items_) {
            if (!has_option(item, "device") || is_json(item.value)) {
                continue;
            }
            const std::vector<std::string> parts = split_keyval(item.value);
            const std::string memory = value_named("memdev", parts);
            if (first_word("device", parts).starts_with("virtio-mem") &&
                contains(preallocated, memory)) {
                refuse(
                    item.spelled,
                    "The memory " + memory + " of a virtio-mem device has prealloc=on, which " +
                        target_name() +
                        " refuses; start the VM with prealloc=on for the device instead."
                );
            }
        }
    }

    void make_machine_concrete() {
        bool is_set = false;
        for (Item& item : items_) {
            if (has_option(item, "readconfig")) {
                // The file may name a machine as well, and the last one wins.
                is_set = false;
            }
            if (!is_machine(item)) {
                continue;
            }
            std::vector<std::string> parts = split_keyval(item.value);
            for (std::size_t i = 0; i < parts.size(); ++i) {
                const bool is_implied = i == 0 && !value_of(parts[i]) && !parts[i].empty();
                if (is_implied) {
                    parts[i] = escape_commas(request_.machine);
                    is_set = true;
                } else if (key_of(parts[i]) == "type") {
                    parts[i] = "type=" + escape_commas(request_.machine);
                    is_set = true;
                }
            }
            item.value = join_keyval(parts);
        }
        if (!is_set) {
            items_.push_back(make_item("machine", escape_commas(request_.machine)));
        }
    }

    void check_tail(const Item& item) {
        if (item.option == nullptr) {
            refuse(
                item.spelled,
                release_name() + " adds the word " + item.spelled +
                    " without an option; correct its options."
            );
            return;
        }
        const bool is_bad = contains(kStartOnly, item.option->name) || is_machine(item) ||
                            std::any_of(kRefusals.begin(), kRefusals.end(), [&](const Refusal& r) {
                                return r.option == item.option->name;
                            });
        if (is_bad) {
            refuse(
                item.spelled,
                release_name() + " adds the option " + item.spelled +
                    ", which a hot upgrade must not add; correct its options."
            );
        }
    }

    void check_gaps() {
        for (const Item& item : items_) {
            if (item.option == nullptr) {
                continue;
            }
            if (!is_known_to(*item.option, request_.target)) {
                refuse(
                    item.spelled,
                    "The option " + item.spelled + " does not exist in " + target_name() +
                        " and nothing replaces it; start the VM "
                        "without it."
                );
            }
            if (item.option->has_argument && !is_json(item.value)) {
                check_value_gaps(item);
            }
        }
    }

    void check_value_gaps(const Item& item) {
        const std::string_view name = has_option(item, "M") ? "machine" : item.option->name;
        const std::vector<std::string> parts = split_keyval(item.value);
        for (const Gap& gap : kGaps) {
            const bool is_available = request_.target >= gap.since &&
                                      (!gap.until.is_known() || request_.target < gap.until);
            if (gap.option != name || is_available) {
                continue;
            }
            const bool is_used =
                gap.is_first
                    ? first_word(name, parts) == gap.key
                    : std::any_of(parts.begin(), parts.end(), [&](const std::string& part) {
                          return key_of(part) == gap.key || part == gap.key;
                      });
            if (is_used) {
                refuse(
                    item.spelled,
                    "The option " + item.spelled + " uses " + std::string(gap.key) + ", which " +
                        target_name() +
                        " does not have and nothing replaces; start the VM without "
                        "it."
                );
            }
        }
        const bool has_model = std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
            return key_of(part) == "model";
        });
        if (name == "audio" && !has_model && request_.target < kAudiodevMustBeNamed) {
            refuse(
                item.spelled,
                "The option " + item.spelled + " has no model, which " + target_name() +
                    " needs; start the VM with -audiodev instead."
            );
        }
    }

    void emit() {
        plan_.argv.push_back(request_.program);
        for (Item& item : items_) {
            if (item.option != nullptr && !contains(plan_.options, item.option->name)) {
                plan_.options.push_back(item.option->name);
            }
            plan_.argv.push_back(std::move(item.spelled));
            if (item.option != nullptr && item.option->has_argument) {
                plan_.argv.push_back(std::move(item.value));
            }
        }
    }

    const ArgvRequest& request_;
    ArgvPlan plan_;
    std::vector<Item> items_;
    bool single_step_ = false;
};

} // namespace

std::span<const QemuOption> qemu_options() noexcept {
    return kOptions;
}

const QemuOption* find_qemu_option(std::string_view name) noexcept {
    const auto* const found =
        std::find_if(kOptions.begin(), kOptions.end(), [&](const QemuOption& o) {
            return o.name == name;
        });
    return found == kOptions.end() ? nullptr : found;
}

bool is_known_to(const QemuOption& option, const QemuVersion& version) noexcept {
    return version >= option.since && (!option.until.is_known() || version < option.until);
}

ArgvPlan plan_argv(const ArgvRequest& request) {
    return Planner(request).run();
}

std::string pidfile_of(std::span<const std::string> argv) {
    std::string pidfile;
    for (std::size_t i = 1; i < argv.size(); ++i) {
        if (!argv[i].starts_with('-')) {
            continue;
        }
        const std::size_t dashes = argv[i].starts_with("--") ? 2 : 1;
        const QemuOption* option = find_qemu_option(std::string_view(argv[i]).substr(dashes));
        if (option == nullptr || !option->has_argument || i + 1 == argv.size()) {
            continue;
        }
        ++i;
        pidfile = option->name == "pidfile" ? argv[i] : pidfile;
    }
    return pidfile;
}

} // namespace qhup::upgrade
