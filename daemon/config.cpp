// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/config.hpp"

#include "common/toml.hpp"
#include "daemon/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;

constexpr std::int64_t kMostPriority = 1000;

Failure bad_config(std::string_view file, const toml::source_region& where, std::string message) {
    return make_failure(
        Errc::invalid_argument,
        std::string(file) + ":" + std::to_string(where.begin.line) + ": " + std::move(message)
    );
}

/// Takes a value of the file or says in half a sentence what it should have been.
using Setter = std::function<std::optional<std::string>(const toml::node&)>;

struct Key {
    std::string name;
    Setter set;
};

Setter set_path(std::string& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.value<std::string>();
        if (!value || value->empty() || value->front() != '/') {
            return "must be an absolute path in quotes";
        }
        target = *value;
        return std::nullopt;
    };
}

Setter set_text(std::string& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        if (!node.is_string()) {
            return "must be text in quotes";
        }
        target = *node.value<std::string>();
        return std::nullopt;
    };
}

Setter set_number(std::uint32_t& target, std::uint32_t least, std::uint32_t most) {
    return [&target, least, most](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
        if (!value || *value < least || *value > most) {
            return "must be a number from " + std::to_string(least) + " to " + std::to_string(most);
        }
        target = static_cast<std::uint32_t>(*value);
        return std::nullopt;
    };
}

std::string format_duration(milliseconds value) {
    if (value.count() % 1000 == 0) {
        return std::to_string(value.count() / 1000) + "s";
    }
    return std::to_string(value.count()) + "ms";
}

/// @param why  why there cannot be more, as the end of the sentence
Setter
set_duration(milliseconds& target, milliseconds least, milliseconds most, std::string why = {}) {
    return [&target, least, most, why = std::move(why)](const toml::node& node
           ) -> std::optional<std::string> {
        const auto written = node.value<std::string>();
        const auto value =
            node.is_string()
                ? parse_duration(*written)
                : Result<milliseconds>(make_failure(Errc::invalid_argument, "not a duration"));
        if (value.has_error() || *value < least || *value > most) {
            return "must be a time from \"" + format_duration(least) + "\" to \"" +
                   format_duration(most) + "\", with its unit and in quotes" +
                   (why.empty() ? "" : "; " + why);
        }
        target = *value;
        return std::nullopt;
    };
}

// qemu: docs/qmp.md, States: what the pair does by itself after these.
constexpr milliseconds kMostPrepare{20'000};
constexpr const char* kWhyPrepare = "QEMU gives up a new process that is not up after 20s";
constexpr milliseconds kMostVerify{10'000};
constexpr const char* kWhyVerify =
    "the old process waits 30s for the end of the upgrade, no longer";

Setter set_word(std::string& target, std::vector<std::string> words) {
    return
        [&target, words = std::move(words)](const toml::node& node) -> std::optional<std::string> {
            const auto value = node.value<std::string>();
            if (!value || std::find(words.begin(), words.end(), *value) == words.end()) {
                std::string list;
                for (const std::string& word : words) {
                    list += (list.empty() ? "\"" : ", \"") + word + "\"";
                }
                return "must be one of " + list;
            }
            target = *value;
            return std::nullopt;
        };
}

Setter set_mode(std::uint32_t& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        const auto written = node.value<std::string>();
        std::uint32_t mode = 0;
        const bool is_octal =
            node.is_string() && !written->empty() &&
            std::from_chars(written->data(), written->data() + written->size(), mode, 8).ptr ==
                written->data() + written->size();
        if (!is_octal || mode > 0777 || (mode & 0007) != 0) {
            return "must be an octal mode in quotes that gives nothing to others, as \"0660\"";
        }
        target = mode;
        return std::nullopt;
    };
}

Setter set_globs(std::vector<std::string>& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        const toml::array* array = node.as_array();
        std::vector<std::string> globs;
        if (array != nullptr) {
            for (const toml::node& entry : *array) {
                const auto glob = entry.value<std::string>();
                if (entry.is_string() && !glob->empty() && glob->front() == '/') {
                    globs.push_back(*glob);
                }
            }
        }
        if (array == nullptr || globs.size() != array->size()) {
            return "must be a list of absolute paths, in which * stands for any name";
        }
        target = std::move(globs);
        return std::nullopt;
    };
}

Setter set_names(std::vector<std::string>& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        const toml::array* array = node.as_array();
        std::vector<std::string> names;
        if (array != nullptr) {
            for (const toml::node& entry : *array) {
                const auto name = entry.value<std::string>();
                if (entry.is_string() && !name->empty()) {
                    names.push_back(*name);
                }
            }
        }
        if (array == nullptr || names.size() != array->size()) {
            return "must be a list of names in quotes, in which * stands for anything";
        }
        target = std::move(names);
        return std::nullopt;
    };
}

/// Gives each entry of the table to the key of that name.
std::optional<Failure> read_table(
    std::string_view file,
    const toml::table& table,
    const std::string& section,
    const std::vector<Key>& keys
) {
    for (const auto& [name, node] : table) {
        const std::string_view given = name.str();
        const auto key = std::find_if(keys.begin(), keys.end(), [given](const Key& known) {
            return known.name == given;
        });
        if (key == keys.end()) {
            std::vector<std::string> names;
            for (const Key& known : keys) {
                names.push_back(known.name);
            }
            return bad_config(
                file,
                name.source(),
                "unknown key '" + std::string(given) + "'" +
                    (section.empty() ? "" : " in [" + section + "]") + ". " +
                    did_you_mean(given, names) + "The example qhupd.conf shows all keys."
            );
        }
        if (const auto wish = key->set(node)) {
            return bad_config(file, node.source(), "'" + std::string(given) + "' " + *wish + ".");
        }
    }
    return std::nullopt;
}

/// A key whose value is a table with keys of its own.
Key section(
    std::string_view file, std::string name, std::vector<Key> keys, std::optional<Failure>& first
) {
    Setter set = [file, name, keys = std::move(keys), &first](const toml::node& node
                 ) -> std::optional<std::string> {
        const toml::table* table = node.as_table();
        if (table == nullptr) {
            return "must be a section: [" + name + "]";
        }
        if (!first) {
            first = read_table(file, *table, name, keys);
        }
        return std::nullopt;
    };
    return Key{std::move(name), std::move(set)};
}

Result<toml::table> parse_toml(std::string_view text, std::string_view file) {
    toml::parse_result parsed = toml::parse(text, file);
    if (parsed.failed()) {
        return bad_config(
            file,
            parsed.error().source(),
            "cannot be read: " + std::string(parsed.error().description()) + "."
        );
    }
    return std::move(parsed).table();
}

/// A value that may be missing.
template <class T, class MakeSetter>
Setter set_optional(std::optional<T>& target, MakeSetter make_setter) {
    return [&target, make_setter](const toml::node& node) -> std::optional<std::string> {
        T value{};
        auto wish = make_setter(value)(node);
        if (!wish) {
            target = std::move(value);
        }
        return wish;
    };
}

Setter set_flag(bool& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        if (!node.is_boolean()) {
            return "must be true or false";
        }
        target = *node.value<bool>();
        return std::nullopt;
    };
}

Setter set_priority(std::int32_t& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
        if (!value || *value < -kMostPriority || *value > kMostPriority) {
            return "must be a number from -1000 to 1000";
        }
        target = static_cast<std::int32_t>(*value);
        return std::nullopt;
    };
}

Setter set_windows(std::vector<DayWindow>& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        std::vector<std::string> texts;
        bool is_good = !set_names(texts)(node);
        std::vector<DayWindow> windows;
        for (const std::string& text : texts) {
            const auto window = parse_day_window(text);
            is_good = is_good && window.has_value();
            windows.push_back(window.has_value() ? *window : DayWindow{});
        }
        if (!is_good) {
            return "must be a list of times of day, as [\"22:00-06:00\"]";
        }
        target = std::move(windows);
        return std::nullopt;
    };
}

Setter set_command(std::vector<std::string>& target) {
    return [&target](const toml::node& node) -> std::optional<std::string> {
        std::vector<std::string> words;
        const bool is_good = !set_names(words)(node);
        if (!is_good || (!words.empty() && words.front().front() != '/')) {
            return "must be a program with its arguments, as [\"/usr/local/bin/check-vm\", "
                   "\"{vm}\"]";
        }
        target = std::move(words);
        return std::nullopt;
    };
}

std::vector<Key> keys_of(PolicyRule& rule) {
    using namespace std::chrono_literals;
    const auto budget = [](milliseconds& target) { return set_duration(target, 10ms, 30s); };
    const auto limit = [](milliseconds& target) {
        return set_duration(target, 100ms, kMostVerify, kWhyVerify);
    };
    const auto after_failure = [](std::string& target) {
        return set_word(target, {"report", "revert"});
    };
    const auto rehearse = [](std::string& target) {
        return set_word(target, {"none", "first", "all"});
    };
    return {
        {"vms", set_names(rule.vms)},
        {"priority", set_optional(rule.priority, set_priority)},
        {"skip", set_optional(rule.skip, set_flag)},
        {"pause_budget", set_optional(rule.pause_budget, budget)},
        {"rehearse", set_optional(rule.rehearse, rehearse)},
        {"window", set_optional(rule.window, set_windows)},
        {"probe", set_optional(rule.probe, set_command)},
        {"probe_limit", set_optional(rule.probe_limit, limit)},
        {"after_failed_verify", set_optional(rule.after_failed_verify, after_failure)},
    };
}

/// [[policy]], any number of them.
Key policies(
    std::string_view file, std::vector<PolicyRule>& target, std::optional<Failure>& first
) {
    Setter set = [file, &target, &first](const toml::node& node) -> std::optional<std::string> {
        const toml::array* array = node.as_array();
        if (array == nullptr) {
            return "must be written as [[policy]]";
        }
        for (const toml::node& entry : *array) {
            const toml::table* table = entry.as_table();
            if (table == nullptr) {
                return "must be written as [[policy]]";
            }
            PolicyRule rule;
            auto failure = read_table(file, *table, "[policy]", keys_of(rule));
            if (!failure && rule.vms.empty()) {
                failure = bad_config(
                    file, entry.source(), "[[policy]] must say which 'vms' it is for: [\"*\"]."
                );
            }
            if (failure) {
                first = first ? first : failure;
                return std::nullopt;
            }
            target.push_back(std::move(rule));
        }
        return std::nullopt;
    };
    return Key{"policy", std::move(set)};
}

std::vector<Key> keys_of(Config& config, std::string_view file, std::optional<Failure>& first) {
    using namespace std::chrono_literals;
    auto& discovery = config.discovery;
    auto& api = config.api;
    auto& leases = config.leases;
    auto& deadlines = config.deadlines;
    std::vector<Key> keys{
        {"control_dir", set_path(config.control_dir)},
        {"releases_dir", set_path(config.releases_dir)},
        {"state_dir", set_path(config.state_dir)},
        {"parallel", set_number(config.parallel, 1, 1024)},
        {"pause_slots", set_number(config.pause_slots, 0, 1024)},
        {"memory_reserve_mib", set_number(config.memory_reserve_mib, 0, 1U << 24U)},
        {"kept_binaries", set_number(config.kept_binaries, 0, 64)},
        {"rehearse", set_word(config.rehearse, {"none", "first", "all"})},
        {"probe_user", set_text(config.probe_user)},
        {"log_level", set_word(config.log_level, {"debug", "info", "warn", "error"})},
        {"trusted_supervisors", set_names(config.trusted_supervisors)},
    };
    keys.push_back(section(
        file,
        "discovery",
        {{"qmp", set_globs(discovery.qmp)}, {"interval", set_duration(discovery.interval, 1s, 1h)}},
        first
    ));
    keys.push_back(section(
        file,
        "api",
        {{"socket", set_path(api.socket)},
         {"group", set_text(api.group)},
         {"mode", set_mode(api.mode)},
         {"max_connections", set_number(api.max_connections, 1, 4096)}},
        first
    ));
    keys.push_back(section(
        file,
        "leases",
        {{"prepared", set_duration(leases.prepared, 5s, 10min)},
         {"frozen", set_duration(leases.frozen, 100ms, 30s)}},
        first
    ));
    keys.push_back(section(
        file,
        "deadlines",
        {{"probe", set_duration(deadlines.probe, 100ms, 10s)},
         {"prepare", set_duration(deadlines.prepare, 1s, kMostPrepare, kWhyPrepare)},
         {"drain", set_duration(deadlines.drain, 1ms, 30s)},
         {"pause_budget", set_duration(deadlines.pause_budget, 10ms, 30s)},
         {"verify", set_duration(deadlines.verify, 100ms, kMostVerify, kWhyVerify)},
         {"request", set_duration(deadlines.request, 1s, 1min)}},
        first
    ));
    keys.push_back(policies(file, config.policies, first));
    return keys;
}

} // namespace

Result<Config> parse_config(std::string_view text, std::string_view file) {
    auto table = parse_toml(text, file);
    if (table.has_error()) {
        return table.error();
    }
    Config config;
    std::optional<Failure> first;
    const auto keys = keys_of(config, file, first);
    const auto failure = read_table(file, *table, "", keys);
    if (first || failure) {
        return first ? *first : *failure;
    }
    return config;
}

std::uint32_t pause_slots_for(const Config& config, std::size_t cores) noexcept {
    if (config.pause_slots != 0) {
        return config.pause_slots;
    }
    return static_cast<std::uint32_t>(std::clamp<std::size_t>(cores / 2, 1, 1024));
}

Result<milliseconds> parse_duration(std::string_view text) {
    static constexpr std::array<std::pair<std::string_view, std::int64_t>, 4> kUnits{{
        {"ms", 1},
        {"s", 1000},
        {"min", 60'000},
        {"h", 3'600'000},
    }};
    std::int64_t number = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number);
    const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
    const auto known = std::find_if(kUnits.begin(), kUnits.end(), [unit](const auto& entry) {
        return entry.first == unit;
    });
    if (error != std::errc{} || number < 0 || known == kUnits.end() ||
        number > std::numeric_limits<std::int64_t>::max() / known->second) {
        return make_failure(
            Errc::invalid_argument, "a time is a number with its unit: 250ms, 60s, 10min or 1h"
        );
    }
    return milliseconds(number * known->second);
}

} // namespace qhup::daemon
