// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/service_manager.hpp"

#include "common/as_user.hpp"

#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <memory>

namespace qhup::upgrade {
namespace {

constexpr std::uint64_t kPatienceUs = 250'000;
constexpr const char* kSystemd = "org.freedesktop.systemd1";
constexpr const char* kService = "org.freedesktop.systemd1.Service";

struct CloseBus {
    void operator()(sd_bus* bus) const { sd_bus_close_unref(bus); }
};
struct FreeText {
    void operator()(char* text) const { std::free(text); } // NOLINT: sd-bus uses malloc
};
using Bus = std::unique_ptr<sd_bus, CloseBus>;
using Text = std::unique_ptr<char, FreeText>;

/// Null if nobody is there.
Bus connect(const char* address, bool is_bus) {
    sd_bus* raw = nullptr;
    if (sd_bus_new(&raw) < 0) {
        return nullptr;
    }
    Bus bus(raw);
    const bool is_connected =
        sd_bus_set_address(raw, address) >= 0 && sd_bus_set_bus_client(raw, is_bus ? 1 : 0) >= 0 &&
        sd_bus_set_method_call_timeout(raw, kPatienceUs) >= 0 && sd_bus_start(raw) >= 0;
    return is_connected ? std::move(bus) : nullptr;
}

bool load_text(sd_bus* bus, const char* path, const char* property, std::string& text) {
    char* raw = nullptr;
    if (sd_bus_get_property_string(bus, kSystemd, path, kService, property, nullptr, &raw) < 0) {
        return false;
    }
    text = Text(raw).get();
    return true;
}

std::optional<UnitFacts> ask(sd_bus* bus, const std::string& unit) {
    char* raw = nullptr;
    if (sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit.c_str(), &raw) < 0) {
        return std::nullopt;
    }
    const Text path(raw);
    UnitFacts facts;
    std::uint32_t main_pid = 0;
    const bool has_answered =
        sd_bus_get_property_trivial(
            bus, kSystemd, path.get(), kService, "MainPID", nullptr, 'u', &main_pid
        ) >= 0 &&
        load_text(bus, path.get(), "Type", facts.type) &&
        load_text(bus, path.get(), "NotifyAccess", facts.notify_access) &&
        load_text(bus, path.get(), "PIDFile", facts.pid_file);
    if (!has_answered) {
        return std::nullopt;
    }
    facts.main_pid = static_cast<pid_t>(main_pid);
    if (!load_text(bus, path.get(), "ExitType", facts.exit_type)) {
        facts.exit_type.clear(); // an older systemd
    }
    return facts;
}

} // namespace

bool has_systemd() {
    return sd_booted() > 0;
}

std::optional<UnitFacts> observe_unit(const std::string& unit) {
    std::optional<UnitFacts> facts;
    const auto ask_privately = [&unit, &facts] {
        if (const Bus own = connect("unix:path=/run/systemd/private", false)) {
            facts = ask(own.get(), unit);
        }
    };
    // why: only root may use the private socket; it works without a bus.
    if (is_own_user_with_rights()) {
        ignore(run_as_user(0, "asking systemd", ask_privately), "there may be a bus");
    } else {
        ask_privately();
    }
    if (facts) {
        return facts;
    }
    if (const Bus system = connect("unix:path=/run/dbus/system_bus_socket", true)) {
        return ask(system.get(), unit);
    }
    return std::nullopt;
}

} // namespace qhup::upgrade
