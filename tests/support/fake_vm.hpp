// SPDX-License-Identifier: GPL-2.0-or-later
//
// FakeVm plays one VM with the commands of docs/qmp.md: a source process, a target process once
// prepared, and the word that says who owns the guest. It has no socket: FakeQemu (fake_qemu.hpp)
// serves it. It can be told to fail, to be slow, to say nothing and to lie.
#pragma once

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::test {

/// What happens instead of the usual to the commands of one name.
struct Reaction {
    std::string error_code; ///< "stale": refuse with it; the state follows docs/qmp.md
    std::string error_class = "GenericError"; ///< with error_code or alone ("CommandNotFound")
    std::string error_phase = "takeover";     ///< last-error's, with error_code
    std::chrono::milliseconds delay{0};       ///< before anything happens
    std::shared_ptr<std::atomic<bool>> held;  ///< nothing happens before this is false
    bool takes_effect = true;                 ///< false: an answer, but nothing done
    bool is_silent = false;                   ///< never answers (the effect still happens)
    bool hangs_up = false;                    ///< closes the connection instead of answering
    std::optional<nlohmann::json> result;     ///< answers this; a lie
    int times = -1;                           ///< how often; -1 always
};

struct FakeBlocker {
    std::string id;
    std::string blocker_class;
    std::string reason;
};

struct FakeVmOptions {
    std::string name = "vm1";
    std::string uuid = "11111111-2222-3333-4444-555555555555";
    std::string version = "7.2.22";
    std::string package = "Debian 1:7.2+dfsg-7+deb12u18";
    std::string build_id = "aaaa";
    std::string target_version = "10.0.13";
    std::string target_package = "Debian 1:10.0.13+ds-0+deb13u1";
    std::string target_build_id = "bbbb";
    std::string machine = "pc-i440fx-7.2";
    std::vector<std::string> argv{"qemu-system-x86_64", "-machine", "pc-i440fx-7.2", "-m", "512"};
    std::string cwd = "/";
    std::string pidfile;
    std::string run_state = "running";
    std::string shape_digest = "5ea1";
    std::int64_t ram_bytes = 512LL << 20;
    std::int64_t generation = 1;
    std::int64_t pid = 0;        ///< 0: of this process
    std::int64_t target_pid = 0; ///< 0: of this process
    std::int64_t protocol = 1;
    bool enabled = true;
    bool is_patched = true; ///< false: a stock QEMU, without any of the commands
    std::vector<FakeBlocker> blockers;
    nlohmann::json descriptors = nlohmann::json::array(); ///< of query-hot-upgrade
    nlohmann::json shape;                                 ///< likewise; null: none is said

    std::chrono::milliseconds standby_time{2}; ///< from prepare to prepared
    std::string standby_failure;               ///< code: the standby never comes up
    std::chrono::milliseconds switch_time{2};  ///< the pause
    std::chrono::nanoseconds ceded_lease{std::chrono::seconds(30)};
    std::vector<std::string> takeover_degraded;
    std::map<std::string, Reaction> reactions; ///< by command name
};

/// Which server a command came in on.
enum class FakeSide { main, source, target };
[[nodiscard]] const char* to_string(FakeSide side);

class FakeVm {
public:
    /// What FakeVm needs from the world that serves it.
    struct World {
        std::function<void(std::chrono::nanoseconds, std::function<void()>)> after;
        /// Opens a control socket; false if that cannot be done.
        std::function<bool(FakeSide, const std::string& path)> listen;
        /// A process is gone: its control socket and connections close.
        std::function<void(FakeSide)> close;
        /// The process behind `target` is now the one behind `source`.
        std::function<void()> promote_target;
        std::function<void(FakeSide, const nlohmann::json& event)> emit;
    };
    /// What to do with a command; called once, now or later.
    struct Answer {
        std::optional<nlohmann::json> result;
        std::string error_class;
        std::string error_code;
        std::string error_desc;
        bool is_silent = false;
        bool hangs_up = false;
    };
    using OnAnswer = std::function<void(Answer)>;

    FakeVm(FakeVmOptions options, World world);

    /// @param descriptors  names given to getfd on the same connection
    void on_command(
        FakeSide side,
        const std::string& name,
        const nlohmann::json& arguments,
        const std::vector<std::string>& descriptors,
        OnAnswer on_answer
    );

    /// Whether the main monitor is read now (a frozen source is inert).
    [[nodiscard]] bool is_main_read() const;
    [[nodiscard]] nlohmann::json make_greeting(FakeSide side) const;

    /// The target is killed from outside. Before takeover the source rolls back by itself; after it
    /// the source stays parked and says why.
    void kill_target();
    /// The guest powers off on the target, which ends by itself. Only after takeover.
    void power_off_target();
    /// Somebody stops the guest, wherever it runs.
    void pause_guest();
    /// The source is killed from outside. A standby dies with it; a loaded target takes over.
    void kill_source();
    /// The control socket of the process that runs the VM alone closes, as it does after a while.
    void close_control();

    /// Names of the processes that run the guest now: "source", "target", both (a bug) or none.
    [[nodiscard]] std::vector<std::string> running_sides() const;
    [[nodiscard]] std::string state(FakeSide side) const; ///< "" if there is no such process
    /// Version of the process that owns the guest.
    [[nodiscard]] std::string version() const;
    [[nodiscard]] FakeVmOptions& options() { return options_; }

private:
    struct Process {
        std::string role;
        std::string state;
        std::string version;
        std::string package;
        std::string build_id;
        std::int64_t pid = 0;
        std::vector<std::string> argv;
        std::string upgrade;
        bool runs_guest = false;
        std::optional<nlohmann::json> last_error;
        std::optional<nlohmann::json> timings;
        std::optional<std::chrono::steady_clock::time_point> lease_end;
    };

    void handle(
        FakeSide side,
        const std::string& name,
        const nlohmann::json& arguments,
        const std::vector<std::string>& descriptors,
        const OnAnswer& on_answer
    );
    void when_let_go(std::shared_ptr<std::atomic<bool>> held, std::function<void()> react);
    [[nodiscard]] Answer
    prepare(const nlohmann::json& arguments, const std::vector<std::string>& descriptors);
    void run_switch(const nlohmann::json& arguments, const OnAnswer& on_answer);
    void run_step(const std::string& name, const nlohmann::json& arguments, const OnAnswer& answer);
    [[nodiscard]] Answer rollback();
    [[nodiscard]] Answer commit();
    [[nodiscard]] Answer fail_upgrade(const std::string& code, const std::string& phase);
    [[nodiscard]] nlohmann::json describe(const Process& process) const;
    [[nodiscard]] Process& process_of(FakeSide side);
    void on_standby_due(std::uint64_t attempt);
    void end_upgrade(const std::string& code, const std::string& phase);
    void lose_target(const std::string& how);
    void freeze(const nlohmann::json& arguments);
    void take_over();
    void set_state(FakeSide side, const std::string& state);
    void set_lease(std::chrono::nanoseconds lease);
    void on_lease_due(std::uint64_t lease);
    [[nodiscard]] nlohmann::json make_timings() const;
    [[nodiscard]] bool take_fault(const std::string& word);

    FakeVmOptions options_;
    World world_;
    std::optional<Process> source_;
    std::optional<Process> target_;
    std::map<std::string, std::string> faults_; // point -> action
    std::string control_dir_;
    std::uint64_t attempt_ = 0; // counts prepares, so that late timers find nothing
    std::uint64_t lease_ = 0;
    std::int64_t prepared_generation_ = 0;
    std::chrono::steady_clock::time_point frozen_at_; // the last time
};

/// Reads options from JSON text with the field names of FakeVmOptions; unknown fields are errors.
/// Throws std::runtime_error; for the stand-alone program and tests.
[[nodiscard]] FakeVmOptions parse_fake_vm_options(const nlohmann::json& object);

} // namespace qhup::test
