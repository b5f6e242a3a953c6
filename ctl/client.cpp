// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/client.hpp"

#include "common/unique_fd.hpp"
#include "common/version.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <grp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <limits>
#include <optional>

namespace qhup::ctl {
namespace {

namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using Parser = http::response_parser<http::string_body>;

constexpr std::uint64_t kMaxBodyBytes = 256U << 20U;
constexpr std::uint32_t kMaxHeaderBytes = 64U << 10U;
constexpr std::chrono::seconds kSilence{60}; // an event stream is never silent for so long
constexpr std::chrono::milliseconds kTick{100};

std::atomic<bool> interrupted{false};

void on_signal(int /*signal*/) {
    interrupted = true;
}

class CtlCategory final : public Category {
public:
    constexpr CtlCategory() noexcept : Category(0x3b1f7a94c02de56bU) {}

    const char* name() const noexcept override { return "qhup.ctl"; }

    std::string message(int value) const override { return wire_code(value); }

    Severity severity(int /*value*/) const noexcept override { return Severity::transient; }

    const char* wire_code(int value) const noexcept override {
        switch (static_cast<Errc>(value)) {
        case Errc::unreachable: return "unreachable";
        case Errc::not_permitted: return "not_permitted";
        case Errc::no_answer: return "no_answer";
        case Errc::bad_answer: return "bad_answer";
        case Errc::detached: return "detached";
        }
        return "internal_error";
    }
};

Failure went_away() {
    return make_failure(
        Errc::unreachable,
        "qhupd went away before it answered. VMs are not harmed by that: when it is back, "
        "'qhupd-ctl status' says what it finished or undid"
    );
}

Failure no_answer() {
    return make_failure(
        Errc::no_answer, "qhupd is there but did not answer in time. See 'systemctl status qhupd'"
    );
}

/// Who may open a socket, as the end of a sentence: the group that it belongs to knows nobody but
/// the file system.
std::string members_of(const std::string& path) {
    struct stat facts {};
    const bool is_known = ::stat(path.c_str(), &facts) == 0 && facts.st_gid != 0;
    const group* const owner = is_known ? ::getgrgid(facts.st_gid) : nullptr;
    return owner != nullptr ? "as a member of the group '" + std::string(owner->gr_name) + "'"
                            : "as a member of the group that [api] in qhupd.toml names";
}

Failure may_not_open(const std::string& path) {
    return make_failure(
        Errc::not_permitted,
        "you may not open " + path + ". Run this as root or " + members_of(path)
    );
}

Failure cannot_connect(const std::string& path, int reason) {
    if (reason == EACCES || reason == EPERM) {
        return may_not_open(path);
    }
    const std::string why = reason == ENOENT         ? "there is no socket " + path
                            : reason == ECONNREFUSED ? "nobody listens on " + path
                                                     : "cannot connect to " + path;
    return make_failure(
        Errc::unreachable,
        "qhupd does not run, or listens somewhere else: " + why +
            ". See 'systemctl status qhupd', or name its socket with --socket"
    );
}

Result<UniqueFd> connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty()) {
        return make_failure(
            Errc::unreachable, "the socket path is empty: say another one with --socket"
        );
    }
    if (path.size() >= sizeof(address.sun_path)) {
        return make_failure(
            Errc::unreachable, "the socket path " + path + " is too long for a Unix socket"
        );
    }
    std::memcpy(static_cast<char*>(address.sun_path), path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) {
        return make_system_failure(errno, "making a socket");
    }
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(fd.get(), generic, sizeof(address)) != 0) {
        return cannot_connect(path, errno);
    }
    return fd;
}

/// The same for a user who may perhaps only read.
/// @param read_path  the socket for that; "": there is none
Result<UniqueFd>
connect_to(const std::string& path, const std::string& read_path, bool is_reading) {
    auto fd = connect_to(path);
    const bool is_refused =
        fd.has_error() && fd.error().code == make_error_code(Errc::not_permitted);
    if (!is_refused || read_path.empty()) {
        return fd;
    }
    auto other = connect_to(read_path);
    if (is_reading && other.has_value()) {
        return other;
    }
    Failure failure = fd.error();
    if (other.has_value()) {
        failure.message = "you may look at everything (on " + read_path +
                          ") and change nothing, since you may not open " + path +
                          ". Run this as root or " + members_of(path);
    } else if (other.error().code == make_error_code(Errc::not_permitted)) {
        failure.message += "; to look only, " + members_of(read_path);
    }
    return failure;
}

/// One request and its answer on one connection.
class Exchange {
public:
    explicit Exchange(UniqueFd fd) : fd_(std::move(fd)) {
        parser_.body_limit(kMaxBodyBytes);
        parser_.header_limit(kMaxHeaderBytes);
        parser_.eager(true);
    }

    Result<void> send(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR) {
                continue;
            }
            if (sent < 0) {
                // why: a server that refuses us answers and closes without reading the request.
                return {};
            }
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return {};
    }

    /// Waits until something can be read. False: nothing came until then.
    Result<bool> wait_readable(Clock::time_point until, bool is_interruptible) {
        // why: signals are open only inside ppoll, so that none is missed before it.
        sigset_t inside;
        sigemptyset(&inside);
        for (;;) {
            if (is_interruptible && interrupted) {
                return make_failure(Errc::detached, "interrupted");
            }
            const auto left = std::max(until - Clock::now(), Clock::duration::zero());
            const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
            const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds);
            const timespec timeout{seconds.count(), rest.count()};
            pollfd entry{fd_.get(), POLLIN, 0};
            const int ready = ::ppoll(&entry, 1, &timeout, is_interruptible ? &inside : nullptr);
            if (ready >= 0) {
                return ready > 0;
            }
        }
    }

    bool is_done() const { return parser_.is_done(); }

    /// Reads what is there once. False: the answer is complete.
    Result<bool> read_some() {
        std::array<char, 64U * 1024U> chunk; // filled by recv
        const ssize_t got = ::recv(fd_.get(), chunk.data(), chunk.size(), 0);
        if (got < 0 && errno == EINTR) {
            return true;
        }
        if (got <= 0) {
            return went_away();
        }
        pending_.append(chunk.data(), static_cast<std::size_t>(got));
        return parse_pending();
    }

    const Parser& parser() const { return parser_; }
    std::string& body() { return parser_.get().body(); }

private:
    Result<bool> parse_pending() {
        while (!pending_.empty() && !parser_.is_done()) {
            error_code error;
            const std::size_t used = parser_.put(boost::asio::buffer(pending_), error);
            pending_.erase(0, used);
            if (error == http::error::need_more) {
                return true;
            }
            if (error) {
                return make_failure(Errc::bad_answer, "what answers on the socket is not qhupd");
            }
        }
        return !parser_.is_done();
    }

    UniqueFd fd_;
    std::string pending_;
    Parser parser_;
};

std::string format_request(
    std::string_view method,
    std::string_view target,
    std::string_view body,
    std::optional<std::uint64_t> last_event_id = std::nullopt
) {
    std::string request(method);
    request += " " + std::string(target) + " HTTP/1.1\r\nHost: qhupd\r\nUser-Agent: qhupd-ctl/" +
               std::string(kVersion) + "\r\nConnection: close\r\n";
    if (!body.empty()) {
        request += "Content-Type: application/json\r\n";
    }
    if (last_event_id) {
        request += "Last-Event-ID: " + std::to_string(*last_event_id) + "\r\n";
    }
    request += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
    request += body;
    return request;
}

Reply reply_of(Exchange& exchange) {
    return {static_cast<int>(exchange.parser().get().result_int()), std::move(exchange.body())};
}

} // namespace

error_code make_error_code(Errc value) noexcept {
    static const CtlCategory category;
    return {static_cast<int>(value), category};
}

Result<Reply> Client::request(
    std::string_view method,
    std::string_view target,
    std::string_view body,
    std::chrono::milliseconds patience
) const {
    auto fd = connect_to(path_, read_path_, method == "GET");
    if (fd.has_error()) {
        return fd.error();
    }
    const auto until = Clock::now() + patience;
    Exchange exchange(std::move(*fd));
    if (const auto sent = exchange.send(format_request(method, target, body)); sent.has_error()) {
        return sent.error();
    }
    while (!exchange.is_done()) {
        const auto ready = exchange.wait_readable(until, false);
        if (ready.has_error()) {
            return ready.error();
        }
        if (!*ready) {
            return no_answer();
        }
        if (const auto more = exchange.read_some(); more.has_error()) {
            return more.error();
        }
    }
    return reply_of(exchange);
}

Result<Reply> Client::follow(
    std::string_view target,
    const std::function<Reading(std::string_view line)>& on_line,
    const std::function<Reading()>& on_tick,
    std::optional<std::uint64_t> last_event_id
) const {
    auto fd = connect_to(path_, read_path_, true);
    if (fd.has_error()) {
        return fd.error();
    }
    Exchange exchange(std::move(*fd));
    if (const auto sent = exchange.send(format_request("GET", target, {}, last_event_id));
        sent.has_error()) {
        return sent.error();
    }
    auto last_heard = Clock::now();
    while (!exchange.is_done()) {
        if (on_tick() == Reading::stop) {
            return make_failure(Errc::detached, "nobody wants to wait any longer");
        }
        const auto ready = exchange.wait_readable(Clock::now() + kTick, true);
        if (ready.has_error()) {
            return ready.error();
        }
        if (!*ready && Clock::now() - last_heard > kSilence) {
            return no_answer();
        }
        if (!*ready) {
            continue;
        }
        last_heard = Clock::now();
        if (const auto more = exchange.read_some(); more.has_error()) {
            return more.error();
        }
        const bool is_stream =
            exchange.parser().is_header_done() && exchange.parser().get().result_int() == 200;
        std::string& body = exchange.body();
        for (auto end = body.find('\n'); is_stream && end != std::string::npos;
             end = body.find('\n')) {
            const std::string line = body.substr(0, end);
            body.erase(0, end + 1);
            if (on_line(line) == Reading::stop) {
                return Reply{200, {}};
            }
        }
    }
    return reply_of(exchange);
}

void detach_on_interrupt() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    // invariant: blocked everywhere but inside ppoll.
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

void wait_interruptibly(std::chrono::milliseconds span) {
    const auto until = Clock::now() + span;
    sigset_t inside;
    sigemptyset(&inside);
    while (!interrupted && Clock::now() < until) {
        const auto left = std::max(until - Clock::now(), Clock::duration::zero());
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
        const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds);
        const timespec timeout{seconds.count(), rest.count()};
        ::ppoll(nullptr, 0, &timeout, &inside);
    }
}

bool was_interrupted() noexcept {
    return interrupted;
}

} // namespace qhup::ctl
