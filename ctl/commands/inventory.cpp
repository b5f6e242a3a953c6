// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands that only look: list, show, releases, version.
#include "common/version.hpp"
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

namespace qhup::ctl {
namespace {

/// Asks for a document and prints it, as JSON or rendered.
template <class Render>
ExitStatus
show_document(Client& client, const Options& options, const std::string& target, Render render) {
    const auto answer = get_document(client, options, target);
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    const auto& body = std::get<nlohmann::json>(answer);
    print(options.json ? daemon::format_json_pretty(body) + "\n" : render(body));
    return ExitStatus::ok;
}

template <class View>
std::vector<View>
list_from(const nlohmann::json& body, const char* key, View (*from_json)(const nlohmann::json&)) {
    std::vector<View> values;
    const auto found = body.find(key);
    if (found != body.end() && found->is_array()) {
        for (const auto& value : *found) {
            values.push_back(from_json(value));
        }
    }
    return values;
}

} // namespace

ExitStatus run_list(Client& client, const Options& options) {
    return show_document(client, options, "/v1/vms", [](const nlohmann::json& body) {
        return render_vms(list_from(body, "vms", daemon::vm_from_json));
    });
}

ExitStatus run_show(Client& client, const Options& options) {
    const std::string target = "/v1/vms/" + percent_encoded(options.vms.front());
    return show_document(client, options, target, [](const nlohmann::json& body) {
        return render_vm(daemon::vm_from_json(body));
    });
}

ExitStatus run_releases(Client& client, const Options& options) {
    return show_document(client, options, "/v1/releases", [](const nlohmann::json& body) {
        return render_releases(list_from(body, "releases", daemon::release_from_json));
    });
}

ExitStatus run_version(Client& client, const Options& options) {
    if (!options.json) {
        print("qhupd-ctl " + std::string(kVersion) + "\n");
    }
    return show_document(client, options, "/v1/version", [](const nlohmann::json& body) {
        const daemon::VersionView version = daemon::version_from_json(body);
        return "qhupd " + printable(version.version) + " (" + printable(version.status) + ", pid " +
               std::to_string(version.pid) + ")\n";
    });
}

} // namespace qhup::ctl
