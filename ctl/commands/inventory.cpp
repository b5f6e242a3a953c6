// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands that only look: list, show, releases, version.
#include "common/version.hpp"
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>

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
    print_document(options, body, [&] { return render(body); });
    return ExitStatus::ok;
}

template <class View>
std::vector<View>
list_from(const nlohmann::json& body, const char* key, View (*from_json)(const nlohmann::json&)) {
    std::vector<View> values;
    for (const auto& value : daemon::read::elements(body, key)) {
        values.push_back(from_json(value));
    }
    return values;
}

std::string text_of(const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? printable(found->get<std::string>()) : "";
}

std::optional<std::int64_t> integer_of(const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_integer()
               ? std::optional(found->get<std::int64_t>())
               : std::nullopt;
}

bool flag_of(const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_boolean() && found->get<bool>();
}

/// Whether the VM can go back to where it came from; "" if it never moved.
std::string way_back_line(const nlohmann::json& vm) {
    const auto way = vm.is_object() ? vm.find("way_back") : vm.end();
    if (!vm.is_object() || way == vm.end() || !way->is_object() ||
        text_of(*way, "version").empty()) {
        return {};
    }
    return text_of(vm, "name") + ": the way back to " + text_of(*way, "version") + " is " +
           (flag_of(*way, "open") ? text_of(*way, "rehearsed") == "passed"
                                        ? "open, as a rehearsal showed"
                                        : "open; nobody has rehearsed it"
                                  : "closed: " + text_of(*way, "reason")) +
           ".\n";
}

/// A list of words, in a line.
std::string words_of(const nlohmann::json& object, const char* key) {
    std::string line;
    for (const auto& word : daemon::read::elements(object, key)) {
        line += (line.empty() ? "" : " ") +
                printable(word.is_string() ? word.get<std::string>() : std::string());
    }
    return line;
}

/// What the configuration says about the VM, where that is not the default; "" if it says nothing.
std::string policy_lines(const nlohmann::json& vm) {
    const auto policy = vm.is_object() ? vm.find("policy") : vm.end();
    if (!vm.is_object() || policy == vm.end() || !policy->is_object()) {
        return {};
    }
    std::string lines;
    const auto add = [&lines](const std::string& line) {
        lines += (lines.empty() ? "\nPolicy\n  " : "  ") + line + "\n";
    };
    if (const auto priority = integer_of(*policy, "priority"); priority.value_or(0) != 0) {
        add("priority " + std::to_string(*priority));
    }
    if (flag_of(*policy, "skip")) {
        add("left out of runs over all VMs");
    }
    if (const auto budget = integer_of(*policy, "pause_budget_ms")) {
        add("no pause longer than " + std::to_string(*budget) + " ms");
    }
    if (const std::string rehearse = text_of(*policy, "rehearse"); !rehearse.empty()) {
        add("rehearse " + rehearse);
    }
    if (const std::string probe = words_of(*policy, "probe"); !probe.empty()) {
        add("probe " + probe);
    }
    if (text_of(*policy, "after_failed_verify") == "revert") {
        add("taken back if it is not well after an upgrade");
    }
    std::string windows;
    for (const auto& span : daemon::read::elements(*policy, "window")) {
        windows += (windows.empty() ? "" : ", ") +
                   printable(span.is_string() ? span.get<std::string>() : std::string());
    }
    if (!windows.empty()) {
        add("upgrades may begin at " + windows + ", which is " +
            (flag_of(*policy, "window_open") ? "now" : "not now"));
    }
    return lines;
}

std::string ways_back(const nlohmann::json& body) {
    std::string lines;
    for (const auto& vm : daemon::read::elements(body, "vms")) {
        lines += way_back_line(vm);
    }
    return lines.empty() ? lines : "\n" + lines;
}

} // namespace

ExitStatus run_list(Client& client, const Options& options) {
    return show_document(client, options, vms_target(options), [&options](const auto& body) {
        if (!options.labels.empty() && daemon::read::elements(body, "vms").empty()) {
            return render_no_vm_with(options.labels);
        }
        return render_vms(
                   list_from(body, "vms", daemon::vm_from_json),
                   list_from(body, "gone", daemon::attention_from_json)
               ) +
               ways_back(body);
    });
}

ExitStatus run_show(Client& client, const Options& options) {
    const std::string target = "/v1/vms/" + percent_encoded(options.vms.front());
    return show_document(client, options, target, [](const nlohmann::json& body) {
        return render_vm(daemon::vm_from_json(body)) + policy_lines(body) + way_back_line(body);
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
