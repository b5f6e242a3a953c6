// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/fake_vm.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <stdexcept>

namespace qhup::test {
namespace {

using nlohmann::json;
using Answer = FakeVm::Answer;

Answer done(json result = json::object()) {
    Answer answer;
    answer.result = std::move(result);
    return answer;
}

Answer refuse(const std::string& code, const std::string& desc) {
    Answer answer;
    answer.error_class = "GenericError";
    answer.error_code = code;
    answer.error_desc = desc;
    return answer;
}

Answer refuse_unknown(const std::string& name) {
    Answer answer;
    answer.error_class = "CommandNotFound";
    answer.error_desc = "The command " + name + " has not been found";
    return answer;
}

std::chrono::nanoseconds to_duration(const json& arguments, const char* key, std::int64_t other) {
    if (arguments.is_object() && arguments.contains(key)) {
        return std::chrono::nanoseconds(arguments.at(key).get<std::int64_t>());
    }
    return std::chrono::nanoseconds(other);
}

/// "state after" of docs/qmp.md for an upgrade that fails with this code.
bool keeps_prepared(const std::string& code) {
    return code == "retry" || code == "drain-timeout";
}

json make_error(const std::string& code, const std::string& phase, const std::string& words) {
    return {{"code", code}, {"phase", phase}, {"message", "ended: " + code}, {"stderr", words}};
}

bool is_unchanging(const std::string& code) {
    return code.empty() || code == "wrong-state" || code == "bad-argument" || code == "blocked";
}

std::int64_t pid_or_own(std::int64_t pid) {
    return pid != 0 ? pid : ::getpid();
}

} // namespace

const char* to_string(FakeSide side) {
    switch (side) {
    case FakeSide::main: return "main";
    case FakeSide::source: return "source";
    case FakeSide::target: return "target";
    }
    return "?";
}

FakeVm::FakeVm(FakeVmOptions options, World world)
    : options_(std::move(options)), world_(std::move(world)) {
    Process source;
    source.role = "source";
    source.state = "none";
    source.version = options_.version;
    source.package = options_.package;
    source.build_id = options_.build_id;
    source.pid = pid_or_own(options_.pid);
    source.argv = options_.argv;
    source.runs_guest = options_.run_state == "running";
    source_ = std::move(source);
}

FakeVm::Process& FakeVm::process_of(FakeSide side) {
    // The main monitor belongs to whoever owns the guest.
    const bool is_ceded = !source_.has_value() || source_->state == "ceded";
    const bool is_target = side == FakeSide::target || (side == FakeSide::main && is_ceded);
    std::optional<Process>& process = is_target ? target_ : source_;
    if (!process.has_value()) {
        throw std::logic_error("a process that is gone was asked");
    }
    return *process;
}

bool FakeVm::is_main_read() const {
    return !source_.has_value() || source_->state != "frozen";
}

json FakeVm::make_greeting(FakeSide side) const {
    const std::string& version =
        side == FakeSide::target ? options_.target_version : options_.version;
    int major = 0;
    int minor = 0;
    int micro = 0;
    (void)std::sscanf(version.c_str(), "%d.%d.%d", &major, &minor, &micro);
    json hello = {
        {"version",
         {{"qemu", {{"major", major}, {"minor", minor}, {"micro", micro}}},
          {"package", options_.package}}},
        {"capabilities", json::array()},
    };
    if (side != FakeSide::main) {
        hello["hot-upgrade"] = {{"protocol", options_.protocol}, {"role", to_string(side)}};
    } else {
        hello["capabilities"].push_back("oob");
    }
    return {{"QMP", hello}};
}

void FakeVm::on_command(
    FakeSide side,
    const std::string& name,
    const json& arguments,
    const std::vector<std::string>& descriptors,
    OnAnswer on_answer
) {
    const auto found = options_.reactions.find(name);
    if (found == options_.reactions.end() || found->second.times == 0) {
        handle(side, name, arguments, descriptors, on_answer);
        return;
    }
    found->second.times -= found->second.times > 0 ? 1 : 0;
    const Reaction reaction = found->second;
    auto react = [=, this] {
        const auto twist = [reaction, on_answer](Answer answer) {
            answer.is_silent = reaction.is_silent;
            answer.hangs_up = reaction.hangs_up;
            if (reaction.result.has_value()) {
                answer = done(*reaction.result);
            }
            on_answer(std::move(answer));
        };
        if (!reaction.error_code.empty() || reaction.error_class != "GenericError") {
            const bool touches = name.rfind("hot-upgrade-", 0) == 0 && reaction.takes_effect;
            Answer answer = touches && !is_unchanging(reaction.error_code)
                                ? fail_upgrade(reaction.error_code, reaction.error_phase)
                                : refuse(reaction.error_code, "told to refuse " + name);
            answer.error_class = reaction.error_class;
            twist(std::move(answer));
        } else if (!reaction.takes_effect) {
            twist(done());
        } else {
            handle(side, name, arguments, descriptors, twist);
        }
    };
    if (reaction.held) {
        when_let_go(reaction.held, std::move(react));
    } else if (reaction.delay.count() > 0) {
        world_.after(reaction.delay, std::move(react));
    } else {
        react();
    }
}

void FakeVm::when_let_go(std::shared_ptr<std::atomic<bool>> held, std::function<void()> react) {
    if (!*held) {
        react();
        return;
    }
    world_.after(std::chrono::milliseconds(2), [this, held, react = std::move(react)]() mutable {
        when_let_go(held, std::move(react));
    });
}

void FakeVm::handle(
    FakeSide side,
    const std::string& name,
    const json& arguments,
    const std::vector<std::string>& descriptors,
    const OnAnswer& on_answer
) {
    const bool is_main = side == FakeSide::main;
    const bool is_hot_upgrade = name.find("hot-upgrade") != std::string::npos;
    static const std::set<std::string> on_main{
        "query-hot-upgrade",
        "hot-upgrade-prepare",
        "hot-upgrade-rollback",
        "x-hot-upgrade-fault",
        "query-hot-upgrade-faults"};
    if (is_hot_upgrade && (!options_.is_patched || (is_main && on_main.count(name) == 0))) {
        on_answer(refuse_unknown(name));
        return;
    }
    if (name == "qmp_capabilities" || name == "getfd" || name == "closefd") {
        on_answer(done());
    } else if (name == "query-hot-upgrade") {
        on_answer(done(describe(process_of(side))));
    } else if (name == "query-status") {
        const Process& process = process_of(side);
        const std::string status = process.runs_guest                ? "running"
                                   : options_.run_state == "running" ? "paused"
                                                                     : options_.run_state;
        on_answer(done({{"status", status}, {"running", process.runs_guest}}));
    } else if (name == "query-version") {
        on_answer(done(make_greeting(FakeSide::main)["QMP"]["version"]));
    } else if (name == "query-name") {
        on_answer(done({{"name", options_.name}}));
    } else if (name == "query-uuid") {
        on_answer(done({{"UUID", options_.uuid}}));
    } else if (name == "query-hot-upgrade-faults") {
        on_answer(done(
            {"source.freeze.begin",
             "source.freeze.end",
             "source.save.begin",
             "target.load.begin",
             "target.takeover.begin",
             "source.commit.begin"}
        ));
    } else if (name == "x-hot-upgrade-fault") {
        faults_[arguments.at("point").get<std::string>()] =
            arguments.at("action").get<std::string>();
        on_answer(done());
    } else if (name == "hot-upgrade-prepare") {
        on_answer(prepare(arguments, descriptors));
    } else if (name == "hot-upgrade-rollback") {
        on_answer(rollback());
    } else if (name == "hot-upgrade-renew") {
        const bool is_ok = source_->state == "preparing" || source_->state == "prepared";
        if (is_ok) {
            set_lease(to_duration(arguments, "lease", 60'000'000'000));
        }
        on_answer(is_ok ? done() : refuse("wrong-state", "no lease to renew"));
    } else if (name == "hot-upgrade-switch") {
        run_switch(arguments, on_answer);
    } else if (name == "hot-upgrade-freeze" || name == "hot-upgrade-load" || name == "hot-upgrade-takeover") {
        run_step(name, arguments, on_answer);
    } else if (name == "hot-upgrade-commit") {
        const bool is_first = source_.has_value() && source_->state == "ceded";
        on_answer(commit());
        // why: a commit that is said again must not end the target, which is the source by then.
        if (is_first && source_.has_value() && source_->state == "exiting") {
            // why: later, so that the answer leaves first
            world_.after(std::chrono::milliseconds(1), [this] { kill_source(); });
        }
    } else {
        on_answer(refuse_unknown(name));
    }
}

json FakeVm::describe(const Process& process) const {
    json info = {
        {"protocol", options_.protocol},
        {"role", process.role},
        {"state", process.state},
        {"version", process.version},
        {"package", process.package},
        {"build-id", process.build_id},
        {"pid", process.pid},
        {"name", options_.name},
        {"uuid", options_.uuid},
        {"machine", options_.machine},
        {"enabled", options_.enabled},
        {"run-state",
         process.runs_guest                ? "running"
         : options_.run_state == "running" ? "paused"
                                           : options_.run_state},
        {"argv", process.argv},
        {"cwd", options_.cwd},
        {"ram-bytes", options_.ram_bytes},
        {"blockers", json::array()},
        {"generation", options_.generation},
        {"shape-digest", options_.shape_digest},
        {"descriptors", options_.descriptors},
    };
    if (!options_.shape.is_null()) {
        info["shape"] = options_.shape;
    }
    for (const FakeBlocker& each : options_.blockers) {
        info["blockers"].push_back(
            {{"id", each.id}, {"class", each.blocker_class}, {"reason", each.reason}}
        );
    }
    if (!process.upgrade.empty()) {
        info["upgrade"] = process.upgrade;
    }
    if (!options_.pidfile.empty()) {
        info["pidfile"] = options_.pidfile;
    }
    if (process.lease_end.has_value()) {
        const auto left = *process.lease_end - std::chrono::steady_clock::now();
        info["lease-left"] = std::max<std::int64_t>(
            0, std::chrono::duration_cast<std::chrono::nanoseconds>(left).count()
        );
    }
    if (process.role == "source" && target_.has_value()) {
        info["child-pid"] = target_->pid;
    }
    if (process.state == "running" && !options_.takeover_degraded.empty()) {
        info["takeover-degraded"] = options_.takeover_degraded;
    }
    if (process.last_error.has_value()) {
        info["last-error"] = *process.last_error;
    }
    if (process.timings.has_value()) {
        info["timings"] = *process.timings;
    }
    return info;
}

Answer FakeVm::prepare(const json& arguments, const std::vector<std::string>& descriptors) {
    if (source_->state != "none") {
        return refuse("wrong-state", "an upgrade is in progress");
    }
    if (!options_.blockers.empty()) {
        // why: before the id is taken over, and with the sentence of the reply, as QEMU does
        source_->last_error = make_error("blocked", "prepare", "");
        return refuse("blocked", source_->last_error->at("message").get<std::string>());
    }
    const std::string upgrade = arguments.value("upgrade", "");
    const std::string binary = arguments.value("binary", "");
    const std::string folder = arguments.value("control-dir", "");
    const auto argv = arguments.value("argv", std::vector<std::string>());
    const bool has_binary =
        std::find(descriptors.begin(), descriptors.end(), binary) != descriptors.end();
    const bool has_incoming = std::find(argv.begin(), argv.end(), "-incoming") != argv.end();
    if (upgrade.empty() || !has_binary || argv.empty() || has_incoming) {
        return refuse("bad-argument", "upgrade, binary or argv cannot be used");
    }
    const std::string control = folder + "/" + upgrade + "-source";
    world_.close(FakeSide::source); // of the upgrade before
    if (!world_.listen(FakeSide::source, control)) {
        return refuse("bad-argument", "the control folder cannot be used");
    }
    control_dir_ = folder;
    prepared_generation_ = options_.generation;
    source_->upgrade = upgrade;
    source_->last_error.reset();
    source_->timings.reset();
    Process target;
    target.role = "target";
    target.state = "starting";
    target.version = options_.target_version;
    target.package = options_.target_package;
    target.build_id = options_.target_build_id;
    target.pid = pid_or_own(options_.target_pid);
    target.argv = argv;
    target.upgrade = upgrade;
    target_ = std::move(target);
    set_state(FakeSide::source, "preparing");
    set_lease(to_duration(arguments, "lease", 60'000'000'000));
    ++attempt_;
    world_.after(options_.standby_time, [this, attempt = attempt_] { on_standby_due(attempt); });
    return done({{"upgrade", upgrade}, {"control", control}, {"generation", options_.generation}});
}

void FakeVm::on_standby_due(std::uint64_t attempt) {
    if (attempt != attempt_ || !source_.has_value() || source_->state != "preparing") {
        return;
    }
    const std::string control = control_dir_ + "/" + source_->upgrade + "-target";
    if (!options_.standby_failure.empty() || !world_.listen(FakeSide::target, control)) {
        end_upgrade(
            options_.standby_failure.empty() ? "spawn-failed" : options_.standby_failure, "prepare"
        );
        return;
    }
    set_state(FakeSide::target, "standby");
    set_state(FakeSide::source, "prepared");
}

void FakeVm::set_lease(std::chrono::nanoseconds lease) {
    source_->lease_end = std::chrono::steady_clock::now() + lease;
    ++lease_;
    world_.after(lease, [this, number = lease_] { on_lease_due(number); });
}

void FakeVm::on_lease_due(std::uint64_t lease) {
    if (lease != lease_ || !source_.has_value() || !source_->lease_end.has_value()) {
        return;
    }
    if (source_->state == "ceded") {
        kill_source(); // it exits, and never resumes
    } else {
        end_upgrade("lease-expired", "lease");
    }
}

void FakeVm::freeze(const json& arguments) {
    source_->runs_guest = false;
    frozen_at_ = std::chrono::steady_clock::now();
    set_state(FakeSide::source, "frozen");
    set_lease(to_duration(arguments, "frozen-lease", 1'000'000'000));
}

void FakeVm::take_over() {
    set_state(FakeSide::source, "ceded");
    set_lease(options_.ceded_lease);
    target_->runs_guest = options_.run_state == "running";
    target_->timings = make_timings();
    source_->timings = target_->timings;
    set_state(FakeSide::target, "running");
}

json FakeVm::make_timings() const {
    const auto pause = std::chrono::nanoseconds(options_.switch_time).count();
    return {
        {"flush", 100'000},
        {"stop", pause / 8},
        {"drain", pause / 8},
        {"save", pause / 4},
        {"load", pause / 4},
        {"activate", pause / 8},
        {"start", pause / 8},
        {"pause", pause},
        {"state-bytes", 412'345}};
}

bool FakeVm::take_fault(const std::string& word) {
    return std::any_of(faults_.begin(), faults_.end(), [&](const auto& each) {
        return each.first.find(word) != std::string::npos && each.second != "none";
    });
}

void FakeVm::run_switch(const json& arguments, const OnAnswer& on_answer) {
    if (source_->state != "prepared") {
        on_answer(refuse("wrong-state", "nothing is prepared"));
        return;
    }
    if (options_.generation != prepared_generation_) {
        on_answer(fail_upgrade("stale", "flush"));
        return;
    }
    freeze(arguments);
    set_state(FakeSide::target, "loading");
    world_.after(options_.switch_time, [this, on_answer, attempt = attempt_] {
        if (attempt != attempt_ || !source_.has_value() || source_->state != "frozen") {
            const bool has_code = source_.has_value() && source_->last_error.has_value();
            on_answer(refuse(
                has_code ? source_->last_error->at("code").get<std::string>() : "target-died",
                "the upgrade ended inside the pause"
            ));
        } else if (take_fault(".")) {
            on_answer(fail_upgrade("fault-injected", "load"));
        } else {
            set_state(FakeSide::target, "loaded");
            take_over();
            on_answer(done({{"timings", make_timings()}}));
        }
    });
}

void FakeVm::run_step(const std::string& name, const json& arguments, const OnAnswer& on_answer) {
    if (name == "hot-upgrade-freeze" && source_->state == "prepared") {
        freeze(arguments);
    } else if (name == "hot-upgrade-load" && source_->state == "frozen" && target_->state == "standby") {
        set_state(FakeSide::target, "loading");
        set_state(FakeSide::target, "loaded");
        source_->timings = make_timings();
        (*source_->timings)["activate"] = 0;
        (*source_->timings)["start"] = 0;
    } else if (name == "hot-upgrade-takeover" && source_->state == "frozen" && target_->state == "loaded") {
        take_over();
    } else {
        on_answer(refuse("wrong-state", name + " does not fit the state"));
        return;
    }
    on_answer(done());
}

Answer FakeVm::rollback() {
    if (source_->state == "none") {
        return done();
    }
    if (source_->state == "ceded" || source_->state == "exiting") {
        return refuse("wrong-state", "the guest runs on the target");
    }
    end_upgrade("rolled-back", "rollback");
    return done();
}

Answer FakeVm::commit() {
    if (source_->state != "ceded") {
        return refuse("wrong-state", "the guest was not ceded");
    }
    source_->state = "exiting";
    return done();
}

Answer FakeVm::fail_upgrade(const std::string& code, const std::string& phase) {
    if (source_.has_value() && keeps_prepared(code) && target_.has_value()) {
        source_->runs_guest = options_.run_state == "running";
        source_->last_error = make_error(code, phase, "");
        set_state(FakeSide::source, "prepared");
    } else if (source_.has_value() && source_->state != "ceded" && source_->state != "none") {
        end_upgrade(code, phase);
    }
    return refuse(code, "told to fail with " + code);
}

void FakeVm::end_upgrade(const std::string& code, const std::string& phase) {
    if (source_->state == "frozen") {
        using std::chrono::nanoseconds;
        source_->timings = make_timings();
        (*source_->timings)["pause"] =
            std::chrono::duration_cast<nanoseconds>(std::chrono::steady_clock::now() - frozen_at_)
                .count();
    }
    set_state(FakeSide::source, "rolling-back");
    ++attempt_;
    target_.reset();
    world_.close(FakeSide::target);
    source_->runs_guest = options_.run_state == "running";
    source_->lease_end.reset();
    const std::string words = code == "target-died" ? "qemu-system-x86_64: killed" : "";
    source_->last_error = make_error(code, phase, words);
    set_state(FakeSide::source, "none");
}

void FakeVm::kill_target() {
    if (!target_.has_value()) {
        return;
    }
    if (source_.has_value() && source_->state != "ceded" && source_->state != "exiting") {
        end_upgrade("target-died", source_->state == "frozen" ? "load" : "prepare");
        return;
    }
    lose_target("the target was killed by signal 9");
}

void FakeVm::power_off_target() {
    if (target_.has_value() && target_->runs_guest) {
        lose_target("the target exited with status 0");
    }
}

/// The guest is gone with the target: it had run there.
void FakeVm::lose_target(const std::string& how) {
    target_.reset();
    world_.close(FakeSide::target);
    world_.close(FakeSide::main);
    if (source_.has_value()) {
        source_->last_error = make_error("target-died", "takeover", "");
        (*source_->last_error)["message"] = how;
    }
}

void FakeVm::pause_guest() {
    for (std::optional<Process>* process : {&source_, &target_}) {
        if (process->has_value()) {
            (*process)->runs_guest = false;
        }
    }
}

void FakeVm::kill_source() {
    if (!source_.has_value()) {
        return;
    }
    const bool was_ceded = source_->state == "ceded" || source_->state == "exiting";
    const bool has_state =
        target_.has_value() && (target_->state == "loaded" || target_->state == "loading");
    source_.reset();
    ++attempt_;
    world_.close(FakeSide::source);
    if (!target_.has_value() || (!was_ceded && !has_state)) {
        target_.reset();
        world_.close(FakeSide::target);
        world_.close(FakeSide::main);
        return;
    }
    // The target is the VM now; it can be upgraded in turn.
    target_->role = "source";
    target_->runs_guest = options_.run_state == "running";
    source_ = std::move(target_);
    target_.reset();
    options_.version = source_->version;
    options_.package = source_->package;
    options_.build_id = source_->build_id;
    world_.promote_target();
    set_state(FakeSide::source, "none");
}

void FakeVm::close_control() {
    world_.close(FakeSide::source);
}

void FakeVm::set_state(FakeSide side, const std::string& state) {
    std::optional<Process>& process = side == FakeSide::target ? target_ : source_;
    process->state = state;
    const json event = {
        {"event", "HOT_UPGRADE_STATE"},
        {"data", {{"role", process->role}, {"state", state}, {"upgrade", process->upgrade}}},
        {"timestamp", {{"seconds", 1'700'000'000}, {"microseconds", 0}}},
    };
    world_.emit(side, event);
    world_.emit(FakeSide::main, event);
}

std::vector<std::string> FakeVm::running_sides() const {
    std::vector<std::string> sides;
    if (source_.has_value() && source_->runs_guest) {
        sides.emplace_back("source");
    }
    if (target_.has_value() && target_->runs_guest) {
        sides.emplace_back("target");
    }
    return sides;
}

std::string FakeVm::state(FakeSide side) const {
    const std::optional<Process>& process = side == FakeSide::target ? target_ : source_;
    return process.has_value() ? process->state : "";
}

std::string FakeVm::version() const {
    const bool is_target = target_.has_value() && target_->state == "running";
    const std::optional<Process>& owner = is_target ? target_ : source_;
    return owner.has_value() ? owner->version : "";
}

namespace {

Reaction parse_reaction(const json& object) {
    Reaction reaction;
    for (const auto& [key, value] : object.items()) {
        if (key == "error_code") {
            reaction.error_code = value.get<std::string>();
        } else if (key == "error_phase") {
            reaction.error_phase = value.get<std::string>();
        } else if (key == "error_class") {
            reaction.error_class = value.get<std::string>();
        } else if (key == "delay_ms") {
            reaction.delay = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "takes_effect") {
            reaction.takes_effect = value.get<bool>();
        } else if (key == "is_silent") {
            reaction.is_silent = value.get<bool>();
        } else if (key == "hangs_up") {
            reaction.hangs_up = value.get<bool>();
        } else if (key == "result") {
            reaction.result = value;
        } else if (key == "times") {
            reaction.times = value.get<int>();
        } else {
            throw std::runtime_error("unknown field of a reaction: " + key);
        }
    }
    return reaction;
}

} // namespace

FakeVmOptions parse_fake_vm_options(const json& object) {
    FakeVmOptions options;
    const std::map<std::string, std::string*> texts{
        {"name", &options.name},
        {"uuid", &options.uuid},
        {"version", &options.version},
        {"package", &options.package},
        {"build_id", &options.build_id},
        {"target_version", &options.target_version},
        {"target_package", &options.target_package},
        {"target_build_id", &options.target_build_id},
        {"machine", &options.machine},
        {"cwd", &options.cwd},
        {"pidfile", &options.pidfile},
        {"run_state", &options.run_state},
        {"shape_digest", &options.shape_digest},
        {"standby_failure", &options.standby_failure},
    };
    const std::map<std::string, std::int64_t*> numbers{
        {"ram_bytes", &options.ram_bytes},
        {"generation", &options.generation},
        {"pid", &options.pid},
        {"target_pid", &options.target_pid},
        {"protocol", &options.protocol},
    };
    for (const auto& [key, value] : object.items()) {
        if (const auto text = texts.find(key); text != texts.end()) {
            *text->second = value.get<std::string>();
        } else if (const auto number = numbers.find(key); number != numbers.end()) {
            *number->second = value.get<std::int64_t>();
        } else if (key == "argv") {
            options.argv = value.get<std::vector<std::string>>();
        } else if (key == "descriptors") {
            options.descriptors = value;
        } else if (key == "shape") {
            options.shape = value;
        } else if (key == "enabled") {
            options.enabled = value.get<bool>();
        } else if (key == "is_patched") {
            options.is_patched = value.get<bool>();
        } else if (key == "standby_time_ms") {
            options.standby_time = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "switch_time_ms") {
            options.switch_time = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "ceded_lease_ms") {
            options.ceded_lease = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "takeover_degraded") {
            options.takeover_degraded = value.get<std::vector<std::string>>();
        } else if (key == "blockers") {
            for (const json& each : value) {
                options.blockers.push_back(
                    {each.value("id", ""), each.value("class", ""), each.value("reason", "")}
                );
            }
        } else if (key == "reactions") {
            for (const auto& [name, reaction] : value.items()) {
                options.reactions[name] = parse_reaction(reaction);
            }
        } else {
            throw std::runtime_error("unknown field of a fake VM: " + key);
        }
    }
    return options;
}

} // namespace qhup::test
