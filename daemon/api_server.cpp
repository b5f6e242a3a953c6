// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_server.hpp"

#include "common/log.hpp"
#include "common/unique_fd.hpp"
#include "common/version.hpp"
#include "daemon/problems.hpp"

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
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
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
    if (!error) {
        return make_failure(
            Errc::invalid_argument, "another qhupd listens on " + path + "; one is enough"
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
    response.keep_alive(keeps_alive);
    response.body() = reply.body;
    response.prepare_payload();
    return response;
}

awaitable<error_code> send(Stream& stream, const ApiReply& reply, bool keeps_alive) {
    const auto response = make_response(reply, keeps_alive);
    stream.expires_after(kWriteTime);
    http::response_serializer<http::string_body> serializer(
        const_cast<http::response<http::string_body>&>(response)
    );
    const auto [error, size] = co_await http::async_write(stream, serializer, use_result);
    (void)size;
    co_return error;
}

/// A stream, each part a chunk, until it has ended or the client is gone.
awaitable<void> send_stream(Stream& stream, ApiReply reply) {
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
    bool is_over = static_cast<bool>(head_error);
    while (!is_over) {
        const StreamPart part = co_await reply.stream();
        stream.expires_after(kStreamWriteTime);
        const auto chunk = http::make_chunk(asio::buffer(part.text));
        const auto [error, size] = co_await asio::async_write(stream, chunk, use_result);
        (void)size;
        const bool is_stopped = co_await was_cancelled();
        is_over = error || part.is_end || is_stopped;
    }
    stream.expires_after(kWriteTime);
    const auto last = http::make_chunk_last();
    (void)co_await asio::async_write(stream, last, use_result);
}

/// What to say when reading the request failed; nothing if the client just went away.
std::optional<Problem> problem_of(const error_code& error) {
    if (error == http::error::header_limit || error == http::error::body_limit ||
        error == http::error::buffer_overflow) {
        return make_problem(ProblemCode::too_large, "The request has too many bytes.");
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
    const std::string group =
        config.api.group.empty() ? "" : " or a member of the group '" + config.api.group + "'";
    return make_problem(
        ProblemCode::not_permitted,
        "The user with uid " + std::to_string(peer.uid) + " may not use qhupd.",
        "Run this as root" + group + "."
    );
}

} // namespace

ApiServer::ApiServer(Strand home, TaskGroup& tasks, ApiHandlers& handlers, const Config& config)
    : home_(home), tasks_(tasks), handlers_(handlers), config_(config), acceptor_(home) {}

Result<void> check_group(const std::string& name) {
    const auto group = find_group(name);
    return group.has_error() ? Result<void>(group.error()) : Result<void>();
}

Result<void> ApiServer::listen(std::map<std::string, UniqueFd> given) {
    const std::string& path = config_.api.socket;
    rule_.daemon_uid = ::geteuid();
    const auto group = find_group(config_.api.group);
    if (group.has_error()) {
        return group.error();
    }
    rule_.admin_group = *group;
    if (const auto found = given.find(path); found != given.end()) {
        error_code assigned;
        acceptor_.assign(Protocol(), found->second.get(), assigned);
        if (assigned) {
            return make_failure(Errc::system_error, "listening on " + path, assigned.message());
        }
        (void)found->second.release();
        is_given_ = true;
        return {};
    }
    if (const auto cleared = clear_old_socket(path); cleared.has_error()) {
        return cleared.error();
    }
    error_code error;
    acceptor_.open(Protocol(), error);
    // why: nobody may connect between bind() and chmod().
    const mode_t before = ::umask(0177);
    if (!error) {
        acceptor_.bind(Protocol::endpoint(path), error);
    }
    ::umask(before);
    if (!error) {
        acceptor_.listen(Protocol::socket::max_listen_connections, error);
    }
    if (error) {
        return make_failure(Errc::system_error, "listening on " + path, error.message());
    }
    const bool is_set =
        (!rule_.admin_group || ::chown(path.c_str(), uid_t(-1), *rule_.admin_group) == 0) &&
        ::chmod(path.c_str(), static_cast<mode_t>(config_.api.mode)) == 0;
    if (!is_set) {
        return make_system_failure(errno, "giving " + path + " its group and mode");
    }
    return {};
}

void ApiServer::request_stop() {
    error_code error;
    acceptor_.close(error);
    if (!is_given_) {
        ::unlink(config_.api.socket.c_str());
    }
}

awaitable<void> ApiServer::run_accept() {
    for (bool is_stopped = false; !is_stopped;) {
        auto [error, socket] = co_await acceptor_.async_accept(use_result);
        if (error && acceptor_.is_open()) {
            log().warn("a connection could not be accepted: {}", error.message());
            // why: out of descriptors; a moment later there may be some again.
            ignore(co_await sleep_until(Deadline::in(std::chrono::milliseconds(100))), "a pause");
        }
        const bool is_cancelled = co_await was_cancelled();
        is_stopped = is_cancelled || !acceptor_.is_open();
        if (!error && !is_stopped && connections_ < config_.api.max_connections) {
            ++connections_;
            tasks_.spawn("connection", run_connection(std::move(socket)));
        }
    }
}

awaitable<void> ApiServer::run_connection(Socket socket) {
    const auto peer = peer_of(socket.native_handle());
    const bool is_permitted = peer && may_act(*peer, rule_);
    Stream stream(std::move(socket));
    beast::flat_buffer buffer(kMaxBufferBytes);
    bool goes_on = peer.has_value();
    for (int count = 0; goes_on && count < kMaxRequestsOfConnection; ++count) {
        Parser parser;
        parser.header_limit(kMaxHeaderBytes);
        parser.body_limit(kMaxBodyBytes);
        stream.expires_after(config_.deadlines.request);
        auto [error, size] = co_await http::async_read_header(stream, buffer, parser, use_result);
        (void)size;
        if (!error && !is_permitted) {
            // why: the body of a stranger is never parsed.
            log().warn("uid {} (pid {}) may not use the API", peer->uid, peer->pid);
            const ApiReply refusal = make_reply(not_permitted(*peer, config_));
            (void)co_await send(stream, refusal, false);
            break;
        }
        if (!error) {
            auto [body_error, body_size] =
                co_await http::async_read(stream, buffer, parser, use_result);
            (void)body_size;
            error = body_error;
        }
        if (error) {
            const auto problem = problem_of(error);
            if (problem) {
                const ApiReply reply = make_reply(*problem);
                (void)co_await send(stream, reply, false);
            }
            break;
        }
        stream.expires_never();
        auto& message = parser.get();
        ApiRequest request;
        request.method = std::string(message.method_string());
        request.target = std::string(message.target());
        request.body = std::move(message.body());
        request.uid = peer->uid;
        request.last_event_id = std::string(message["Last-Event-ID"]);
        ApiReply reply = co_await handlers_.handle(std::move(request));
        if (reply.stream) {
            co_await send_stream(stream, std::move(reply));
            break;
        }
        const bool is_cancelled = co_await was_cancelled();
        goes_on = message.keep_alive() && !is_cancelled;
        const error_code sent = co_await send(stream, reply, goes_on);
        goes_on = goes_on && !sent;
    }
    error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_both, ignored);
    --connections_;
}

} // namespace qhup::daemon
