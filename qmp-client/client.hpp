// SPDX-License-Identifier: GPL-2.0-or-later
//
// Client drives one QMP connection: it owns the socket, one reader and one writer, and obeys a
// Session (session.hpp), which decides. Called by whoever talks to a QEMU process.
#pragma once

#include "common/async.hpp"
#include "qmp-client/message.hpp"
#include "qmp-client/session.hpp"

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::qmp {

/// Who listens on the socket, as the kernel says.
///
/// These are the credentials of the process that called listen(). A monitor that crossed an upgrade
/// therefore still shows the *first* QEMU process: for identity use a control socket, which is made
/// by the process it belongs to.
struct Peer {
    pid_t pid = 0; ///< 0: a process of another pid namespace
    uid_t uid = 0;
    gid_t gid = 0;
};

struct ConnectOptions {
    /// Of the greeting and the answer to our negotiation; within the deadline of connect().
    std::chrono::milliseconds greeting_timeout{5000};
    /// Judges the peer before a byte is read from it or written to it. Absent: everybody will do.
    std::function<Result<void>(const Peer&)> check_peer = {};
    /// Bytes a second that we read from this peer, averaged over some seconds; the rest waits in
    /// the kernel. Keeps a QEMU that floods us from taking the CPU of others.
    std::size_t max_bytes_per_second = 8U << 20U;
    /// Whom the peer sees, with that user's rights only. Absent: us, with ours.
    std::optional<uid_t> as_user = {};
};

/// Events of one client from the moment of the subscription. Holds at most `capacity` of them.
class EventSubscription {
public:
    EventSubscription(EventSubscription&&) noexcept;
    EventSubscription& operator=(EventSubscription&&) noexcept;
    ~EventSubscription();

    /// The next event.
    ///
    /// Errors:       Errc::events_overflowed and whatever else ended the session, after the events
    ///               before it; qhup::Errc::timed_out at the deadline, qhup::Errc::cancelled
    /// Cancellation: ends the wait; no event is lost
    /// Thread:       the client's strand
    [[nodiscard]] awaitable<Result<Event>> next(Deadline deadline);

private:
    friend class Client;
    struct Queue;
    explicit EventSubscription(std::shared_ptr<Queue> queue);
    std::shared_ptr<Queue> queue_;
};

/// One connection, ready for commands.
///
/// Thread: all members on the strand that was given to connect().
class Client {
public:
    /// Connects to a Unix socket, judges the peer, awaits the greeting and negotiates.
    ///
    /// Errors:        Errc::nobody_listens, Errc::monitor_busy, Errc::monitor_forbidden,
    ///                Errc::connect_failed, Errc::peer_rejected, Errc::greeting_timed_out,
    ///                Errc::negotiation_failed, or why the session ended
    /// After failure: the connection is closed; QEMU has seen at most qmp_capabilities
    /// Cancellation:  honoured at every wait; as after failure
    [[nodiscard]] static awaitable<Result<Client>>
    connect(Strand strand, std::string path, ConnectOptions options, Deadline deadline);

    Client(Client&&) noexcept;
    Client& operator=(Client&&) noexcept;
    /// Closes the connection. Commands in flight end with Errc::connection_lost.
    ~Client();

    /// Sends a command and waits for its reply. Commands may be in flight side by side.
    ///
    /// @param deadline  until the reply is here; a command that is still queued then is withdrawn
    /// @return          the reply's `return`
    /// Errors:        answer_of(failure) tells could-not-ask, refused and unknown apart;
    ///                PeerErrc for the stable codes of docs/qmp.md
    /// After failure: refused: as documented for the command. unknown: observe before acting.
    ///                A late reply is swallowed, the session goes on.
    /// Cancellation:  as the deadline, with Errc::cancelled or Errc::not_sent_cancelled
    [[nodiscard]] awaitable<Result<Json>> execute(Command command, Deadline deadline);
    [[nodiscard]] awaitable<Result<Json>>
    execute(std::string name, Json arguments, Deadline deadline);

    /// Gives QEMU a duplicate of a descriptor under a name (`getfd`), valid on this connection.
    ///
    /// Errors, after failure, cancellation: as execute()
    [[nodiscard]] awaitable<Result<void>>
    send_descriptor(std::string name, const UniqueFd& descriptor, Deadline deadline);

    /// Subscribes to events by name; no names means all. If a subscriber falls behind by more than
    /// its capacity, the session ends with Errc::events_overflowed: nothing is dropped silently.
    [[nodiscard]] EventSubscription
    subscribe(std::vector<std::string> names, std::size_t capacity = 256);

    [[nodiscard]] const Peer& peer() const noexcept;
    [[nodiscard]] const Greeting& greeting() const noexcept;
    [[nodiscard]] const std::string& path() const noexcept;

    /// Whether commands can still be sent.
    [[nodiscard]] bool is_open() const noexcept;
    /// Why the session ended; none while it is open.
    [[nodiscard]] std::optional<Failure> end_reason() const;

    /// Waits until the session has ended, at most until the deadline; end_reason() tells why.
    ///
    /// Errors: qhup::Errc::timed_out, qhup::Errc::cancelled: it is still open
    [[nodiscard]] awaitable<Result<void>> wait_closed(Deadline deadline);

    /// Starts to close the connection.
    void request_stop();
    /// Waits until reader and writer are gone; call request_stop() first.
    [[nodiscard]] awaitable<void> join();

private:
    struct Impl;
    explicit Client(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

} // namespace qhup::qmp
