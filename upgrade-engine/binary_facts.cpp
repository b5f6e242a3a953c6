// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/binary_facts.hpp"

#include "qmp-client/message.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <variant>

namespace qhup::upgrade {
namespace {

using qmp::Json;

// Bounds of what is kept. QEMU with everything has some thousand types.
constexpr std::size_t kMaxNames = 20'000;
constexpr std::size_t kMaxNameBytes = 256;

constexpr const char* kNegotiate = "qmp_capabilities";
constexpr const char* kMachines = "query-machines";
constexpr const char* kTypes = "qom-list-types";
constexpr const char* kClasses = "query-hot-upgrade-blocker-classes";
constexpr const char* kQuit = "quit";

Failure make_unexpected(const std::string& what) {
    return make_failure(Errc::unexpected_answer, "reading what a binary says of itself: " + what);
}

/// Adds one member of each entry of a list.
Result<void> add_names(const Json& list, const char* key, Names& names) {
    for (const Json& entry : list) {
        const auto name = qmp::get_optional_string(entry, key);
        if (name.has_error()) {
            return make_unexpected(name.error().message);
        }
        if (!name->has_value()) {
            continue;
        }
        if ((*name)->size() > kMaxNameBytes || names.size() == kMaxNames) {
            return make_unexpected("there are too many names, or one is too long");
        }
        names.insert(**name);
    }
    return {};
}

/// The lists of the replies that came, by the command.
using Lists = std::map<std::string, Json, std::less<>>;

Result<Lists> collect(std::string_view output) {
    Lists lists;
    while (!output.empty()) {
        const std::size_t end = std::min(output.find('\n'), output.size());
        std::string_view line = output.substr(0, end);
        output.remove_prefix(std::min(end + 1, output.size()));
        if (line.ends_with('\r')) {
            line.remove_suffix(1);
        }
        if (line.empty()) {
            continue;
        }
        if (line.size() > qmp::kMaxLineBytes) {
            return make_unexpected("a line is too long");
        }
        auto message = qmp::parse_message(line);
        if (message.has_error()) {
            return make_unexpected(message.error().message);
        }
        if (auto* const reply = std::get_if<qmp::Reply>(&*message)) {
            if (reply->value.is_array()) {
                lists[reply->id] = std::move(reply->value);
            }
        }
    }
    return lists;
}

} // namespace

std::string format_questions() {
    std::string text;
    const auto add = [&text](const char* name, const Json& arguments) {
        auto line = qmp::format_command(name, arguments, name);
        text += line.has_value() ? *line : std::string();
    };
    add(kNegotiate, nullptr);
    add(kClasses, nullptr);
    add(kMachines, nullptr);
    add(kTypes, {{"abstract", false}});
    add(kQuit, nullptr);
    return text;
}

Result<BinaryFacts> parse_answers(std::string_view output) {
    const Result<Lists> lists = collect(output);
    if (lists.has_error()) {
        return lists.error();
    }
    BinaryFacts facts;
    facts.is_patched = lists->contains(kClasses);
    for (const auto& [command, key, into] : {
             std::tuple{kMachines, "name", &facts.machines},
             std::tuple{kMachines, "alias", &facts.machines},
             std::tuple{kTypes, "name", &facts.types},
         }) {
        const auto list = lists->find(command);
        if (list == lists->end()) {
            return make_unexpected("there is no answer to " + std::string(command));
        }
        const Result<void> added = add_names(list->second, key, *into);
        if (added.has_error()) {
            return added.error();
        }
    }
    if (facts.machines.empty() || facts.types.empty()) {
        return make_unexpected("it has no machine types, or no types");
    }
    return facts;
}

Result<StateFormats> parse_state_formats(std::string_view text) {
    const Result<Json> parsed = qmp::parse_json(text);
    if (parsed.has_error() || !parsed->is_object()) {
        return make_unexpected("the description of its device state is not a JSON object");
    }
    StateFormats states;
    for (const auto& [type, value] : parsed->items()) {
        // qemu: migration/savevm.c, dump_vmstate_json_to_file(): beside the types, the machine.
        const auto description = qmp::get_optional_object(value, "Description");
        if (description.has_error()) {
            return make_unexpected(description.error().message);
        }
        if (*description == nullptr) {
            continue;
        }
        const auto name = qmp::get_string(**description, "name");
        const auto version = qmp::get_int(**description, "version_id");
        const auto oldest = qmp::get_int(**description, "minimum_version_id");
        if (name.has_error() || version.has_error() || oldest.has_error()) {
            return make_unexpected("the description of the state of a device is not complete");
        }
        if (type.size() > kMaxNameBytes || name->size() > kMaxNameBytes ||
            states.size() == kMaxNames) {
            return make_unexpected("there are too many names, or one is too long");
        }
        states[type] = {*name, *version, *oldest};
    }
    return states;
}

std::string find_refused_option(std::string_view text) {
    // qemu: vl.c, lookup_opt(), with the place in front: "qemu: -spice: invalid option"
    constexpr std::string_view kWords = ": invalid option";
    const std::size_t end = text.find(kWords);
    if (end == std::string_view::npos) {
        return {};
    }
    const std::string_view before = text.substr(0, end);
    const std::size_t begin = before.rfind(" -");
    return begin == std::string_view::npos ? std::string() : std::string(before.substr(begin + 2));
}

std::string judge_state(const StateFormat& written, const StateFormat& read) {
    // qemu: migration/savevm.c, qemu_loadvm_section_start_full(), and vmstate.c,
    // vmstate_load_state(): by name; not newer than its own version, not older than the oldest.
    if (written.section != read.section) {
        return "this QEMU calls it " + written.section + " and the release " + read.section;
    }
    if (written.version > read.version || written.version < read.oldest) {
        return "this QEMU writes version " + std::to_string(written.version) +
               " and the release reads " + std::to_string(read.oldest) + " to " +
               std::to_string(read.version);
    }
    return {};
}

} // namespace qhup::upgrade
