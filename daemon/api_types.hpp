// SPDX-License-Identifier: GPL-2.0-or-later
//
// What goes over the API socket, as structs, and the mapping from and to JSON. Pure.
// The daemon writes these values and qhupd-ctl reads them: one vocabulary for both.
// The members of the JSON objects have the names of the struct fields; docs/api.md explains them.
#pragma once

#include "common/result.hpp"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// A reason why a VM cannot be upgraded now.
struct BlockerView {
    std::string id;     ///< what blocks, as class/name: "chardev/serial0"
    std::string klass;  ///< "class" in JSON: the kind of the reason
    std::string reason; ///< one sentence that says what to do

    bool operator==(const BlockerView&) const = default;
};

/// Somebody wants a VM to be left alone.
struct HoldView {
    std::string vm;                 ///< its name
    std::string reason;             ///< words of who holds it
    std::int64_t since_unix_ms = 0; ///< wall clock
    std::int64_t until_unix_ms = 0; ///< wall clock; 0: until it is taken off
    std::int64_t by_uid = 0;        ///< who holds it

    bool operator==(const HoldView&) const = default;
};

/// A VM needs an operator: its last upgrade left something that a person must look at.
struct AttentionView {
    std::string vm;                 ///< its name
    std::string run;                ///< that left it
    std::string code;               ///< what it was, as in that run
    std::string message;            ///< as in that run, a sentence
    std::string next_step;          ///< where more is said, and when it is over
    std::int64_t since_unix_ms = 0; ///< wall clock

    bool operator==(const AttentionView&) const = default;
};

/// One VM, as it was when it was asked last.
struct VmView {
    std::string name;            ///< unique on this host
    std::string uuid;            ///< "" if the VM has none
    std::int64_t pid = 0;        ///< 0: unknown
    std::string version;         ///< of QEMU; "" while unknown
    std::string package;         ///< QEMU's package version; "" if none
    std::string build_id;        ///< of the running binary; "" if unknown
    std::string machine;         ///< concrete machine type; "" if unknown
    std::string shape_class;     ///< equal for VMs of one kind of machine; "" if unknown
    std::string socket;          ///< the QMP socket that the VM was found by
    std::string state;           ///< QEMU's run state, or "unreachable"
    std::string upgrade_state;   ///< state of the hand-over: none, prepared, …; "" if unknown
    std::uint64_t ram_bytes = 0; ///< 0: unknown
    bool reachable = false;      ///< it answered in time
    bool stale = false;          ///< nobody listens on its socket: what a QEMU that ended has left
    bool upgradable = false;     ///< reachable and nothing blocks
    std::string reason;          ///< why it is unreachable; else ""
    std::string run;             ///< the run that works on it; else ""
    std::uint64_t age_ms = 0;    ///< how long ago this was true
    std::vector<BlockerView> blockers;              ///< all of them, not only the first
    std::optional<HoldView> hold;                   ///< it is held
    std::map<std::string, std::string> labels = {}; ///< what root says that it is for
    std::optional<AttentionView> attention = {};    ///< it needs an operator

    bool operator==(const VmView&) const = default;
};

/// A binary that VMs can be upgraded to, by the name of its drop-in file.
struct ReleaseView {
    std::string name;        ///< what clients call it
    std::string path;        ///< of the binary
    std::string sha256;      ///< hex; "" if the drop-in pins none
    std::string description; ///< for people; "" if none
    std::string build_id;    ///< of the binary; "" if it cannot be used
    bool usable = false;     ///< the binary is there and may be used
    std::string reason;      ///< why it is not usable; else ""
};

/// May this VM go to that release?
struct CheckView {
    std::string vm;                    ///< its name
    std::string from;                  ///< version it runs
    std::string to;                    ///< release asked about
    bool can_upgrade = false;          ///< no blocker was found
    std::string code;                  ///< of the first reason against it; else ""
    std::string message;               ///< that reason as a sentence; else ""
    std::vector<BlockerView> blockers; ///< everything against it
    std::vector<BlockerView> warnings; ///< nothing against it, but good to know
    bool way_known = false; ///< its kind was upgraded or rehearsed between the two binaries before
};

/// One phase of an upgrade that was entered.
struct StepView {
    std::string phase;       ///< of the engine's table, never a terminal one
    std::uint64_t at_ms = 0; ///< when it was entered, from the start of the run
    std::string outcome; ///< how it ended: ok, failed, declined, unknown; "" if nobody saw it end

    bool operator==(const StepView&) const = default;
};

/// What a rehearsal of a VM found.
struct RehearsalView {
    std::string result;  ///< "passed", or "failed": the upgrade would have ended so
    std::string code;    ///< why it failed; else ""
    std::string reason;  ///< the words of the two QEMUs, as what differs; else ""
    std::string section; ///< the part of the device state that was refused; "" if none was named
    std::optional<double> pause_ms;           ///< for which the guest stood still, if it did
    std::optional<double> predicted_pause_ms; ///< of the upgrade, if it is known
};

/// One VM inside a run.
struct RunVmView {
    std::string vm;                 ///< its name
    std::string upgrade;            ///< id of its upgrade: of the control sockets and in QEMU
    std::string phase;              ///< of the engine's table, see docs/api.md
    std::uint64_t since_ms = 0;     ///< when the phase was entered, from the start of the run
    std::string outcome;            ///< "" while it runs; see docs/api.md
    std::string code;               ///< stable code of the failure; else ""
    std::string message;            ///< the failure as a sentence; else ""
    std::string peer_text;          ///< what QEMU or the kernel said; else ""
    std::string next_step;          ///< what to do now; else ""
    std::string from;               ///< version before
    std::string to;                 ///< version after, or the release that was wanted
    std::string from_build_id;      ///< of the binary before; "" if unknown
    std::string to_build_id;        ///< of the release's binary; "" if unknown
    std::uint32_t recoveries = 0;   ///< how often a restarted daemon began to finish it
    std::vector<StepView> steps;    ///< what was done, in order; after a restart it goes on
    std::optional<double> pause_ms; ///< how long the guest stood still, if it was paused
    std::optional<double> total_ms; ///< from the VM's start in the run until its outcome
    std::map<std::string, std::int64_t> timings_ns; ///< each part of the switch, by its QMP name
    std::vector<BlockerView> blockers;              ///< why it was refused
    std::string shape_class;                ///< equal for VMs of one kind of machine; "" if unknown
    std::optional<RehearsalView> rehearsal; ///< if it was rehearsed
    std::uint32_t stage = 0;                ///< of the run, from 1; 0: the run has no stages
    std::string run_state;                  ///< QEMU's run state before the upgrade; "" if unknown
    bool settled = false; ///< it needed an operator, and that is over; see Attention
};

/// The body of POST /v1/runs.
struct RunRequest {
    std::string kind = "upgrade";          ///< or "rehearsal"
    std::vector<std::string> vms;          ///< names; empty exactly if `all`
    bool all = false;                      ///< every VM that the daemon knows
    std::string to;                        ///< release name
    std::optional<std::uint32_t> parallel; ///< 1 to 1024; never more than the daemon's own limit
    std::uint32_t max_failures =
        0;                ///< after so many no further VM is begun; 0: never stop for that
    bool dry_run = false; ///< check only
    std::string rehearse; ///< before upgrades: none, first, all; "": as the daemon's config says
    std::optional<std::uint32_t> pause_budget_ms; ///< longest pause of each; none: as config says
    std::uint32_t canaries = 0;                   ///< so many VMs are upgraded first; 0: none
    std::uint32_t batch = 0;                      ///< then so many at a time; 0: all that are left
    std::uint64_t soak_ms = 0; ///< after each stage the VMs are watched for so long
    std::string request_id; ///< the client's name for this request; the same again is the same run
    std::vector<std::string> allow; ///< codes of refusals that the client overrules

    /// With `all`: of all VMs those that have each of these labels.
    std::map<std::string, std::string> labels = {};

    bool operator==(const RunRequest&) const = default;
};

/// The code of a refusal that whoever asks may overrule: no guest can be harmed by it.
bool is_overrulable(std::string_view code) noexcept;

/// Whether the request overrules that refusal.
bool allows(const RunRequest& request, std::string_view code) noexcept;

/// Where a run in stages stands.
struct StageView {
    std::string name;                    ///< "canaries" or "batch"
    std::uint32_t number = 0;            ///< from 1
    std::uint32_t of = 0;                ///< number of the last one
    std::string state;                   ///< "working" or "soaking"
    std::int64_t soak_until_unix_ms = 0; ///< wall clock; 0 while it is working

    bool operator==(const StageView&) const = default;
};

/// One upgrade of one or more VMs, or what recovery did after a start.
struct RunView {
    std::string id;                    ///< names the run in paths
    std::string kind;                  ///< "upgrade", "rehearsal" or "recovery"
    std::string state;                 ///< "running" or "finished"
    std::string to;                    ///< the release; "" for recovery
    std::uint32_t parallel = 0;        ///< how many VMs were in work at once, at most
    bool dry_run = false;              ///< preflight only, nothing is touched
    std::int64_t started_unix_ms = 0;  ///< wall clock
    std::int64_t finished_unix_ms = 0; ///< wall clock; 0 while it runs
    std::int64_t by_uid = 0;           ///< who asked
    /// Why no further VM is begun: "", abort, failures, shutdown, canaries, soak, release.
    std::string stopped_by;
    std::string stop_reason; ///< more about that, as a sentence without its full stop; "": nothing
    std::optional<StageView> stage;    ///< where it stands; none: it has no stages
    std::optional<RunRequest> request; ///< what was asked; none for recovery
    std::vector<BlockerView> warnings; ///< nothing against it, but good to know; of the whole run
    std::vector<RunVmView> vms;        ///< in the order of work
};

/// One line of the event stream of a run.
struct RunEvent {
    std::uint64_t sequence = 0;          ///< "seq": from 1, without gaps
    std::optional<RunVmView> vm;         ///< this VM changed
    std::optional<StageView> stage = {}; ///< the run has come to this
    std::optional<RunView> run;          ///< the run ended so; always the last event
};

/// An error answer, RFC 9457 with a stable code and the next step.
struct Problem {
    int status = 500;       ///< of HTTP
    std::string code;       ///< stable, lower_snake
    std::string title;      ///< short, the same for each code
    std::string detail;     ///< one sentence about this case
    std::string next_step;  ///< what the reader can do; "" if nothing
    std::string allow = {}; ///< methods that the path takes, for the header; "": not about that
};

/// What GET /v1/version says.
struct VersionView {
    std::string version;  ///< of the daemon
    int api = 1;          ///< number of this API
    std::int64_t pid = 0; ///< of the daemon
    std::string status;   ///< "ready", "recovering" or "stopping"
};

nlohmann::json to_json(const BlockerView& value);
nlohmann::json to_json(const HoldView& value);
nlohmann::json to_json(const AttentionView& value);
nlohmann::json to_json(const VmView& value);
nlohmann::json to_json(const ReleaseView& value);
nlohmann::json to_json(const CheckView& value);
nlohmann::json to_json(const StepView& value);
nlohmann::json to_json(const RehearsalView& value);
nlohmann::json to_json(const RunVmView& value);
nlohmann::json to_json(const StageView& value);
nlohmann::json to_json(const RunView& value);
nlohmann::json to_json(const RunEvent& value);
nlohmann::json to_json(const RunRequest& value);
nlohmann::json to_json(const Problem& value);
nlohmann::json to_json(const VersionView& value);

/// {"vms": […]}, {"releases": […]}, {"runs": […]}
nlohmann::json to_json(const std::vector<VmView>& value);
nlohmann::json to_json(const std::vector<ReleaseView>& value);
nlohmann::json to_json(const std::vector<RunView>& value);

/// One line of text without a line break. Invalid UTF-8 is replaced, so that nothing that a QEMU
/// said can make this fail.
std::string format_json(const nlohmann::json& value);

/// The same with line breaks, for people.
std::string format_json_pretty(const nlohmann::json& value);

/// What a daemon answered. Members that are missing or of another type keep their default: a newer
/// daemon may say more, and an older one less.
HoldView hold_from_json(const nlohmann::json& value);
AttentionView attention_from_json(const nlohmann::json& value);
VmView vm_from_json(const nlohmann::json& value);
ReleaseView release_from_json(const nlohmann::json& value);
CheckView check_from_json(const nlohmann::json& value);
RunVmView run_vm_from_json(const nlohmann::json& value);
RunRequest run_request_from_json(const nlohmann::json& value);
RunView run_from_json(const nlohmann::json& value);
RunEvent run_event_from_json(const nlohmann::json& value);
Problem problem_from_json(const nlohmann::json& value);
VersionView version_from_json(const nlohmann::json& value);

/// The text as JSON.
///
/// Errors: the text is no JSON, is too deep, or is larger than the server's limit
Result<nlohmann::json> parse_json(std::string_view text);

/// The body of POST /v1/runs. Strict: an unknown member, a wrong type or an empty selection is an
/// error whose message names the member, so that a misspelt "dry_run" never upgrades anything.
Result<RunRequest> parse_run_request(std::string_view body);

/// The body of PUT /v1/vms/NAME/hold: reason and until_unix_ms of a hold. As strict.
Result<HoldView> parse_hold_request(std::string_view body);

/// Is this text usable as a name of a VM, a release or a run: 1 to 128 printable ASCII characters,
/// no slash, not starting with a dot or a minus.
bool is_valid_name(std::string_view name) noexcept;

} // namespace qhup::daemon
