// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/probe.hpp"

#include "qmp-client/client.hpp"

#include <utility>

namespace qhup::daemon {
namespace {

/// A QEMU that does not know our command still has a name and a state.
awaitable<VmProbe> ask_stock_qemu(qmp::Client& client, VmProbe probe, Deadline deadline) {
    const auto status = co_await client.execute("query-status", qmp::Json(), deadline);
    if (status.has_error()) {
        probe.why = status.error();
        co_return probe;
    }
    const auto name = co_await client.execute("query-name", qmp::Json(), deadline);
    probe.answers = true;
    probe.facts.version_text = client.greeting().version;
    probe.facts.package = client.greeting().package;
    const auto state = qmp::get_string(*status, "status");
    probe.facts.run_state = state.has_value() ? *state : "unknown";
    if (name.has_value()) {
        const auto text = qmp::get_optional_string(*name, "name");
        probe.facts.name = text.has_value() ? text->value_or("") : "";
    }
    co_return probe;
}

awaitable<VmProbe> ask(qmp::Client& client, Deadline deadline) {
    VmProbe probe;
    probe.listener_pid = client.peer().pid;
    probe.listener_uid = client.peer().uid;
    const auto answer = co_await client.execute("query-hot-upgrade", qmp::Json(), deadline);
    if (answer.has_error() && answer.error().code == qmp::Errc::command_not_found) {
        co_return co_await ask_stock_qemu(client, std::move(probe), deadline);
    }
    if (answer.has_error()) {
        probe.why = answer.error();
        co_return probe;
    }
    auto facts = upgrade::parse_vm_facts(*answer);
    if (facts.has_error()) {
        probe.why = facts.error();
        co_return probe;
    }
    probe.answers = true;
    probe.is_patched = true;
    probe.facts = std::move(*facts);
    co_return probe;
}

} // namespace

awaitable<VmProbe> probe_vm(Strand strand, std::string socket, std::chrono::milliseconds patience) {
    const Deadline deadline = Deadline::in(patience);
    qmp::ConnectOptions options;
    // why: a little less than the whole patience, so that the more telling error comes first.
    options.greeting_timeout = patience * 9 / 10;
    auto client =
        co_await qmp::Client::connect(strand, std::move(socket), std::move(options), deadline);
    if (client.has_error()) {
        VmProbe probe;
        probe.why = client.error();
        co_return probe;
    }
    VmProbe probe = co_await ask(*client, deadline);
    client->request_stop();
    co_await client->join();
    co_return probe;
}

} // namespace qhup::daemon
