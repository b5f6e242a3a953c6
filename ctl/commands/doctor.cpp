// SPDX-License-Identifier: GPL-2.0-or-later
//
// doctor: looks for what keeps VMs of this host from being upgraded, and says how to mend it.
// It only looks.
#include "common/unique_fd.hpp"
#include "common/version.hpp"
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>

namespace qhup::ctl {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLeastStateBytes = 64U << 20U;

class Doctor {
public:
    Doctor(Client& client, const Options& options) : client_(client), options_(options) {}

    void look() {
        look_at_daemon_program();
        look_at_systemd();
        look_at_daemon();
        look_at_group();
        look_at_folders();
        look_at_kernel();
        if (is_daemon_there_) {
            look_at_releases();
            look_at_vms();
        }
    }

    const std::vector<Finding>& findings() const { return findings_; }
    bool has_bad_configuration() const { return has_bad_configuration_; }
    bool is_daemon_there() const { return is_daemon_there_; }

private:
    void good(std::string name, std::string text) {
        findings_.push_back({std::move(name), "ok", std::move(text), ""});
    }
    void warn(std::string name, std::string text, std::string next_step) {
        findings_.push_back({std::move(name), "warn", std::move(text), std::move(next_step)});
    }
    void fail(std::string name, std::string text, std::string next_step) {
        findings_.push_back({std::move(name), "fail", std::move(text), std::move(next_step)});
    }

    void look_at_daemon_program() {
        const auto checked = ask_daemon_program(options_, "--check-config");
        if (checked.has_error()) {
            warn(
                "program",
                "the program qhupd is not beside this one, nor in /usr/sbin",
                "Install qhupd on the host whose VMs shall be upgraded"
            );
            return;
        }
        if (checked->status != 0) {
            has_bad_configuration_ = true;
            fail(
                "configuration",
                first_line(checked->err.empty() ? checked->out : checked->err),
                "Mend it; 'qhupd --check-config' says everything that is wrong"
            );
        } else {
            good("configuration", "'qhupd --check-config' finds nothing wrong");
        }
        const auto printed = ask_daemon_program(options_, "--print-config");
        if (printed.has_value() && printed->status == 0) {
            config_ = parse_printed_config(printed->out);
        }
        const std::string socket = value_of("api", "socket");
        const bool is_of_another = !socket.empty() && socket != options_.socket &&
                                   value_of("api", "read_socket") != options_.socket;
        if (is_of_another) {
            warn(
                "configuration",
                "it is that of a qhupd on " + socket + ", and " + options_.socket + " was asked",
                "Name the file of the one that was asked with --config"
            );
        }
    }

    void look_at_systemd() {
        if (::access("/run/systemd/system", F_OK) != 0) {
            warn(
                "systemd",
                "this host was not started by systemd, so nobody says which unit a VM belongs to",
                "Start qhupd and restart it yourself; VMs in no unit can be upgraded"
            );
            return;
        }
        const auto asked = run_program({"systemctl", "is-active", "qhupd.service"});
        const std::string said = asked.has_value() ? first_line(asked->out) : "";
        if (said == "active") {
            good("systemd", "qhupd.service is active");
        } else {
            warn(
                "systemd",
                "qhupd.service is " + (said.empty() ? std::string("unknown to systemd") : said),
                "systemctl enable --now qhupd"
            );
        }
    }

    void look_at_daemon() {
        const auto reply = client_.request("GET", "/v1/version");
        if (reply.has_error()) {
            const bool is_forbidden = reply.error().code == make_error_code(Errc::not_permitted);
            fail(
                "daemon",
                reply.error().message,
                is_forbidden
                    ? "adduser USER " + or_word(value_of("api", "group"), "root")
                    : "Start it: systemctl start qhupd; 'journalctl -u qhupd' says why it ended"
            );
            return;
        }
        const auto body = json_of(*reply);
        if (body.has_error()) {
            fail("daemon", body.error().message, "Name its socket with --socket");
            return;
        }
        is_daemon_there_ = true;
        const daemon::VersionView version = daemon::version_from_json(*body);
        if (version.version != kVersion) {
            warn(
                "daemon",
                "qhupd " + version.version + " runs, and this is qhupd-ctl " +
                    std::string(kVersion),
                "systemctl restart qhupd; that touches no guest"
            );
        } else {
            good("daemon", "qhupd " + version.version + " answers and is " + version.status);
        }
    }

    void look_at_group() {
        const std::string name = value_of("api", "group");
        if (name.empty()) {
            return;
        }
        if (::getgrnam(name.c_str()) == nullptr) {
            fail("group", "there is no group " + name, "systemd-sysusers, or groupadd -r " + name);
        } else {
            good("group", "members of " + name + " may act");
        }
    }

    void look_at_folders() {
        look_at_control_dir(value_of("", "control_dir"));
        look_at_state_dir(value_of("", "state_dir"));
    }

    void look_at_control_dir(const std::string& path) {
        struct stat info {};
        struct statfs system {};
        if (path.empty()) {
            return;
        }
        if (::stat(path.c_str(), &info) != 0 || ::statfs(path.c_str(), &system) != 0) {
            warn(
                "control_dir",
                "the folder " + path + " of control_dir is not there; qhupd makes it",
                "systemd-tmpfiles --create, or start qhupd"
            );
        } else if ((info.st_mode & S_IWOTH) != 0) {
            fail("control_dir", "anybody may write into " + path, "chmod o-w " + path);
        } else if (system.f_type != TMPFS_MAGIC) {
            warn(
                "control_dir",
                path +
                    " is not on a tmpfs; if what it is on is emptied or hangs, the daemon cannot "
                    "find its pairs",
                path.starts_with("/run/")
                    ? "Mount a tmpfs there, or name a folder of /run that is on one"
                    : "Let control_dir name a folder below /run"
            );
        } else {
            good("control_dir", path + " is there, on a tmpfs");
        }
    }

    void look_at_state_dir(const std::string& path) {
        struct statvfs system {};
        if (path.empty()) {
            return;
        }
        if (::statvfs(path.c_str(), &system) != 0) {
            warn(
                "state_dir",
                "the folder " + path + " of state_dir is not there; qhupd makes it",
                "Start qhupd"
            );
            return;
        }
        const std::uint64_t left = std::uint64_t{system.f_bavail} * system.f_frsize;
        if ((system.f_flag & ST_RDONLY) != 0) {
            fail("state_dir", path + " cannot be written", "Mount it for writing: no run is begun");
        } else if (left < kLeastStateBytes) {
            fail(
                "state_dir",
                path + " has " + std::to_string(left >> 20U) + " MiB left",
                "Make room: without it no run is begun"
            );
        } else if ((system.f_flag & ST_NOEXEC) != 0) {
            warn(
                "state_dir",
                path + " is mounted noexec, so no binary is kept and no VM can be reverted",
                "Mount it with exec, or name another state_dir"
            );
        } else {
            good("state_dir", path + " has " + std::to_string(left >> 20U) + " MiB left");
        }
    }

    void look_at_kernel() {
        const UniqueFd memory(::memfd_create("qhup-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        if (memory) {
            good("memfd", "the kernel makes memfds that can be sealed");
        } else {
            fail(
                "memfd", "the kernel makes no memfd", "RAM cannot cross without; use another kernel"
            );
        }
        look_at_huge_pages();
        struct statfs groups {};
        if (::statfs("/sys/fs/cgroup", &groups) == 0 && groups.f_type == CGROUP2_SUPER_MAGIC) {
            good("cgroup", "control groups are of version 2");
        } else {
            warn(
                "cgroup",
                "/sys/fs/cgroup is not of version 2, so limits of VMs are not seen before an "
                "upgrade",
                "Boot with systemd.unified_cgroup_hierarchy=1"
            );
        }
        if (::access("/dev/kvm", F_OK) == 0) {
            good("kvm", "/dev/kvm is there");
        } else {
            warn(
                "kvm",
                "there is no /dev/kvm: guests are emulated, and each upgrade translates their code "
                "again",
                "Load kvm_intel or kvm_amd, if the host's processor has it"
            );
        }
    }

    void look_at_huge_pages() {
        const std::uint64_t total = memory_line("HugePages_Total");
        const std::uint64_t left = memory_line("HugePages_Free");
        if (total > 0) {
            good(
                "huge pages",
                std::to_string(left) + " of " + std::to_string(total) +
                    " are free; RAM in them is shared by both processes, an upgrade needs no more"
            );
        }
        const std::uint64_t available = memory_line("MemAvailable") >> 10U;
        const std::string reserve = value_of("", "memory_reserve_mib");
        const std::uint64_t wanted =
            reserve.empty() || reserve.size() > 6 ||
                    !std::all_of(
                        reserve.begin(), reserve.end(), [](char c) { return c >= '0' && c <= '9'; }
                    )
                ? 256
                : std::strtoull(reserve.c_str(), nullptr, 10);
        if (available < wanted) {
            warn(
                "memory",
                std::to_string(available) + " MiB are available, less than memory_reserve_mib (" +
                    std::to_string(wanted) + ")",
                "Free some; VMs wait for room for a second process"
            );
        } else {
            good("memory", std::to_string(available) + " MiB are available");
        }
    }

    void look_at_releases() {
        const std::vector<json> list = list_in(ask_for("/v1/releases"), "releases");
        if (list.empty()) {
            warn(
                "releases",
                "there is no release to upgrade to",
                "Put NAME.toml with path = \"/path/to/qemu-system-x86_64\" into "
                "/etc/qhupd/releases.d"
            );
            return;
        }
        for (const json& one : list) {
            const daemon::ReleaseView release = daemon::release_from_json(one);
            if (release.usable) {
                good("release " + release.name, release.path + " can be used");
            } else {
                // why: a file that cannot be read names no binary, and its reason names the file.
                fail(
                    "release " + release.name,
                    release.reason,
                    "Mend it as that says; 'qhupd-ctl releases' says when it is usable"
                );
            }
        }
    }

    void look_at_attention(const daemon::AttentionView& attention) {
        fail(
            "VM " + attention.vm,
            "its last upgrade needs an operator (" + attention.code + "): " + attention.message,
            attention.next_step
        );
    }

    void look_at_vms() {
        const json document = ask_for("/v1/vms");
        for (const json& one : list_in(document, "gone")) {
            look_at_attention(daemon::attention_from_json(one));
        }
        const std::vector<json> list = list_in(document, "vms");
        if (list.empty()) {
            warn(
                "VMs",
                "no VM was found",
                "[discovery] qmp must name their QMP sockets; 'qhupd-ctl config show --origin'"
            );
            return;
        }
        std::size_t healthy = 0;
        for (const json& one : list) {
            const daemon::VmView vm = daemon::vm_from_json(one);
            healthy += look_at_vm(vm) ? 1 : 0;
        }
        if (healthy > 0) {
            good(
                "VMs",
                std::to_string(healthy) + " of " + std::to_string(list.size()) + " have no blocker"
            );
        }
    }

    /// What the daemon says; an empty object if it does not answer with one.
    json ask_for(std::string_view target) const {
        const auto reply = client_.request("GET", target);
        const auto body = reply.has_value() ? json_of(*reply) : Result<json>(json::object());
        return body.has_value() ? *body : json::object();
    }

    /// The elements of a list; none if there is no such list.
    static std::vector<json> list_in(const json& document, const char* key) {
        const auto list = document.find(key);
        return list != document.end() && list->is_array() ? list->get<std::vector<json>>()
                                                          : std::vector<json>();
    }

    bool look_at_vm(const daemon::VmView& vm) {
        if (vm.attention) {
            look_at_attention(*vm.attention);
        }
        if (!vm.reachable) {
            warn("VM " + vm.name, vm.reason, "qhupd-ctl show " + vm.name);
            return false;
        }
        for (const daemon::BlockerView& blocker : vm.blockers) {
            warn(
                "VM " + vm.name,
                blocker.id + ": " + blocker.reason,
                "qhupd-ctl explain " + blocker.klass
            );
        }
        return vm.blockers.empty();
    }

    static std::string first_line(const std::string& text) {
        return text.substr(0, text.find('\n'));
    }
    static std::string or_word(std::string value, const char* otherwise) {
        return value.empty() ? std::string(otherwise) : value;
    }

    static std::uint64_t memory_line(std::string_view name) {
        std::ifstream file("/proc/meminfo");
        std::string word;
        std::uint64_t number = 0;
        while (file >> word >> number) {
            if (word == std::string(name) + ":") {
                return number;
            }
            file.ignore(64, '\n');
        }
        return 0;
    }

    /// A value of the configuration without its quotes; "" if it is not known.
    std::string value_of(std::string_view section, std::string_view key) const {
        for (const ConfigLine& line : config_) {
            if (line.section == section && line.key == key) {
                const auto value = daemon::parse_json(line.value);
                return value.has_value() && value->is_string() ? value->get<std::string>()
                                                               : line.value;
            }
        }
        return {};
    }

    Client& client_;
    const Options& options_;
    std::vector<ConfigLine> config_;
    std::vector<Finding> findings_;
    bool has_bad_configuration_ = false;
    bool is_daemon_there_ = false;
};

} // namespace

ExitStatus run_doctor(Client& client, const Options& options) {
    if (!options.json) {
        tell("Looking at this host, changing nothing …\n");
    }
    Doctor doctor(client, options);
    doctor.look();
    json list = json::array();
    bool has_failed = false;
    for (const Finding& finding : doctor.findings()) {
        has_failed = has_failed || finding.level == "fail";
        list.push_back(
            {{"name", finding.name},
             {"level", finding.level},
             {"text", finding.text},
             {"next_step", finding.next_step}}
        );
    }
    print_document(options, {{"findings", list}}, [&] {
        return render_findings(doctor.findings(), output_style(options));
    });
    if (doctor.has_bad_configuration()) {
        return ExitStatus::bad_configuration;
    }
    if (!doctor.is_daemon_there()) {
        return ExitStatus::unreachable;
    }
    return has_failed ? ExitStatus::failure : ExitStatus::ok;
}

} // namespace qhup::ctl
