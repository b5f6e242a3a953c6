// SPDX-License-Identifier: GPL-2.0-or-later
//
// FakeQemu serves fake VMs (fake_vm.hpp) on real Unix sockets from one thread of its own, with the
// transport faults of a FaultScript. One process can host a thousand. Members may be called from
// any other thread; they return when the server thread has done it.
#pragma once

#include "tests/support/fake_vm.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::test {

/// Faults of the transport. Those of replies concern replies after the negotiation.
struct FaultScript {
    std::chrono::milliseconds greeting_delay{0};
    bool is_without_greeting = false;
    std::string greeting;                           ///< these bytes instead of the greeting
    std::size_t chunk_bytes = 0;                    ///< so many bytes per write; 0: all at once
    std::chrono::milliseconds chunk_pause{0};       ///< between chunks
    std::optional<std::size_t> hang_up_after_bytes; ///< written on a connection, greeting included
    bool is_silent = false;                         ///< reads commands, answers none
    bool stops_reading = false;                     ///< after the negotiation
    bool replies_twice = false;
    bool sends_unknown_id = false;       ///< a reply to nobody before each reply
    bool sends_error_without_id = false; ///< instead of the reply
    bool attaches_descriptor = false;    ///< to each reply
    std::size_t events_before_reply = 0; ///< event storm
    std::size_t huge_line_bytes = 0;     ///< the reply is a text of this length
    std::size_t deep_json_depth = 0;     ///< the reply is nested so deep
    std::string raw_reply;               ///< these bytes instead of each reply
};

struct FakeQemuOptions {
    std::string qmp_path;
    FakeVmOptions vm;
    FaultScript main_script;    ///< of the main monitor
    FaultScript control_script; ///< of both control sockets
    int backlog = 64;
};

class FakeQemu {
public:
    /// Listens; throws std::runtime_error if it cannot.
    explicit FakeQemu(FakeQemuOptions options);
    explicit FakeQemu(std::vector<FakeQemuOptions> options);
    /// Closes everything and joins the thread. Socket files stay, as after a killed QEMU.
    ~FakeQemu();
    FakeQemu(const FakeQemu&) = delete;
    FakeQemu& operator=(const FakeQemu&) = delete;

    [[nodiscard]] const std::string& path(std::size_t vm = 0) const;

    /// Calls a function with the VM on the server's thread, to look or to change its options.
    void with_vm(std::function<void(FakeVm&)> function, std::size_t vm = 0);
    /// Scripts for connections that are accepted from now on.
    void set_main_script(FaultScript script, std::size_t vm = 0);
    void set_control_script(FaultScript script, std::size_t vm = 0);

    /// Commands so far, in order of arrival: "main query-hot-upgrade", "source hot-upgrade-switch".
    [[nodiscard]] std::vector<std::string> commands(std::size_t vm = 0);
    /// Connections of all servers of the VM that are open.
    [[nodiscard]] std::size_t connections(std::size_t vm = 0);
    /// Descriptors that came with `getfd`, so far.
    [[nodiscard]] std::size_t descriptors_received(std::size_t vm = 0);

    /// Sends an event to all connections of the main monitor.
    void emit(const std::string& event, nlohmann::json data, std::size_t vm = 0);
    /// Sends bytes to all connections of the main monitor.
    void send_raw(std::string bytes, std::size_t vm = 0);
    /// Closes all connections of the VM; the listeners stay.
    void hang_up(std::size_t vm = 0);

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

[[nodiscard]] FaultScript parse_fault_script(const nlohmann::json& object);

} // namespace qhup::test
