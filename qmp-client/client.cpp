// SPDX-License-Identifier: GPL-2.0-or-later
//
// Driver of a Session: one std::visit over its actions, one reader, one writer. It knows nothing
// about what the lines say.
#include "qmp-client/client.hpp"

#include "common/as_user.hpp"
#include "common/log.hpp"
#include "common/task_group.hpp"
#include "common/text.hpp"
#include "qmp-client/framer.hpp"
#include "qmp-client/read_budget.hpp"

#include <boost/asio/local/stream_protocol.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>

namespace qhup::qmp {
namespace {

using Socket = boost::asio::local::stream_protocol::socket;

constexpr std::size_t kReadBytes = 4096; // one per idle connection: a thousand of them are cheap
constexpr std::chrono::milliseconds kBacklogRetry{10};

std::uint64_t next_connection() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

Failure make_connect_failure(const std::string& path, int errno_value) {
    Failure failure = make_system_failure(errno_value, "connecting to the monitor " + path);
    switch (errno_value) {
    case ENOENT:
    case ECONNREFUSED: failure.code = Errc::nobody_listens; break;
    case EAGAIN: failure.code = Errc::monitor_busy; break;
    case EACCES:
    case EPERM: failure.code = Errc::monitor_forbidden; break;
    default: failure.code = Errc::connect_failed; break;
    }
    return failure;
}

/// A path as the kernel takes it, with what has to stay open while it is used.
struct Address {
    sockaddr_un name{};
    UniqueFd folder;
};

Result<Address> make_address(const std::string& path) {
    Address address;
    std::string text = path;
    if (text.size() >= sizeof(address.name.sun_path)) {
        // why: the kernel takes 107 bytes; a longer path is reached through its open folder.
        const std::size_t slash = path.rfind('/');
        const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        address.folder = UniqueFd(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!address.folder) {
            return make_connect_failure(path, errno);
        }
        text = "/proc/self/fd/" + std::to_string(address.folder.get()) + "/" +
               path.substr(slash == std::string::npos ? 0 : slash + 1);
    }
    if (text.empty() || text.size() >= sizeof(address.name.sun_path)) {
        return make_failure(Errc::connect_failed, "the path of the monitor is too long or empty");
    }
    address.name.sun_family = AF_UNIX;
    std::memcpy(&address.name.sun_path[0], text.data(), text.size());
    return address;
}

/// @return  errno; 0: it is connected
int connect_now(int fd, const sockaddr_un& name, std::optional<uid_t> as_user) {
    int error = 0;
    const auto connect = [fd, &name, &error] {
        const auto* const generic = reinterpret_cast<const sockaddr*>(&name);
        error = ::connect(fd, generic, sizeof(name)) == 0 ? 0 : errno;
    };
    if (!as_user) {
        connect();
        return error;
    }
    // why: the kernel notes for the peer who calls connect(), which does not wait.
    const Result<void> taken = run_as_user(*as_user, "connecting to a monitor", connect);
    return taken.has_error() ? EAGAIN : error; // no room for a thread now: tried again
}

/// Connects a non-blocking socket; waits while the listener's backlog is full.
awaitable<Result<UniqueFd>>
connect_socket(std::string path, std::optional<uid_t> as_user, Deadline deadline) {
    Result<Address> address = make_address(path);
    if (address.has_error()) {
        co_return address.error();
    }
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) {
        co_return make_connect_failure(path, errno);
    }
    while (true) {
        // why: not Asio's async_connect, which takes a full backlog (EAGAIN) for a connection that
        // is on its way, and then reports success.
        const int error = connect_now(fd.get(), address->name, as_user);
        if (error == 0) {
            co_return Result<UniqueFd>(std::move(fd));
        }
        if ((error != EAGAIN && error != EINTR) || deadline.is_over()) {
            co_return make_connect_failure(path, error);
        }
        const Result<void> slept =
            co_await sleep_until(earlier(deadline, Deadline::in(kBacklogRetry)));
        if (slept.has_error()) {
            co_return make_failure(
                Errc::not_sent_cancelled, "connecting to the monitor " + path + " was cancelled"
            );
        }
    }
}

Result<Peer> observe_peer(int fd) {
    ucred credentials{};
    socklen_t size = sizeof(credentials);
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
        return make_system_failure(errno, "asking who serves the monitor");
    }
    return Peer{credentials.pid, credentials.uid, credentials.gid};
}

/// Sends what fits, with the descriptor if there is one. Returns what sendmsg() returned.
ssize_t send_some(int fd, std::string_view bytes, const UniqueFd& descriptor) {
    // why: const_cast, because iovec serves reading, too.
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptor) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        const int value = descriptor.get();
        std::memcpy(CMSG_DATA(header), &value, sizeof(value));
    }
    return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// A caller of execute() that waits.
struct Waiter {
    explicit Waiter(const Strand& strand) : done(strand) {}
    Notifier done;
    std::optional<Result<Json>> result;
};

} // namespace

struct EventSubscription::Queue {
    Queue(const Strand& strand, std::vector<std::string> wanted, std::size_t most)
        : names(std::move(wanted)), capacity(most), changed(strand) {}

    [[nodiscard]] bool wants(const std::string& name) const {
        return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
    }

    static awaitable<Result<Event>> next(std::shared_ptr<Queue> self, Deadline deadline) {
        while (self->events.empty() && !self->end_reason.has_value()) {
            const Result<void> waited = co_await self->changed.wait(deadline);
            if (waited.has_error() && self->events.empty()) {
                co_return with_context(waited.error(), "waiting for an event from QEMU");
            }
        }
        if (self->events.empty()) {
            co_return *self->end_reason;
        }
        Event event = std::move(self->events.front());
        self->events.pop_front();
        co_return event;
    }

    std::vector<std::string> names;
    std::size_t capacity;
    Notifier changed;
    std::deque<Event> events;
    std::optional<Failure> end_reason;
};

struct Client::Impl {
    Impl(const Strand& strand_, std::string path_, std::size_t bytes_per_second)
        : strand(strand_),
          path(std::move(path_)),
          socket(strand),
          session(next_connection()),
          budget(bytes_per_second),
          tasks(strand),
          writer_wake(strand),
          reader_wake(strand),
          ready(strand) {}

    // Long-lived loops; each owns the Impl.
    static awaitable<void> run_reader(std::shared_ptr<Impl> self);
    static awaitable<void> run_writer(std::shared_ptr<Impl> self);
    static awaitable<Result<Json>>
    execute(std::shared_ptr<Impl> self, Command command, Deadline deadline);
    static awaitable<Result<void>> send_descriptor(
        std::shared_ptr<Impl> self, std::string name, Result<UniqueFd> copy, Deadline deadline
    );
    static awaitable<Result<void>> wait_closed(std::shared_ptr<Impl> self, Deadline deadline);

    awaitable<Result<void>> write(const Outgoing& outgoing);
    void on_bytes(std::string_view bytes);
    void apply(Actions actions);
    void obey(BecomeReady& action);
    void obey(CompleteCommand& action);
    void obey(DeliverEvent& action);
    void obey(EndSession& action);
    void obey(Note& action);
    void close(Failure reason) { apply(session.on_closed(std::move(reason))); }

    Strand strand;
    std::string path;
    Socket socket;
    Session session;
    Framer framer;
    ReadBudget budget;
    TaskGroup tasks;
    Notifier writer_wake;
    Notifier reader_wake;
    Notifier ready;
    Peer peer;
    Greeting greeting;
    std::map<CommandId, std::shared_ptr<Waiter>> waiters;
    std::vector<std::weak_ptr<EventSubscription::Queue>> subscribers;
    std::vector<std::shared_ptr<Notifier>> close_waiters;
    std::optional<Failure> end_reason;
    bool has_overflowed = false;
};

awaitable<void> Client::Impl::run_reader(std::shared_ptr<Impl> self) {
    std::array<char, kReadBytes> buffer{};
    while (!self->end_reason.has_value()) {
        // why: a plain receive has no room for ancillary data, so the kernel closes descriptors
        // that a peer attaches.
        const auto [error, size] =
            co_await self->socket.async_receive(asio::buffer(buffer), use_result);
        if (error) {
            self->close(make_failure(
                Errc::closed_by_peer, "the connection to " + self->path + " ended", error.message()
            ));
            co_return;
        }
        self->on_bytes(std::string_view(buffer.data(), size));
        const auto pause = self->budget.on_read(size, Deadline::Clock::now());
        if (pause > pause.zero() && !self->end_reason.has_value()) {
            ignore(co_await self->reader_wake.wait(Deadline::in(pause)), "the end is looked for");
        }
    }
}

void Client::Impl::on_bytes(std::string_view bytes) {
    framer.push(bytes);
    while (!end_reason.has_value()) {
        Result<std::optional<std::string>> line = framer.next_line(session.max_line_bytes());
        if (line.has_error()) {
            close(line.error());
        } else if (line->has_value()) {
            apply(session.on_line(**line));
        } else {
            return;
        }
    }
}

awaitable<void> Client::Impl::run_writer(std::shared_ptr<Impl> self) {
    while (!self->end_reason.has_value()) {
        const std::optional<Outgoing> outgoing = self->session.take_outgoing();
        if (!outgoing.has_value()) {
            ignore(co_await self->writer_wake.wait(), "the end is looked for");
            continue;
        }
        const Result<void> written = co_await self->write(*outgoing);
        if (written.has_error()) {
            self->close(written.error());
        }
    }
}

awaitable<Result<void>> Client::Impl::write(const Outgoing& outgoing) {
    static const UniqueFd no_descriptor;
    std::string_view rest = outgoing.line;
    while (!rest.empty() && !end_reason.has_value()) {
        const bool is_first = rest.size() == outgoing.line.size();
        const UniqueFd& descriptor = is_first ? outgoing.descriptor : no_descriptor;
        const ssize_t sent = send_some(socket.native_handle(), rest, descriptor);
        if (sent >= 0) {
            rest.remove_prefix(static_cast<std::size_t>(sent));
            continue;
        }
        const int error_number = errno;
        if (error_number == EINTR) {
            continue;
        }
        if (error_number != EAGAIN) {
            const std::error_code code(error_number, std::generic_category());
            co_return make_failure(
                Errc::closed_by_peer, "writing to " + path + " failed", code.message()
            );
        }
        const auto [error] = co_await socket.async_wait(Socket::wait_write, use_result);
        if (error) {
            co_return make_failure(
                Errc::closed_by_peer, "writing to " + path + " failed", error.message()
            );
        }
    }
    co_return Result<void>();
}

void Client::Impl::apply(Actions actions) {
    for (Action& action : actions) {
        std::visit([this](auto& each) { obey(each); }, action);
    }
    if (session.has_outgoing()) {
        writer_wake.notify();
    }
    if (std::exchange(has_overflowed, false)) {
        close(make_failure(
            Errc::events_overflowed,
            "QEMU sent events to " + path + " faster than they were handled"
        ));
    }
}

void Client::Impl::obey(BecomeReady& action) {
    greeting = std::move(action.greeting);
    ready.notify();
}

void Client::Impl::obey(CompleteCommand& action) {
    const auto waiter = waiters.find(action.id);
    if (waiter != waiters.end()) {
        waiter->second->result = std::move(action.result);
        waiter->second->done.notify();
        waiters.erase(waiter);
    }
}

void Client::Impl::obey(DeliverEvent& action) {
    std::erase_if(subscribers, [](const auto& each) { return each.expired(); });
    for (const auto& each : subscribers) {
        const std::shared_ptr<EventSubscription::Queue> queue = each.lock();
        if (queue == nullptr || !queue->wants(action.event.name)) {
            continue;
        }
        if (queue->events.size() >= queue->capacity) {
            has_overflowed = true;
            continue;
        }
        queue->events.push_back(action.event);
        queue->changed.notify();
    }
}

void Client::Impl::obey(EndSession& action) {
    end_reason = std::move(action.reason);
    log().debug("qmp {}: ended: {}", path, to_text(*end_reason));
    error_code error;
    socket.close(error);
    writer_wake.notify();
    reader_wake.notify();
    ready.notify();
    for (const auto& each : subscribers) {
        if (const auto queue = each.lock(); queue != nullptr) {
            queue->end_reason = end_reason;
            queue->changed.notify();
        }
    }
    for (const auto& waiter : close_waiters) {
        waiter->notify();
    }
}

void Client::Impl::obey(Note& action) {
    log().warn("qmp {}: {}: {}", path, action.text, quote_peer_text(action.peer_text));
}

awaitable<Result<Json>>
Client::Impl::execute(std::shared_ptr<Impl> self, Command command, Deadline deadline) {
    QHUP_ASSERT_ON_STRAND(self->strand);
    const bool is_cancelled_already = co_await was_cancelled();
    if (is_cancelled_already) {
        co_return make_failure(
            Errc::not_sent_cancelled, command.name + " was cancelled before it was sent"
        );
    }
    const Result<CommandId> id = self->session.submit(std::move(command));
    if (id.has_error()) {
        co_return id.error();
    }
    const auto waiter = std::make_shared<Waiter>(self->strand);
    self->waiters.emplace(*id, waiter);
    self->writer_wake.notify();
    const Result<void> waited = co_await waiter->done.wait(deadline);
    if (waited.has_error()) {
        const auto why =
            is_timed_out(waited.error()) ? Session::Why::timed_out : Session::Why::cancelled;
        self->apply(self->session.abandon(*id, why));
    }
    // invariant: the session completes each command once, abandoned or not.
    co_return std::move(*waiter->result);
}

awaitable<Result<void>> Client::Impl::send_descriptor(
    std::shared_ptr<Impl> self, std::string name, Result<UniqueFd> copy, Deadline deadline
) {
    if (copy.has_error()) {
        co_return copy.error();
    }
    Command command{"getfd", Json{{"fdname", std::move(name)}}, std::move(*copy)};
    const Result<Json> reply = co_await execute(self, std::move(command), deadline);
    if (reply.has_error()) {
        co_return reply.error();
    }
    co_return Result<void>();
}

awaitable<Result<void>> Client::Impl::wait_closed(std::shared_ptr<Impl> self, Deadline deadline) {
    if (!self->end_reason.has_value()) {
        const auto closed = std::make_shared<Notifier>(self->strand);
        self->close_waiters.push_back(closed);
        const Result<void> waited = co_await closed->wait(deadline);
        std::erase(self->close_waiters, closed);
        if (waited.has_error() && !self->end_reason.has_value()) {
            co_return with_context(waited.error(), "waiting for the end of " + self->path);
        }
    }
    co_return Result<void>();
}

awaitable<Result<Client>>
Client::connect(Strand strand, std::string path, ConnectOptions options, Deadline deadline) {
    QHUP_ASSERT_ON_STRAND(strand);
    Result<UniqueFd> fd = co_await connect_socket(path, options.as_user, deadline);
    if (fd.has_error()) {
        co_return fd.error();
    }
    const Result<Peer> peer = observe_peer(fd->get());
    if (peer.has_error()) {
        co_return with_context(peer.error(), "connecting to " + path);
    }
    if (options.check_peer) {
        const Result<void> judged = options.check_peer(*peer);
        if (judged.has_error()) {
            Failure failure = make_failure(
                Errc::peer_rejected, "the monitor " + path + " belongs to an unexpected process"
            );
            add_also(failure, judged.error());
            co_return failure;
        }
    }
    auto impl = std::make_shared<Impl>(strand, std::move(path), options.max_bytes_per_second);
    impl->peer = *peer;
    error_code error;
    impl->socket.assign(asio::local::stream_protocol(), fd->get(), error);
    if (error) {
        co_return make_failure(
            Errc::connect_failed, "watching the monitor " + impl->path, error.message()
        );
    }
    (void)fd->release(); // owned by the socket now
    impl->tasks.spawn("qmp reader", Impl::run_reader(impl));
    impl->tasks.spawn("qmp writer", Impl::run_writer(impl));

    const Deadline greeted_by = earlier(deadline, Deadline::in(options.greeting_timeout));
    const Result<void> waited = co_await impl->ready.wait(greeted_by);
    if (waited.has_error() && is_timed_out(waited.error())) {
        impl->apply(impl->session.on_greeting_timeout());
    } else if (waited.has_error()) {
        impl->close(make_failure(
            Errc::not_sent_cancelled, "connecting to the monitor " + impl->path + " was cancelled"
        ));
    }
    if (impl->end_reason.has_value()) {
        co_return with_context(*impl->end_reason, "connecting to " + impl->path);
    }
    co_return Client(std::move(impl));
}

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;

Client& Client::operator=(Client&& other) noexcept {
    if (this != &other) {
        request_stop();
        impl_ = std::move(other.impl_);
    }
    return *this;
}

Client::~Client() {
    request_stop();
}

awaitable<Result<Json>> Client::execute(Command command, Deadline deadline) {
    return Impl::execute(impl_, std::move(command), deadline);
}

awaitable<Result<Json>> Client::execute(std::string name, Json arguments, Deadline deadline) {
    return Impl::execute(impl_, Command{std::move(name), std::move(arguments)}, deadline);
}

awaitable<Result<void>>
Client::send_descriptor(std::string name, const UniqueFd& descriptor, Deadline deadline) {
    return Impl::send_descriptor(impl_, std::move(name), descriptor.duplicate(), deadline);
}

EventSubscription Client::subscribe(std::vector<std::string> names, std::size_t capacity) {
    QHUP_ASSERT_ON_STRAND(impl_->strand);
    auto queue =
        std::make_shared<EventSubscription::Queue>(impl_->strand, std::move(names), capacity);
    queue->end_reason = impl_->end_reason;
    impl_->subscribers.push_back(queue);
    return EventSubscription(std::move(queue));
}

const Peer& Client::peer() const noexcept {
    return impl_->peer;
}

const Greeting& Client::greeting() const noexcept {
    return impl_->greeting;
}

const std::string& Client::path() const noexcept {
    return impl_->path;
}

bool Client::is_open() const noexcept {
    return impl_ != nullptr && !impl_->end_reason.has_value();
}

std::optional<Failure> Client::end_reason() const {
    return impl_->end_reason;
}

awaitable<Result<void>> Client::wait_closed(Deadline deadline) {
    return Impl::wait_closed(impl_, deadline);
}

void Client::request_stop() {
    if (impl_ != nullptr) {
        impl_->close(make_failure(Errc::closed_by_us, "the connection was closed by the daemon"));
    }
}

awaitable<void> Client::join() {
    return impl_->tasks.join();
}

EventSubscription::EventSubscription(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}
EventSubscription::EventSubscription(EventSubscription&&) noexcept = default;
EventSubscription& EventSubscription::operator=(EventSubscription&&) noexcept = default;
EventSubscription::~EventSubscription() = default;

awaitable<Result<Event>> EventSubscription::next(Deadline deadline) {
    return Queue::next(queue_, deadline);
}

} // namespace qhup::qmp
