// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_server.hpp"

#include "common/log.hpp"
#include "common/unique_fd.hpp"
#include "common/version.hpp"
#include "daemon/problems.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include <grp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace qhup::daemon {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using Protocol = asio::local::stream_protocol;
using Stream = beast::basic_stream<Protocol, asio::any_io_executor>;
using Parser = http::request_parser<http::string_body>;

constexpr std::uint32_t kMaxHeaderBytes = 16U * 1024U;
constexpr std::uint64_t kMaxBodyBytes = 2U
                                        << 20U; // 10,000 names of 128 characters and their commas
constexpr std::size_t kMaxBufferBytes = 64U * 1024U;
constexpr int kMaxRequestsOfConnection = 1000;
constexpr std::chrono::seconds kWriteTime{10};
constexpr std::chrono::seconds kDrainTime{1};
constexpr std::chrono::seconds kStreamWriteTime{60}; // a slow follower only costs a connection

/// What the kernel says about the peer. Nothing if it says nothing.
std::optional<Peer> peer_of(int fd) {
    ucred credentials{};
    socklen_t size = sizeof(credentials);
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
        return std::nullopt;
    }
    Peer peer;
    peer.pid = credentials.pid;
    peer.uid = credentials.uid;
    peer.gid = credentials.gid;
    std::array<gid_t, 1024> groups{};
    socklen_t bytes = sizeof(groups);
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) {
        peer.groups.assign(groups.begin(), groups.begin() + bytes / sizeof(gid_t));
    }
    return peer;
}

Result<std::optional<gid_t>> find_group(const std::string& name) {
    if (name.empty()) {
        return std::optional<gid_t>();
    }
    std::vector<char> buffer(16U * 1024U);
    group entry{};
    group* found = nullptr;
    const int error = ::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (error != 0 || found == nullptr) {
        return make_failure(
            Errc::invalid_argument,
            "there is no group '" + name +
                "', which [api] group in qhupd.toml names. Make it with "
                "'groupadd --system " +
                name + "', or set group = \"\""
        );
    }
    return std::optional<gid_t>(found->gr_gid);
}

/// Whether who listens at the other end is there. A process that a killed daemon was about to start
/// has its descriptors for a moment more, and takes connections by that.
bool is_alive(Protocol::socket& connected) {
    const auto peer = peer_of(connected.native_handle());
    return !peer || peer->pid <= 0 || ::kill(static_cast<pid_t>(peer->pid), 0) == 0 ||
           errno != ESRCH;
}

/// Removes a socket on which nobody listens any more.
Result<void> clear_old_socket(const std::string& path) {
    struct stat facts {};
    if (::lstat(path.c_str(), &facts) != 0) {
        return {};
    }
    if (!S_ISSOCK(facts.st_mode)) {
        return make_failure(Errc::invalid_argument, path + " exists and is no socket");
    }
    asio::io_context context;
    Protocol::socket probe(context);
    error_code error;
    probe.connect(Protocol::endpoint(path), error);
    if (!error && is_alive(probe)) {
        return make_failure(
            Errc::system_error, "another qhupd listens on " + path + "; one is enough"
        );
    }
    if (::unlink(path.c_str()) != 0) {
        return make_system_failure(errno, "removing the old socket " + path);
    }
    return {};
}

http::response<http::string_body> make_response(const ApiReply& reply, bool keeps_alive) {
    http::response<http::string_body> response;
    response.version(11);
    response.result(static_cast<unsigned int>(reply.status));
    response.set(http::field::server, "qhupd/" + std::string(kVersion));
    response.set(http::field::content_type, reply.content_type);
    response.set(http::field::cache_control, "no-store");
    if (!reply.allow.empty()) {
        response.set(http::field::allow, reply.allow);
    }
    response.keep_alive(keeps_alive);
    response.body() = reply.body;
    response.prepare_payload();
    return response;
}

/// @param is_head  nothing but the header of what GET would answer (RFC 9110, 9.3.2)
awaitable<error_code>
send(Stream& stream, const ApiReply& reply, bool keeps_alive, bool is_head = false) {
    const auto response = make_response(reply, keeps_alive);
    stream.expires_after(kWriteTime);
    http::response_serializer<http::string_body> serializer(
        const_cast<http::response<http::string_body>&>(response)
    );
    if (is_head) {
        const auto [error, size] =
            co_await http::async_write_header(stream, serializer, use_result);
        (void)size;
        co_return error;
    }
    const auto [error, size] = co_await http::async_write(stream, serializer, use_result);
    (void)size;
    co_return error;
}

/// Cancels what the stream reads when the time is over. Beast's own timeout closes the stream, and
/// then nobody could be told why.
class ReadLimit {
public:
    ReadLimit(const Strand& home, Stream& stream, std::chrono::milliseconds time)
        : state_(std::make_shared<State>(home, stream)) {
        state_->timer.expires_after(time);
        state_->timer.async_wait([state = state_](const error_code& error) {
            if (!error && state->stream != nullptr) {
                state->is_over = true;
                state->stream->cancel();
            }
        });
    }
    ~ReadLimit() { stop(); }
    ReadLimit(const ReadLimit&) = delete;
    ReadLimit& operator=(const ReadLimit&) = delete;

    /// The request is there: what is written from here on has limits of its own.
    void stop() {
        state_->stream = nullptr;
        state_->timer.cancel();
    }
    bool is_over() const noexcept { return state_->is_over; }

private:
    struct State {
        State(const Strand& home, Stream& reads) : timer(home), stream(&reads) {}
        asio::steady_timer timer;
        Stream* stream; ///< nullptr: it may be gone
        bool is_over = false;
    };
    std::shared_ptr<State> state_;
};

/// Takes for a moment what a client still sends whose request was refused before it was there: to
/// close at once would break his sending, and he would not read why.
awaitable<void> drain(Stream& stream) {
    error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_send, ignored);
    stream.expires_after(kDrainTime);
    std::array<char, 16U * 1024U> bytes{};
    bool is_over = false;
    for (std::uint64_t got = 0; !is_over && got <= kMaxBodyBytes;) {
        const auto [error, size] = co_await stream.async_read_some(asio::buffer(bytes), use_result);
        got += size;
        is_over = static_cast<bool>(error);
    }
}

/// A stream, each part a chunk, until it has ended or the client is gone.
awaitable<void> send_stream(Stream& stream, ApiReply reply, bool is_head) {
    http::response<http::empty_body> head;
    head.version(11);
    head.result(http::status::ok);
    head.set(http::field::server, "qhupd/" + std::string(kVersion));
    head.set(http::field::content_type, reply.content_type);
    head.set(http::field::cache_control, "no-store");
    head.keep_alive(false);
    head.chunked(true);
    http::response_serializer<http::empty_body> serializer(head);
    stream.expires_after(kWriteTime);
    const auto [head_error, head_size] =
        co_await http::async_write_header(stream, serializer, use_result);
    (void)head_size;
    bool is_gone = static_cast<bool>(head_error);
    is_gone = is_gone || is_head;
    bool is_over = is_gone;
    while (!is_over) {
        const StreamPart part = co_await reply.stream();
        stream.expires_after(kStreamWriteTime);
        const auto chunk = http::make_chunk(asio::buffer(part.text));
        const auto [error, size] = co_await asio::async_write(stream, chunk, use_result);
        (void)size;
        const bool is_stopped = co_await was_cancelled();
        is_gone = static_cast<bool>(error);
        is_over = is_gone || part.is_end || is_stopped;
    }
    // why: Asio does not try a write after one that failed, but waits for the socket to become
    // writable; if it has waited for that before, the kernel does not say it again.
    if (!is_gone) {
        stream.expires_after(kWriteTime);
        const auto last = http::make_chunk_last();
        (void)co_await asio::async_write(stream, last, use_result);
    }
}

/// A header of the request, if it is there.
std::optional<std::string> value_of(const Parser::value_type& message, std::string_view name) {
    const auto found = message.find(name);
    return found == message.end() ? std::nullopt : std::optional(std::string(found->value()));
}

/// What to say when reading the request failed; nothing if the client just went away.
std::optional<Problem> problem_of(const error_code& error) {
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
        return make_problem(
            ProblemCode::headers_too_large,
            "The header of the request has more than " + std::to_string(kMaxHeaderBytes) + " bytes."
        );
    }
    if (error == http::error::body_limit) {
        return make_problem(
            ProblemCode::too_large,
            "The body of the request has more than " + std::to_string(kMaxBodyBytes) + " bytes."
        );
    }
    if (error == beast::error::timeout) {
        return make_problem(
            ProblemCode::request_too_slow, "The request did not arrive in time.", "Send it again."
        );
    }
    if (error == http::error::end_of_stream || error == asio::error::eof ||
        error == http::error::partial_message || error == asio::error::operation_aborted ||
        error == asio::error::connection_reset) {
        return std::nullopt;
    }
    return make_problem(ProblemCode::bad_request, "The request is not HTTP.");
}

Problem not_permitted(const Peer& peer, const Config& config) {
    std::string groups;
    for (const std::string& group : {config.api.group, config.api.read_group}) {
        groups += group.empty() ? "" : " or a member of the group '" + group + "'";
    }
    return make_problem(
        ProblemCode::not_permitted,
        "The user with uid " + std::to_string(peer.uid) + " may not use qhupd.",
        "Run this as root" + groups + "."
    );
}

} // namespace

ApiServer::ApiServer(Strand home, TaskGroup& tasks, ApiHandlers& handlers, const Config& config)
    : home_(home), tasks_(tasks), handlers_(handlers), config_(config) {}

Result<void> check_group(const std::string& name) {
    const auto group = find_group(name);
    return group.has_error() ? Result<void>(group.error()) : Result<void>();
}

Result<void> ApiServer::listen(std::map<std::string, UniqueFd> given) {
    rule_.daemon_uid = ::geteuid();
    const auto group = find_group(config_.api.group);
    if (group.has_error()) {
        return group.error();
    }
    rule_.admin_group = *group;
    const auto read_group = find_group(config_.api.read_group);
    const std::string read_path = read_socket_of(config_.api);
    if (read_group.has_error()) {
        // why: it must not keep the daemon away from its VMs, and nobody gets more by it.
        const bool is_named = config_.origins.count("api.read_group") != 0;
        log().log(
            is_named ? spdlog::level::warn : spdlog::level::info,
            "there is no group '{}', so only those who may act may read on {}",
            config_.api.read_group,
            read_path
        );
    }
    rule_.read_group = read_group.has_value() ? *read_group : rule_.admin_group;
    auto opened = open_door(config_.api.socket, Access::act, rule_.admin_group, given);
    if (opened.has_value()) {
        opened = open_door(read_path, Access::read, rule_.read_group, given);
    }
    return opened;
}

Result<void> ApiServer::open_door(
    const std::string& path,
    Access most,
    std::optional<gid_t> group,
    std::map<std::string, UniqueFd>& given
) {
    const auto found = given.find(path);
    if (found == given.end()) {
        return make_door(path, most, group);
    }
    auto door = std::make_unique<Door>(Door{Protocol::acceptor(home_), "", most});
    error_code error;
    door->acceptor.assign(Protocol(), found->second.get(), error);
    if (error) {
        return make_failure(Errc::system_error, "listening on " + path, error.message());
    }
    (void)found->second.release();
    doors_.push_back(std::move(door));
    return {};
}

/// Makes the socket.
Result<void>
ApiServer::make_door(const std::string& path, Access most, std::optional<gid_t> group) {
    if (const auto cleared = clear_old_socket(path); cleared.has_error()) {
        return cleared.error();
    }
    auto door = std::make_unique<Door>(Door{Protocol::acceptor(home_), path, most});
    error_code error;
    door->acceptor.open(Protocol(), error);
    // why: nobody may connect between bind() and chmod().
    const mode_t before = ::umask(0177);
    if (!error) {
        door->acceptor.bind(Protocol::endpoint(path), error);
    }
    ::umask(before);
    if (!error) {
        door->acceptor.listen(Protocol::socket::max_listen_connections, error);
    }
    if (error) {
        return make_failure(Errc::system_error, "listening on " + path, error.message());
    }
    const auto mode = most == Access::act ? static_cast<mode_t>(config_.api.mode) : mode_t{0660};
    const bool is_set = (!group || ::chown(path.c_str(), uid_t(-1), *group) == 0) &&
                        ::chmod(path.c_str(), mode) == 0;
    if (!is_set) {
        return make_system_failure(errno, "giving " + path + " its group and mode");
    }
    doors_.push_back(std::move(door));
    return {};
}

void ApiServer::start() {
    for (const auto& door : doors_) {
        tasks_.spawn("accept", run_accept(*door));
    }
}

void ApiServer::request_stop() {
    for (const auto& door : doors_) {
        error_code error;
        door->acceptor.close(error);
        if (!door->path.empty()) {
            ::unlink(door->path.c_str());
        }
    }
}

/// One user can have three quarters of the connections, so that others have room. Not so root, who
/// could have them all anyway.
bool ApiServer::has_room_for(std::uint32_t uid) const {
    const auto mine = connections_of_.find(uid);
    const std::size_t count = mine == connections_of_.end() ? 0 : mine->second;
    const std::size_t most = config_.api.max_connections;
    return connections_ < most && (uid == 0 || count < most * 3 / 4);
}

awaitable<void> ApiServer::run_accept(Door& door) {
    for (bool is_stopped = false; !is_stopped;) {
        auto [error, socket] = co_await door.acceptor.async_accept(use_result);
        if (error && door.acceptor.is_open()) {
            log().warn("a connection could not be accepted: {}", error.message());
            // why: out of descriptors; a moment later there may be some again.
            ignore(co_await sleep_until(Deadline::in(std::chrono::milliseconds(100))), "a pause");
        }
        const bool is_cancelled = co_await was_cancelled();
        is_stopped = is_cancelled || !door.acceptor.is_open();
        if (!error && !is_stopped) {
            tasks_.spawn("connection", run_connection(std::move(socket), door.most));
        }
    }
}

awaitable<void> ApiServer::refuse_connection(Socket socket) {
    Stream stream(std::move(socket));
    const ApiReply refusal = make_reply(
        make_problem(ProblemCode::too_many_requests, "There are too many connections to qhupd.")
    );
    handlers_.on_answer(refusal.status, connections_);
    (void)co_await send(stream, refusal, false);
    error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_both, ignored);
}

awaitable<void> ApiServer::run_connection(Socket socket, Access most) {
    const auto peer = peer_of(socket.native_handle());
    const Access access = peer ? access_of(*peer, rule_, most) : Access::none;
    const std::uint32_t uid = peer ? peer->uid : 0;
    if (!peer || !has_room_for(uid)) {
        co_await refuse_connection(std::move(socket));
        co_return;
    }
    ++connections_;
    ++connections_of_[uid];
    Stream stream(std::move(socket));
    beast::flat_buffer buffer(kMaxBufferBytes);
    bool goes_on = peer.has_value();
    for (int count = 0; goes_on && count < kMaxRequestsOfConnection; ++count) {
        Parser parser;
        parser.header_limit(kMaxHeaderBytes);
        parser.body_limit(kMaxBodyBytes);
        stream.expires_never();
        ReadLimit limit(home_, stream, config_.deadlines.request);
        auto [error, size] = co_await http::async_read_header(stream, buffer, parser, use_result);
        (void)size;
        const auto& head = parser.get();
        const bool is_head = !error && head.method() == http::verb::head;
        auto refused = error ? std::optional<Problem>()
                             : ApiHandlers::refuse(head.method_string(), head.target(), access);
        if (refused) {
            // why: the body of a stranger is never parsed.
            log().info("uid {} (pid {}): {}", peer->uid, peer->pid, refused->detail);
            const ApiReply refusal =
                make_reply(access == Access::none ? not_permitted(*peer, config_) : *refused);
            handlers_.on_answer(refusal.status, connections_);
            (void)co_await send(stream, refusal, false, is_head);
            co_await drain(stream);
            break;
        }
        if (!error) {
            auto [body_error, body_size] =
                co_await http::async_read(stream, buffer, parser, use_result);
            (void)body_size;
            error = body_error;
        }
        if (error) {
            const auto problem =
                problem_of(limit.is_over() ? error_code(beast::error::timeout) : error);
            if (problem) {
                const ApiReply reply = make_reply(*problem);
                handlers_.on_answer(reply.status, connections_);
                (void)co_await send(stream, reply, false, is_head);
                co_await drain(stream);
            }
            break;
        }
        stream.expires_never();
        limit.stop();
        auto& message = parser.get();
        ApiRequest request;
        request.method = std::string(message.method_string());
        request.target = std::string(message.target());
        request.body = std::move(message.body());
        request.uid = peer->uid;
        request.pid = peer->pid;
        request.idempotency_key = value_of(message, "Idempotency-Key");
        request.last_event_id = value_of(message, "Last-Event-ID");
        ApiReply reply = co_await handlers_.handle(std::move(request));
        handlers_.on_answer(reply.status, connections_);
        if (reply.stream) {
            co_await send_stream(stream, std::move(reply), is_head);
            break;
        }
        const bool is_cancelled = co_await was_cancelled();
        goes_on = message.keep_alive() && !is_cancelled;
        const error_code sent = co_await send(stream, reply, goes_on, is_head);
        goes_on = goes_on && !sent;
    }
    error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_both, ignored);
    --connections_;
    const auto mine = connections_of_.find(uid);
    if (--mine->second == 0) {
        connections_of_.erase(mine);
    }
}

} // namespace qhup::daemon
