// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/fake_qemu.hpp"

#include "common/async.hpp"
#include "common/unique_fd.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <deque>
#include <future>
#include <map>
#include <stdexcept>
#include <thread>

namespace qhup::test {
namespace {

using nlohmann::json;
using Protocol = asio::local::stream_protocol;

/// Bytes to write, perhaps with a descriptor.
struct Piece {
    std::string bytes;
    bool has_descriptor = false;
};

struct Connection {
    Connection(Protocol::socket socket_, FakeSide side_, FaultScript script_)
        : socket(std::move(socket_)),
          side(side_),
          script(std::move(script_)),
          wake(socket.get_executor()),
          stopped(socket.get_executor()) {}

    void send(std::string bytes, bool has_descriptor = false) {
        out.push_back({std::move(bytes), has_descriptor});
        wake.notify();
    }
    void close() {
        error_code ignored;
        is_open = false;
        socket.close(ignored);
        wake.notify();
        stopped.notify();
    }

    Protocol::socket socket;
    FakeSide side;
    FaultScript script;
    Notifier wake;    // of the writer
    Notifier stopped; // of a reader that does not read
    std::deque<Piece> out;
    std::deque<std::string> lines; // received, not handled
    std::string buffer;
    std::vector<std::string> descriptor_names;
    std::vector<UniqueFd> received;
    std::size_t written = 0;
    bool is_open = true;
    bool is_negotiated = false;
    bool is_busy = false; // the main monitor handles one command at a time
};

using ConnectionPtr = std::shared_ptr<Connection>;

std::string to_line(const json& message) {
    return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\r\n";
}

/// Receives bytes and descriptors. Returns what recvmsg() returned.
ssize_t receive(Connection& connection) {
    std::array<char, 16384> bytes{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
    iovec part{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size =
        ::recvmsg(connection.socket.native_handle(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size <= 0) {
        return size;
    }
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr;
         each = CMSG_NXTHDR(&message, each)) {
        const std::size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; each->cmsg_type == SCM_RIGHTS && i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(each) + i * sizeof(int), sizeof(fd));
            connection.received.emplace_back(fd);
        }
    }
    connection.buffer.append(bytes.data(), static_cast<std::size_t>(size));
    return size;
}

ssize_t send_piece(int socket, std::string_view bytes, bool has_descriptor) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const UniqueFd attached(has_descriptor ? ::open("/dev/null", O_RDONLY | O_CLOEXEC) : -1);
    if (attached) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        const int value = attached.get();
        std::memcpy(CMSG_DATA(header), &value, sizeof(value));
    }
    return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// One server socket. Serves one client at a time, as QEMU does.
struct Server {
    Server(const asio::any_io_executor& executor, FakeSide side_)
        : acceptor(executor), side(side_) {}

    bool listen(const std::string& path, int backlog) {
        error_code error;
        acceptor.open(Protocol(), error);
        ::unlink(path.c_str());
        if (!error && path.size() < sizeof(sockaddr_un::sun_path)) {
            acceptor.bind(Protocol::endpoint(path), error);
        }
        if (!error) {
            acceptor.listen(backlog, error);
        }
        return !error;
    }
    void close() {
        error_code ignored;
        acceptor.close(ignored);
        if (client != nullptr) {
            client->close();
        }
    }

    Protocol::acceptor acceptor;
    FakeSide side;
    ConnectionPtr client;
};

using ServerPtr = std::shared_ptr<Server>;

} // namespace

namespace {

/// One VM with its servers.
class Host {
public:
    Host(asio::io_context& io, FakeQemuOptions options)
        : options_(std::move(options)), io_(io), vm_(options_.vm, make_world()) {
        if (!listen(FakeSide::main, options_.qmp_path)) {
            throw std::runtime_error("cannot listen on " + options_.qmp_path);
        }
    }

    FakeQemuOptions options_;
    asio::io_context& io_;
    std::map<FakeSide, ServerPtr> servers_;
    std::vector<std::string> commands_;
    std::size_t descriptors_ = 0;
    FakeVm vm_;

    std::size_t connections() const {
        std::size_t count = 0;
        for (const auto& [side, server] : servers_) {
            count += server->client != nullptr && server->client->is_open ? 1 : 0;
        }
        return count;
    }
    void hang_up() {
        for (const auto& [side, server] : servers_) {
            if (server->client != nullptr) {
                server->client->close();
            }
        }
    }
    void send_raw(FakeSide side, const std::string& bytes) {
        const auto server = servers_.find(side);
        if (server != servers_.end() && server->second->client != nullptr) {
            server->second->client->send(bytes);
        }
    }

private:
    FakeVm::World make_world();
    bool listen(FakeSide side, const std::string& path);
    awaitable<void> run_server(ServerPtr server);
    awaitable<void> run_reader(ConnectionPtr connection);
    static awaitable<void> run_writer(ConnectionPtr connection, json greeting);
    static awaitable<bool> write(ConnectionPtr connection, Piece piece);
    void pump(const ConnectionPtr& connection);
    void handle(const ConnectionPtr& connection, const std::string& line);
    void respond(const ConnectionPtr& connection, const json& id, FakeVm::Answer answer);

    template <class Coroutine>
    void start(Coroutine coroutine) {
        asio::co_spawn(io_, std::move(coroutine), [](std::exception_ptr thrown) {
            if (thrown) {
                std::rethrow_exception(thrown); // a bug of the fake: let the test die
            }
        });
    }
};

FakeVm::World Host::make_world() {
    FakeVm::World world;
    world.after = [this](std::chrono::nanoseconds time, std::function<void()> function) {
        auto timer = std::make_shared<asio::steady_timer>(io_, time);
        timer->async_wait([timer, function = std::move(function)](error_code error) {
            if (!error) {
                function();
            }
        });
    };
    world.listen = [this](FakeSide side, const std::string& path) { return listen(side, path); };
    world.close = [this](FakeSide side) {
        if (const auto server = servers_.find(side); server != servers_.end()) {
            server->second->close();
            servers_.erase(server);
        }
    };
    world.promote_target = [this] {
        auto target = servers_.extract(FakeSide::target);
        if (!target.empty()) {
            target.key() = FakeSide::source;
            target.mapped()->side = FakeSide::source;
            if (target.mapped()->client != nullptr) {
                target.mapped()->client->side = FakeSide::source;
            }
            servers_.insert(std::move(target));
        }
    };
    world.emit = [this](FakeSide side, const json& event) {
        const auto server = servers_.find(side);
        const ConnectionPtr client = server == servers_.end() ? nullptr : server->second->client;
        if (client != nullptr && client->is_negotiated) {
            client->send(to_line(event));
        }
        // why: a main monitor that was not read may be read now.
        asio::post(io_, [this] {
            const auto main = servers_.find(FakeSide::main);
            if (main != servers_.end() && main->second->client != nullptr) {
                pump(main->second->client);
            }
        });
    };
    return world;
}

bool Host::listen(FakeSide side, const std::string& path) {
    auto server = std::make_shared<Server>(io_.get_executor(), side);
    if (!server->listen(path, options_.backlog)) {
        return false;
    }
    servers_[side] = server;
    start(run_server(server));
    return true;
}

awaitable<void> Host::run_server(ServerPtr server) {
    while (server->acceptor.is_open()) {
        auto [error, socket] = co_await server->acceptor.async_accept(use_result);
        if (error) {
            co_return;
        }
        const bool is_main = server->side == FakeSide::main;
        auto connection = std::make_shared<Connection>(
            std::move(socket),
            server->side,
            is_main ? options_.main_script : options_.control_script
        );
        server->client = connection;
        start(run_writer(connection, vm_.make_greeting(server->side)));
        co_await run_reader(connection);
        connection->close();
        server->client.reset();
    }
}

awaitable<void> Host::run_reader(ConnectionPtr connection) {
    while (connection->is_open) {
        if (connection->script.stops_reading && connection->is_negotiated) {
            ignore(co_await connection->stopped.wait(), "closed is looked for");
            continue;
        }
        const auto [error] =
            co_await connection->socket.async_wait(Protocol::socket::wait_read, use_result);
        if (error || !connection->is_open || receive(*connection) <= 0) {
            co_return;
        }
        std::size_t end = 0;
        while ((end = connection->buffer.find('\n')) != std::string::npos) {
            connection->lines.push_back(connection->buffer.substr(0, end));
            connection->buffer.erase(0, end + 1);
        }
        pump(connection);
    }
}

void Host::pump(const ConnectionPtr& connection) {
    while (connection->is_open && !connection->lines.empty()) {
        const bool is_main = connection->side == FakeSide::main;
        if (is_main && (connection->is_busy || !vm_.is_main_read())) {
            return;
        }
        const std::string line = std::move(connection->lines.front());
        connection->lines.pop_front();
        handle(connection, line);
    }
}

void Host::handle(const ConnectionPtr& connection, const std::string& line) {
    const json request = json::parse(line, nullptr, false);
    if (!request.is_object() || !request.contains("execute") || !request["execute"].is_string()) {
        connection->send(to_line({{"error", {{"class", "GenericError"}, {"desc", "not QMP"}}}}));
        return;
    }
    const auto name = request["execute"].get<std::string>();
    const json id = request.value("id", json());
    const json arguments = request.value("arguments", json::object());
    commands_.push_back(std::string(to_string(connection->side)) + " " + name);
    if (!connection->is_negotiated && name != "qmp_capabilities") {
        FakeVm::Answer answer;
        answer.error_class = "CommandNotFound";
        answer.error_desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
        respond(connection, id, std::move(answer));
        return;
    }
    if (name == "getfd") {
        if (connection->received.empty()) {
            FakeVm::Answer answer;
            answer.error_class = "GenericError";
            answer.error_desc = "No file descriptor supplied via SCM_RIGHTS";
            respond(connection, id, std::move(answer));
            return;
        }
        descriptors_ += connection->received.size();
        connection->received.clear();
        connection->descriptor_names.push_back(arguments.value("fdname", ""));
    }
    connection->is_busy = true;
    const bool is_negotiation = name == "qmp_capabilities";
    auto on_answer = [this, connection, id, is_negotiation](FakeVm::Answer answer) {
        respond(connection, id, std::move(answer));
        connection->is_negotiated = connection->is_negotiated || is_negotiation;
        connection->is_busy = false;
        asio::post(io_, [this, connection] { pump(connection); });
    };
    try {
        vm_.on_command(connection->side, name, arguments, connection->descriptor_names, on_answer);
    } catch (const std::exception& exception) {
        FakeVm::Answer answer;
        answer.error_class = "GenericError";
        answer.error_code = "bad-argument";
        answer.error_desc = exception.what();
        on_answer(std::move(answer));
    }
}

void Host::respond(const ConnectionPtr& connection, const json& id, FakeVm::Answer answer) {
    const FaultScript& script = connection->script;
    const bool is_faulty = connection->is_negotiated;
    if (answer.hangs_up) {
        connection->close();
        return;
    }
    if (answer.is_silent || (is_faulty && script.is_silent)) {
        return;
    }
    json reply;
    if (answer.result.has_value()) {
        reply["return"] = *answer.result;
    } else {
        reply["error"] = {{"class", answer.error_class}, {"desc", answer.error_desc}};
        if (connection->side != FakeSide::main && !answer.error_code.empty()) {
            reply["error"]["code"] = answer.error_code;
        }
    }
    if (!id.is_null()) {
        reply["id"] = id;
    }
    std::string line = to_line(reply);
    if (!is_faulty) {
        connection->send(std::move(line));
        return;
    }
    for (std::size_t i = 0; i < script.events_before_reply; ++i) {
        connection->send(to_line({{"event", "RTC_CHANGE"}, {"data", {{"offset", i}}}}));
    }
    if (script.sends_unknown_id) {
        connection->send(to_line({{"return", "for nobody"}, {"id", "q-0-0"}}));
        connection->send(to_line({{"return", "for nobody"}, {"id", 12}}));
    }
    if (script.sends_error_without_id) {
        line = to_line({{"error", {{"class", "GenericError"}, {"desc", "JSON parse error"}}}});
    } else if (!script.raw_reply.empty()) {
        line = script.raw_reply;
    } else if (script.huge_line_bytes > 0) {
        line = to_line({{"return", std::string(script.huge_line_bytes, 'x')}, {"id", id}});
    } else if (script.deep_json_depth > 0) {
        line = "{\"return\": " + std::string(script.deep_json_depth, '[') +
               std::string(script.deep_json_depth, ']') + ", \"id\": " + id.dump() + "}\r\n";
    }
    connection->send(line, script.attaches_descriptor);
    if (script.replies_twice) {
        connection->send(line);
    }
}

awaitable<void> Host::run_writer(ConnectionPtr connection, json greeting) {
    const FaultScript& script = connection->script;
    if (script.greeting_delay.count() > 0) {
        const Deadline end = Deadline::in(script.greeting_delay);
        while (connection->is_open && !end.is_over()) {
            ignore(co_await connection->wake.wait(end), "the end is looked for");
        }
    }
    if (!script.is_without_greeting) {
        connection->out.push_front(
            {script.greeting.empty() ? to_line(greeting) : script.greeting, false}
        );
    }
    while (connection->is_open) {
        if (connection->out.empty()) {
            ignore(co_await connection->wake.wait(), "the end is looked for");
            continue;
        }
        Piece piece = std::move(connection->out.front());
        connection->out.pop_front();
        const bool is_written = co_await write(connection, std::move(piece));
        if (!is_written) {
            connection->close();
        }
    }
}

awaitable<bool> Host::write(ConnectionPtr connection, Piece piece) {
    const FaultScript& script = connection->script;
    std::string_view rest = piece.bytes;
    while (!rest.empty() && connection->is_open) {
        std::string_view chunk = rest;
        if (script.chunk_bytes > 0) {
            chunk = chunk.substr(0, script.chunk_bytes);
        }
        if (script.hang_up_after_bytes.has_value()) {
            chunk = chunk.substr(0, *script.hang_up_after_bytes - connection->written);
            if (chunk.empty()) {
                co_return false;
            }
        }
        const ssize_t sent =
            send_piece(connection->socket.native_handle(), chunk, piece.has_descriptor);
        if (sent < 0 && errno != EAGAIN) {
            co_return false;
        }
        if (sent < 0) {
            const auto [error] =
                co_await connection->socket.async_wait(Protocol::socket::wait_write, use_result);
            if (error) {
                co_return false;
            }
            continue;
        }
        piece.has_descriptor = false;
        connection->written += static_cast<std::size_t>(sent);
        rest.remove_prefix(static_cast<std::size_t>(sent));
        if (script.chunk_bytes > 0) {
            ignore(co_await sleep_until(Deadline::in(script.chunk_pause)), "nobody cancels");
        }
    }
    co_return connection->written != script.hang_up_after_bytes;
}

} // namespace

struct FakeQemu::Impl {
    asio::io_context io{1};
    asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
    std::vector<std::unique_ptr<Host>> hosts;
    std::thread thread;

    /// Runs the function on the server's thread and brings back what it returns.
    template <class Function>
    auto call(Function function) {
        std::packaged_task<std::invoke_result_t<Function>()> job(std::move(function));
        auto result = job.get_future();
        asio::post(io, std::move(job));
        return result.get();
    }
};

FakeQemu::FakeQemu(FakeQemuOptions options)
    : FakeQemu(std::vector<FakeQemuOptions>{std::move(options)}) {}

FakeQemu::FakeQemu(std::vector<FakeQemuOptions> options) : impl_(std::make_unique<Impl>()) {
    for (FakeQemuOptions& each : options) {
        impl_->hosts.push_back(std::make_unique<Host>(impl_->io, std::move(each)));
    }
    impl_->thread = std::thread([io = &impl_->io] { io->run(); });
}

FakeQemu::~FakeQemu() {
    impl_->io.stop();
    impl_->thread.join();
}

const std::string& FakeQemu::path(std::size_t vm) const {
    return impl_->hosts.at(vm)->options_.qmp_path;
}

void FakeQemu::with_vm(std::function<void(FakeVm&)> function, std::size_t vm) {
    impl_->call([&] { function(impl_->hosts.at(vm)->vm_); });
}

void FakeQemu::set_main_script(FaultScript script, std::size_t vm) {
    impl_->call([&] { impl_->hosts.at(vm)->options_.main_script = std::move(script); });
}

void FakeQemu::set_control_script(FaultScript script, std::size_t vm) {
    impl_->call([&] { impl_->hosts.at(vm)->options_.control_script = std::move(script); });
}

std::vector<std::string> FakeQemu::commands(std::size_t vm) {
    return impl_->call([&] { return impl_->hosts.at(vm)->commands_; });
}

std::size_t FakeQemu::connections(std::size_t vm) {
    return impl_->call([&] { return impl_->hosts.at(vm)->connections(); });
}

std::size_t FakeQemu::descriptors_received(std::size_t vm) {
    return impl_->call([&] { return impl_->hosts.at(vm)->descriptors_; });
}

void FakeQemu::emit(const std::string& event, json data, std::size_t vm) {
    send_raw(to_line({{"event", event}, {"data", std::move(data)}}), vm);
}

void FakeQemu::send_raw(std::string bytes, std::size_t vm) {
    impl_->call([&] { impl_->hosts.at(vm)->send_raw(FakeSide::main, bytes); });
}

void FakeQemu::hang_up(std::size_t vm) {
    impl_->call([&] { impl_->hosts.at(vm)->hang_up(); });
}

FaultScript parse_fault_script(const json& object) {
    FaultScript script;
    for (const auto& [key, value] : object.items()) {
        if (key == "greeting_delay_ms") {
            script.greeting_delay = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "is_without_greeting") {
            script.is_without_greeting = value.get<bool>();
        } else if (key == "greeting") {
            script.greeting = value.get<std::string>();
        } else if (key == "chunk_bytes") {
            script.chunk_bytes = value.get<std::size_t>();
        } else if (key == "chunk_pause_ms") {
            script.chunk_pause = std::chrono::milliseconds(value.get<std::int64_t>());
        } else if (key == "hang_up_after_bytes") {
            script.hang_up_after_bytes = value.get<std::size_t>();
        } else if (key == "is_silent") {
            script.is_silent = value.get<bool>();
        } else if (key == "stops_reading") {
            script.stops_reading = value.get<bool>();
        } else if (key == "replies_twice") {
            script.replies_twice = value.get<bool>();
        } else if (key == "sends_unknown_id") {
            script.sends_unknown_id = value.get<bool>();
        } else if (key == "sends_error_without_id") {
            script.sends_error_without_id = value.get<bool>();
        } else if (key == "attaches_descriptor") {
            script.attaches_descriptor = value.get<bool>();
        } else if (key == "events_before_reply") {
            script.events_before_reply = value.get<std::size_t>();
        } else if (key == "huge_line_bytes") {
            script.huge_line_bytes = value.get<std::size_t>();
        } else if (key == "deep_json_depth") {
            script.deep_json_depth = value.get<std::size_t>();
        } else if (key == "raw_reply") {
            script.raw_reply = value.get<std::string>();
        } else {
            throw std::runtime_error("unknown field of a fault script: " + key);
        }
    }
    return script;
}

} // namespace qhup::test
