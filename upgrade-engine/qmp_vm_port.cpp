// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/qmp_vm_port.hpp"

#include "common/as_user.hpp"
#include "common/unique_fd.hpp"
#include "qmp-client/client.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

namespace qhup::upgrade {
namespace {

using Json = qmp::Json;
using Presence = Observation::Presence;

constexpr std::string_view kSourceSuffix = "-source";
constexpr std::string_view kTargetSuffix = "-target";

Failure make_explained(Errc code, std::string peer_text) {
    return make_failure(code, std::string(explain(code)), std::move(peer_text));
}

/// The engine's code for a failure of a QMP command. The one place where the two worlds meet.
Failure to_engine(Failure failure) {
    Failure result;
    if (failure.code.category() == qmp::peer_category()) {
        const auto code = static_cast<qmp::PeerErrc>(failure.code.value());
        return make_explained(parse_qemu_code(qmp::to_peer_code(code)), failure.peer_text);
    }
    if (failure.code == make_error_code(qmp::Errc::command_not_found)) {
        return make_explained(Errc::not_patched, failure.peer_text);
    }
    if (failure.code == make_error_code(qmp::Errc::bad_reply)) {
        return make_explained(Errc::unexpected_answer, failure.peer_text);
    }
    switch (qmp::answer_of(failure)) {
    case qmp::Answer::refused: return make_explained(Errc::unknown_qemu_code, failure.peer_text);
    case qmp::Answer::could_not_ask: result = make_explained(Errc::not_answering, ""); break;
    case qmp::Answer::unknown:
        if (is_cancelled(failure)) {
            result =
                make_failure(qhup::Errc::cancelled, "the wait for QEMU's answer was cancelled");
        } else if (is_timed_out(failure)) {
            result = make_failure(qhup::Errc::timed_out, "QEMU did not answer in time");
        } else {
            result = make_explained(Errc::lost_contact, "");
        }
        break;
    }
    add_also(result, std::move(failure));
    return result;
}

/// What an error of hot-upgrade-prepare without a code means, from a look right after it.
///
/// qemu: docs/qmp.md, Errors: QMP's own monitors cannot carry the code. Nothing but wrong-state
/// leaves another upgrade in progress, and it leaves no last-error. An older last-error says
/// nothing about this command: it must be of this upgrade or, as QEMU refuses most before it takes
/// the id over, have the sentence of the reply.
Failure explain_refused_prepare(Failure failure, const VmFacts& after, const UpgradeId& upgrade) {
    if (after.state != PairState::none) {
        return make_explained(Errc::wrong_state, failure.peer_text);
    }
    const std::optional<LastError>& last = after.last_error;
    if (last && (after.upgrade == upgrade || last->message == failure.peer_text)) {
        return make_explained(last->code, failure.peer_text);
    }
    return failure;
}

/// Whether nobody listens on this socket. Never waits.
bool is_nobody_there(const std::string& path) {
    sockaddr_un address{};
    if (path.size() >= sizeof(address.sun_path)) {
        return false;
    }
    address.sun_family = AF_UNIX;
    std::memcpy(&address.sun_path[0], path.data(), path.size());
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) {
        return false;
    }
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    return ::connect(fd.get(), generic, sizeof(address)) != 0 &&
           (errno == ENOENT || errno == ECONNREFUSED);
}

/// Whether a failed connect means that nobody listens (any more).
bool has_gone(const Failure& failure, const std::string& path) {
    if (failure.code == qmp::Errc::nobody_listens) {
        return true;
    }
    // why: a listener that is there is not connected to again. It keeps what we closed in its queue
    // until it accepts it, and the queue of a monitor has few places.
    const bool is_there = failure.code == qmp::Errc::greeting_timed_out ||
                          failure.code == qmp::Errc::monitor_busy ||
                          failure.code == qmp::Errc::monitor_forbidden;
    return !is_there && is_nobody_there(path);
}

/// The user of the VM, whom a control socket takes as a peer beside root.
///
/// qemu: hot-upgrade-control.c, peer_is_welcome(): root, its own user, and the owner of the folder.
/// The owner is asked for, not the socket's: the VM can put there what it wants, but give its
/// folder to nobody.
std::optional<uid_t> user_of(const std::string& control_dir) {
    struct stat info {};
    const bool is_needed = is_own_user_with_rights() && ::lstat(control_dir.c_str(), &info) == 0 &&
                           S_ISDIR(info.st_mode) && info.st_uid != ::geteuid();
    return is_needed ? std::optional(info.st_uid) : std::nullopt;
}

Observation make_absent() {
    return {Presence::absent, {}, std::nullopt};
}

Observation make_silent(Failure why) {
    return {Presence::silent, {}, std::move(why)};
}

// why: these are functions and not braces beside a co_await: gcc 12 cannot compile those.
Json to_json(const PrepareRequest& request, const std::string& binary, const std::string& folder) {
    Json arguments{
        {"upgrade", request.upgrade.text()},
        {"binary", binary},
        {"argv", request.argv},
        {"control-dir", folder},
        {"lease", request.lease.count()},
    };
    if (!request.pidfile.empty()) {
        arguments["pidfile"] = request.pidfile;
    }
    return arguments;
}

Json make_lease(std::chrono::nanoseconds lease) {
    return {{"lease", lease.count()}};
}

Json make_closefd(const std::string& name) {
    return {{"fdname", name}};
}

Json to_json(const SwitchLimits& limits) {
    return {
        {"drain-deadline", limits.drain_deadline.count()},
        {"budget", limits.budget.count()},
        {"frozen-lease", limits.frozen_lease.count()},
    };
}

} // namespace

struct QmpVmPort::State {
    /// One server of QEMU and our connection to it.
    struct Server {
        std::string path;
        std::optional<qmp::Client> client;
    };

    State(Strand strand_in, QmpVmPortConfig config_in)
        : strand(std::move(strand_in)), config(std::move(config_in)) {
        const std::string stem = config.control_dir + "/" + config.upgrade.text();
        main.path = config.main_socket;
        if (!config.control_dir.empty() && !config.upgrade.empty()) {
            source.path = stem + std::string(kSourceSuffix);
            target.path = stem + std::string(kTargetSuffix);
        }
    }

    static awaitable<void> drop(Server& server) {
        if (server.client) {
            server.client->request_stop();
            co_await server.client->join();
            server.client.reset();
        }
    }

    /// Errors: Errc::vm_gone: nobody listens; Errc::not_answering; qhup::Errc::cancelled
    awaitable<Result<void>> connect(Server& server, Deadline deadline) {
        if (server.client && server.client->is_open()) {
            co_return Result<void>();
        }
        co_await drop(server);
        if (server.path.empty()) {
            co_return make_explained(Errc::vm_gone, "");
        }
        qmp::ConnectOptions options;
        options.as_user = &server == &main ? std::nullopt : user_of(config.control_dir);
        Result<qmp::Client> client =
            co_await qmp::Client::connect(strand, server.path, std::move(options), deadline);
        if (client.has_error()) {
            if (has_gone(client.error(), server.path)) {
                co_return make_explained(Errc::vm_gone, "");
            }
            // why: who stops waiting must not be told that the VM does not answer.
            Failure failure =
                is_cancelled(client.error())
                    ? make_failure(qhup::Errc::cancelled, "connecting to QEMU was cancelled")
                    : make_explained(Errc::not_answering, "");
            add_also(failure, client.error());
            co_return failure;
        }
        server.client.emplace(std::move(*client));
        co_return Result<void>();
    }

    /// Errors: of connect(), then the engine's words for those of the command
    awaitable<Result<Json>>
    execute(Server& server, std::string command, Json arguments, Deadline deadline) {
        const Result<void> connected = co_await connect(server, deadline);
        if (connected.has_error()) {
            co_return connected.error();
        }
        Result<Json> reply =
            co_await server.client->execute(std::move(command), std::move(arguments), deadline);
        if (reply.has_error()) {
            co_return to_engine(reply.error());
        }
        co_return reply;
    }

    /// Asks one server. A connection that had died is made again once.
    awaitable<Observation> observe(Server& server, Deadline deadline) {
        Result<Json> reply = co_await execute(server, "query-hot-upgrade", Json(), deadline);
        const bool is_dead = server.client && !server.client->is_open();
        if (reply.has_error() && is_dead) {
            reply = co_await execute(server, "query-hot-upgrade", Json(), deadline);
        }
        if (reply.has_error()) {
            const bool is_gone = reply.error().code == make_error_code(Errc::vm_gone);
            co_return is_gone ? make_absent() : make_silent(reply.error());
        }
        Result<VmFacts> facts = parse_vm_facts(*reply);
        if (facts.has_error()) {
            co_return make_silent(facts.error());
        }
        co_return Observation{Presence::answers, std::move(*facts), std::nullopt};
    }

    /// The main QMP belongs to whoever runs the VM: the source, until the target has taken over.
    awaitable<Observation> observe_source_by_main(Deadline deadline) {
        if (main.path.empty()) {
            co_return make_absent();
        }
        if (!target.path.empty()) {
            const Observation other = co_await observe(target, deadline);
            if (other.is(PairState::running) || other.is(PairState::none)) {
                co_return make_absent();
            }
        }
        Observation view = co_await observe(main, deadline);
        if (!view.answers()) {
            co_return view;
        }
        const bool is_another = source_pid != 0 && view.facts.claimed_pid != source_pid;
        if (view.facts.role == Role::target || is_another) {
            co_return make_absent();
        }
        const qmp::Peer& peer = main.client->peer();
        process = observe_peer(peer.pid, peer.uid, view.facts.claimed_pid);
        process.lost_images = observe_lost_images(process.pid, view.facts);
        co_return view;
    }

    /// A target closes its control socket some seconds after its source has gone. By then it has
    /// the main QMP, and says there which upgrade it is from.
    awaitable<Observation> observe_target_by_main(Deadline deadline) {
        if (main.path.empty() || source_pid == 0) {
            co_return make_absent();
        }
        Observation view = co_await observe(main, deadline);
        const bool is_other = view.answers() && (view.facts.upgrade != config.upgrade ||
                                                 view.facts.claimed_pid == source_pid);
        co_return is_other ? make_absent() : std::move(view);
    }

    Strand strand;
    QmpVmPortConfig config;
    Server main;
    Server source;
    Server target;
    ProcessFacts process;
    pid_t source_pid = 0;          // as the source says; 0 until it was asked
    bool is_source_absent = false; // at the last look
};

QmpVmPort::QmpVmPort(Strand strand, QmpVmPortConfig config)
    : state_(std::make_shared<State>(std::move(strand), std::move(config))) {}

QmpVmPort::~QmpVmPort() = default;

awaitable<Observation> QmpVmPort::observe_source(Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    Observation view = co_await state->observe(state->source, deadline);
    const pid_t known_pid = state->source_pid;
    if (view.answers() && known_pid != 0 && view.facts.claimed_pid != known_pid) {
        // Another process answers in its place: the one that we knew is gone.
        co_await State::drop(state->source);
        view = make_absent();
    }
    if (view.answers()) {
        if (const pid_t pid = state->source.client->peer().pid; pid != state->process.pid) {
            const Result<ProcessFacts> process = observe_process(pid);
            state->process = process.has_value() ? *process : state->process;
        }
        // why: a client that stays connected would have to cross; the control socket is enough now.
        co_await State::drop(state->main);
    } else if (view.presence == Presence::absent) {
        view = co_await state->observe_source_by_main(deadline);
    }
    if (view.answers() && state->source_pid == 0) {
        state->source_pid = view.facts.claimed_pid;
    }
    state->is_source_absent = view.presence == Presence::absent;
    co_return view;
}

awaitable<Observation> QmpVmPort::observe_target(Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    Observation view = co_await state->observe(state->target, deadline);
    if (view.presence == Presence::absent && state->is_source_absent) {
        view = co_await state->observe_target_by_main(deadline);
    }
    co_return view;
}

ProcessFacts QmpVmPort::source_process() const {
    return state_->process;
}

LinkCounters QmpVmPort::source_links() const {
    return observe_links(state_->process.pid);
}

awaitable<Result<void>> QmpVmPort::prepare(PrepareRequest request, Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    const Result<void> connected = co_await state->connect(state->main, deadline);
    if (connected.has_error()) {
        co_return connected.error();
    }
    const UniqueFd binary(::fcntl(request.binary_fd, F_DUPFD_CLOEXEC, 0));
    if (!binary) {
        co_return make_system_failure(errno, "duplicating the descriptor of the new binary");
    }
    const std::string name = "qhup-" + request.upgrade.text();
    const Result<void> sent = co_await state->main.client->send_descriptor(name, binary, deadline);
    if (sent.has_error()) {
        co_return to_engine(sent.error());
    }
    Json arguments = to_json(request, name, state->config.control_dir);
    const Result<Json> reply =
        co_await state->execute(state->main, "hot-upgrade-prepare", std::move(arguments), deadline);
    if (reply.has_value()) {
        co_return Result<void>();
    }
    Failure failure = reply.error();
    if (failure.code == make_error_code(Errc::unknown_qemu_code)) {
        const Observation after = co_await state->observe(state->main, deadline);
        if (after.answers()) {
            failure = explain_refused_prepare(std::move(failure), after.facts, request.upgrade);
        }
    }
    Json closefd = make_closefd(name);
    const Result<Json> closed =
        co_await state->execute(state->main, "closefd", std::move(closefd), deadline);
    ignore(closed, "QEMU closes it with the connection, too");
    co_return failure;
}

awaitable<Result<void>> QmpVmPort::renew(std::chrono::nanoseconds lease, Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    Json arguments = make_lease(lease);
    const Result<Json> reply =
        co_await state->execute(state->source, "hot-upgrade-renew", std::move(arguments), deadline);
    co_return reply.has_value() ? Result<void>() : Result<void>(reply.error());
}

awaitable<Result<SwitchTimings>> QmpVmPort::switch_over(SwitchLimits limits, Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    Json arguments = to_json(limits);
    const Result<Json> reply = co_await state->execute(
        state->source, "hot-upgrade-switch", std::move(arguments), deadline
    );
    if (reply.has_error()) {
        co_return reply.error();
    }
    const Result<const Json*> timings = qmp::get_optional_object(*reply, "timings");
    if (timings.has_error()) {
        co_return make_explained(Errc::lost_contact, "");
    }
    // why: the guest runs on the target whatever the times look like; they are only shown.
    const Json empty = Json::object();
    Result<SwitchTimings> parsed = parse_switch_timings(*timings == nullptr ? empty : **timings);
    co_return parsed.has_value() ? *parsed : SwitchTimings{};
}

awaitable<Result<void>> QmpVmPort::freeze(SwitchLimits limits, Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    Json arguments = to_json(limits);
    const Result<Json> reply = co_await state->execute(
        state->source, "hot-upgrade-freeze", std::move(arguments), deadline
    );
    co_return reply.has_value() ? Result<void>() : Result<void>(reply.error());
}

awaitable<Result<void>> QmpVmPort::load(Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    const Result<Json> reply =
        co_await state->execute(state->source, "hot-upgrade-load", Json(), deadline);
    co_return reply.has_value() ? Result<void>() : Result<void>(reply.error());
}

awaitable<Result<void>> QmpVmPort::commit(Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    const Result<Json> reply =
        co_await state->execute(state->source, "hot-upgrade-commit", Json(), deadline);
    co_return reply.has_value() ? Result<void>() : Result<void>(reply.error());
}

awaitable<Result<void>> QmpVmPort::rollback(Deadline deadline) {
    const std::shared_ptr<State> state = state_;
    const bool has_control = state->source.client && state->source.client->is_open();
    State::Server& server = has_control || state->main.path.empty() ? state->source : state->main;
    const Result<Json> reply =
        co_await state->execute(server, "hot-upgrade-rollback", Json(), deadline);
    co_return reply.has_value() ? Result<void>() : Result<void>(reply.error());
}

awaitable<void> QmpVmPort::close() {
    const std::shared_ptr<State> state = state_;
    co_await State::drop(state->main);
    co_await State::drop(state->source);
    co_await State::drop(state->target);
}

Result<std::vector<UpgradeId>> list_upgrades(const std::string& control_dir) {
    std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(control_dir.c_str()), &::closedir);
    if (folder == nullptr) {
        if (errno == ENOENT) {
            return std::vector<UpgradeId>{};
        }
        return make_system_failure(errno, "opening the control folder " + control_dir);
    }
    std::set<std::string> ids;
    errno = 0;
    while (const dirent* const entry = ::readdir(folder.get())) {
        std::string_view name = static_cast<const char*>(entry->d_name);
        if (name.ends_with(kSourceSuffix)) {
            name.remove_suffix(kSourceSuffix.size());
        } else if (name.ends_with(kTargetSuffix)) {
            name.remove_suffix(kTargetSuffix.size());
        } else {
            continue;
        }
        if (!name.empty()) {
            ids.emplace(name);
        }
    }
    if (errno != 0) {
        return make_system_failure(errno, "reading the control folder " + control_dir);
    }
    std::vector<UpgradeId> upgrades;
    for (const std::string& id : ids) {
        upgrades.emplace_back(id);
    }
    return upgrades;
}

} // namespace qhup::upgrade
