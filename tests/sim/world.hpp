// SPDX-License-Identifier: GPL-2.0-or-later
//
// The world around the engine: the two QEMU processes of one VM with their words of ownership, as
// in tests/model/ownership.pml but with time, the kernel under them, the disk of the journal, and
// what goes wrong. It knows no coroutine. What may happen next is a menu, and whoever runs it
// picks.
#pragma once

#include "tests/sim/random.hpp"
#include "tests/sim/virtual_time.hpp"
#include "upgrade-engine/phase.hpp"
#include "upgrade-engine/vm_port.hpp"

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::sim {

using namespace upgrade;
using upgrade::Errc; // why: there is one in qhup, too
using Presence = Observation::Presence;

inline constexpr Time kNever = Time::max();

/// What goes wrong.
enum class Fault : std::uint8_t {
    kill_source,       ///< SIGKILL
    kill_target,       ///< likewise
    stop_source,       ///< SIGSTOP, and SIGCONT some time later
    stop_target,       ///< likewise
    hang_target,       ///< it hangs in the kernel: executes nothing and cannot be killed
    slow_source,       ///< does nothing for some time
    slow_target,       ///< likewise
    qemu_fails,        ///< a step of the pair fails, with one of QEMU's codes
    power_off,         ///< the guest powers off on the target, which ends
    lose_request,      ///< the connection closes before the request was read
    lose_answer,       ///< the request takes effect, and its answer does not come
    refuse_connection, ///< the daemon cannot connect
    garble,            ///< the answer is no answer
    foreign_upgrade,   ///< somebody else upgrades this VM
    journal_fails,     ///< a write of the journal fails
    journal_stalls,    ///< the disk of the journal does nothing for some time
    kill_daemon,       ///< SIGKILL, and a new start some time later
    stop_run,          ///< the run is aborted
};
inline constexpr std::size_t kFaults = 18;
[[nodiscard]] std::string_view to_string(Fault fault) noexcept;

/// A step that somebody may do now.
enum class Act : std::uint8_t {
    source_serves,
    source_hears_standby,
    source_switches,
    source_lease,
    source_sees_child,
    source_undoes,
    source_closes,
    target_serves,
    target_goes_on,
    target_closes,
    kernel_ends_source,
    kernel_ends_target,
    source_continues,
    target_continues,
    journal_writes,
};
inline constexpr std::size_t kActs = 15;
[[nodiscard]] std::string_view to_string(Act act) noexcept;

enum class Command : std::uint8_t {
    look,
    prepare,
    renew,
    switch_over,
    freeze,
    load,
    commit,
    rollback
};

/// Which server of QEMU is asked.
enum class Server : std::uint8_t { main, source, target };

/// A question to a QEMU process, and its answer.
struct Call {
    Command command = Command::look;
    std::chrono::nanoseconds lease{}; ///< of prepare and renew
    SwitchLimits limits{};            ///< of switch_over and freeze
    bool is_answered = false;
    Observation view{};               ///< of a look
    std::optional<Failure> failure{}; ///< of a command
    std::function<void()> wake{};     ///< called when it is answered; none: nobody waits any more
};
using CallPtr = std::shared_ptr<Call>;

/// What the journal knows of the upgrade.
struct Record {
    Phase phase = Phase::queued;
    std::optional<Phase> outcome;
    std::string code;
    std::uint32_t recoveries = 0;
};

/// A row on its way to the disk.
struct Write {
    Record record;
    bool is_kept = true;                         ///< tried again until it is written
    std::function<void(bool is_written)> told{}; ///< may be empty
};

/// What differs from run to run.
struct Profile {
    std::array<bool, kFaults> faults{}; ///< those that may happen
    std::uint32_t budget = 0;           ///< how many of them
    std::uint32_t period = 20;          ///< one in so many steps
};

/// Rules that are broken on purpose, to see that the simulation finds it.
enum class Break : std::uint8_t {
    nothing,
    source_runs_before_the_word, ///< a rollback lets the guest run before the target has lost
    source_ignores_ran,          ///< takes a guest back that has run on the target
};

class World {
public:
    World(Random& random, Profile profile, Break broken);

    // -- what the daemon does -------------------------------------------------------------------

    /// Sends a request. The answer comes later, or at once.
    void submit(Server server, const CallPtr& call);
    /// Nobody listens on that socket.
    [[nodiscard]] bool is_nobody_there(Server server) const;
    /// A name of a control socket is there, whether somebody listens or not.
    [[nodiscard]] bool has_control_names() const { return source_.has_name || target_.has_name; }
    void remove_control_names();
    void write(Write write);
    [[nodiscard]] const Record& journal() const { return durable_; }
    /// The connections to the control sockets are closed.
    void disconnect();
    /// Nobody waits for any answer any more; what was sent takes effect all the same.
    void on_daemon_gone();

    // -- what the world does --------------------------------------------------------------------

    struct Menu {
        std::array<Act, kActs> acts{};
        std::size_t size = 0;
        void add(Act act) { acts[size++] = act; }
    };
    /// What may happen now.
    [[nodiscard]] Menu menu() const;
    /// When something may happen that may not now.
    [[nodiscard]] Time next_due() const;
    void act(Act act);
    /// True if it is due now and could be done. Faults of the daemon are the caller's business.
    bool disturb(Fault fault);
    /// Takes one from the budget, with the profile's odds.
    bool strikes(Fault fault, std::uint32_t odds);
    [[nodiscard]] bool has_budget() const { return profile_.budget > 0; }
    [[nodiscard]] const Profile& profile() const { return profile_; }
    void spend() { --profile_.budget; }
    /// No more faults: who was stopped goes on, what hung ends.
    void calm_down();

    // -- the truth ------------------------------------------------------------------------------

    [[nodiscard]] bool source_runs() const { return is_running(source_); }
    [[nodiscard]] bool target_runs() const { return is_running(target_); }
    [[nodiscard]] bool source_is_there() const { return source_.is_alive; }
    [[nodiscard]] bool target_is_there() const { return target_.is_alive; }
    /// The source has no upgrade in progress, or nothing of it but a child that hangs.
    [[nodiscard]] bool source_has_settled() const;
    [[nodiscard]] bool target_ever_ran() const { return target_ever_ran_; }
    [[nodiscard]] bool was_paused() const { return was_paused_; }
    /// The guest ended with the process that had it.
    [[nodiscard]] bool guest_was_ended() const { return guest_was_ended_; }
    /// A process was killed, stopped or ended after the daemon had looked at it last.
    [[nodiscard]] bool changed_since_look() const { return last_blow_ > last_look_; }
    [[nodiscard]] Time longest_pause() const { return longest_pause_; }
    [[nodiscard]] bool pause_was_disturbed() const { return pause_was_disturbed_; }
    [[nodiscard]] const std::string& broken_rule() const { return broken_rule_; }
    [[nodiscard]] std::uint32_t faults_done() const { return faults_done_; }
    [[nodiscard]] std::string describe() const;
    void note_fault(Fault fault);

    /// What the VM is before the upgrade.
    VmFacts source_facts;
    VmFacts target_facts;
    bool is_foreign = false; ///< another upgrade of the VM is in progress
    std::array<std::uint64_t, kFaults>* fault_hits = nullptr;

private:
    enum class Sub : std::uint8_t { idle, flushing, stopped, drained, saved, sent };
    enum class Undo : std::uint8_t { none, word, kill, reap, reset };
    enum class Step : std::uint8_t {
        starting,
        standby,
        loading,
        loaded,
        activate,
        word,
        ran,
        start,
        running
    };
    enum class Owner : std::uint8_t { source, rolling_back, target };
    enum class Ran : std::uint8_t { no, yes, revoked };

    struct Request {
        Command command;
        CallPtr call;
        bool is_answer_lost = false;
        bool is_garbled = false;
    };
    struct Process {
        bool is_alive = false;
        bool is_killed = false; ///< executes nothing any more
        bool is_stopped = false;
        Time hangs_until{0}; ///< in the kernel
        Time busy_until{0};
        Time goes_on_at{0}; ///< when it was stopped
        bool vcpus = false;
        bool listens = false;  ///< on its control socket
        bool has_name = false; ///< of that socket
        bool is_connected = false;
        Time closes_at = kNever;
        std::deque<Request> inbox;
    };
    struct Source : Process {
        PairState state = PairState::none;
        Sub sub = Sub::idle;
        Undo undo = Undo::none;
        bool is_one_by_one = false;
        Time lease_ends = kNever;
        Time stopped_at{0};
        Time killed_at{0};
        std::string upgrade;
        std::optional<LastError> last_error;
        std::optional<LastError> why_undone;
        std::optional<SwitchTimings> timings;
        bool has_told_end = false;
        CallPtr switching, freezing, loading, undoing;
        std::chrono::nanoseconds lease{}, frozen_lease{}, budget{};
    };
    struct Target : Process {
        Step step = Step::starting;
        Time ready_at{0};
        bool has_said_standby = false;
        bool has_said_loaded = false;
        bool has_said_running = false;
        Errc why = Errc::target_died;
        bool is_spawned = false;
        std::optional<int> exit_status;
    };

    static bool is_running(const Process& process) {
        return process.is_alive && !process.is_killed && process.vcpus;
    }
    [[nodiscard]] static bool can_act(const Process& process);
    [[nodiscard]] bool serves(const Process& process) const;
    [[nodiscard]] bool may_switch() const;
    [[nodiscard]] bool may_undo() const;
    [[nodiscard]] bool may_go_on() const;
    [[nodiscard]] bool sees_child_gone() const;
    void serve(Process& process, bool is_source);
    [[nodiscard]] VmFacts describe_source() const;
    [[nodiscard]] VmFacts describe_target() const;
    void answer(const CallPtr& call, std::optional<Failure> failure);
    void answer_look(const CallPtr& call, Observation view);
    void obey(const Request& request);
    void prepare();
    void switch_one_step();
    void set_lease(std::chrono::nanoseconds time);
    void on_lease();
    void on_child_gone();
    void begin_undo(Errc code, const char* phase);
    void undo_one_step();
    void take_back();
    void cede();
    void target_step();
    void end_target(Errc why);
    void end_process(Process& process, bool closes_name);
    void fail_open_calls(Process& process);
    void end_pause();
    void check();
    [[nodiscard]] const char* phase_now() const;

    Random& random_;
    Profile profile_;
    Break broken_;
    Source source_;
    Target target_;
    Owner owner_ = Owner::source;
    Ran ran_ = Ran::no;
    bool is_sealed_ = false;
    bool is_load_sent_ = false;

    Record durable_;
    std::deque<Write> writes_;
    Time disk_busy_until_{0};

    bool target_ever_ran_ = false;
    bool was_paused_ = false;
    bool guest_was_ended_ = false;
    std::uint64_t clock_ = 0; ///< counts looks and blows
    std::uint64_t last_look_ = 0;
    std::uint64_t last_blow_ = 0;
    std::optional<Time> paused_at_;
    Time longest_pause_{0};
    bool pause_was_disturbed_ = false;
    std::string broken_rule_;
    std::uint32_t faults_done_ = 0;
    bool is_calm_ = false;
};

} // namespace qhup::sim
