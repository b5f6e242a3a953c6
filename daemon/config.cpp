// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/config.hpp"

#include "common/toml.hpp"
#include "common/toml_keys.hpp"
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
using Take = std::function<std::optional<std::string>(const toml::node&)>;

/// A place for a value: how it is read from a file and how it is written into one.
struct Setter {
    Take take;
    std::function<std::string()> show; ///< as TOML writes it; "" if it is not set
};

struct Key {
    std::string name;
    Setter setter;
    std::vector<Key> keys = {}; ///< of a section
};

using Origins = std::map<std::string, std::string>;

std::string format_place(std::string_view file, const toml::source_region& where) {
    return std::string(file) + ":" + std::to_string(where.begin.line);
}

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) {
            static constexpr std::string_view kDigits = "0123456789abcdef";
            out += "\\u00";
            out += kDigits[byte >> 4U];
            out += kDigits[byte & 15U];
        } else {
            out += c;
        }
    }
    return out + "\"";
}

template <class Items, class Format>
std::string format_list(const Items& items, Format format) {
    std::string out;
    for (const auto& item : items) {
        out += (out.empty() ? "" : ", ") + format(item);
    }
    return "[" + out + "]";
}

Setter set_path(std::string& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.value<std::string>();
        if (!value || value->empty() || value->front() != '/') {
            return "must be an absolute path in quotes";
        }
        target = *value;
        return std::nullopt;
    };
    return {take, [&target] { return quoted(target); }};
}

/// "" is allowed: what is meant then follows from other keys.
Setter set_path_or_none(std::string& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        if (node.is_string() && node.value<std::string>()->empty()) {
            target.clear();
            return std::nullopt;
        }
        return set_path(target).take(node);
    };
    return {take, [&target] { return quoted(target); }};
}

Setter set_text(std::string& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        if (!node.is_string()) {
            return "must be text in quotes";
        }
        target = *node.value<std::string>();
        return std::nullopt;
    };
    return {take, [&target] { return quoted(target); }};
}

/// One folder or several.
Setter set_folders(std::vector<std::string>& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        std::string one;
        if (node.is_string() && !set_path(one).take(node)) {
            target = {one};
            return std::nullopt;
        }
        std::vector<std::string> several;
        const toml::array* array = node.as_array();
        for (std::size_t i = 0; array != nullptr && i < array->size(); ++i) {
            if (set_path(one).take((*array)[i])) {
                array = nullptr;
            } else {
                several.push_back(one);
            }
        }
        if (array == nullptr || several.empty()) {
            return "must be an absolute path in quotes, or a list of them";
        }
        target = std::move(several);
        return std::nullopt;
    };
    return {take, [&target] { return format_list(target, quoted); }};
}

Setter set_number(std::uint32_t& target, std::uint32_t least, std::uint32_t most) {
    const auto take = [&target, least, most](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
        if (!value || *value < least || *value > most) {
            return "must be a number from " + std::to_string(least) + " to " + std::to_string(most);
        }
        target = static_cast<std::uint32_t>(*value);
        return std::nullopt;
    };
    return {take, [&target] { return std::to_string(target); }};
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
    const auto take = [&target, least, most, why = std::move(why)](const toml::node& node
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
    return {take, [&target] { return quoted(format_duration(target)); }};
}

// qemu: docs/qmp.md, States: what the pair does by itself after these.
constexpr milliseconds kMostPrepare{20'000};
constexpr const char* kWhyPrepare = "QEMU gives up a new process that is not up after 20s";
constexpr milliseconds kMostVerify{10'000};
constexpr const char* kWhyVerify =
    "the old process waits 30s for the end of the upgrade, no longer";

Setter set_word(std::string& target, std::vector<std::string> words) {
    const auto take = [&target, words = std::move(words)](const toml::node& node
                      ) -> std::optional<std::string> {
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
    return {take, [&target] { return quoted(target); }};
}

Setter set_mode(std::uint32_t& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
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
    return {take, [&target] {
                std::array<char, 8> digits{};
                const auto end = std::to_chars(digits.begin(), digits.end(), target, 8).ptr;
                return quoted("0" + std::string(digits.begin(), end));
            }};
}

Setter set_globs(std::vector<std::string>& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
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
    return {take, [&target] { return format_list(target, quoted); }};
}

Setter set_names(std::vector<std::string>& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
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
    return {take, [&target] { return format_list(target, quoted); }};
}

Setter set_labels(VmLabels& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        const toml::table* table = node.as_table();
        VmLabels labels;
        bool is_good = table != nullptr && !table->empty();
        for (const auto& [key, value] : is_good ? *table : toml::table()) {
            const auto word = value.is_string() ? value.value<std::string>() : std::nullopt;
            is_good = is_good && word && is_label_word(*word) && is_label_word(key.str());
            labels[std::string(key.str())] = word.value_or("");
        }
        if (!is_good) {
            return "must be labels, as { tier = \"db\" }: letters, digits and . _ - /";
        }
        target = std::move(labels);
        return std::nullopt;
    };
    return {take, [&target] {
                std::string out;
                for (const auto& [key, value] : target) {
                    out += (out.empty() ? "{ " : ", ") + quoted(key) + " = " + quoted(value);
                }
                return out.empty() ? out : out + " }";
            }};
}

/// Gives each entry of the table to the key of that name.
///
/// @param origins  is told where each key was set; null: nobody asks
std::optional<Failure> read_table(
    std::string_view file,
    const toml::table& table,
    const std::string& section,
    const std::vector<Key>& keys,
    Origins* origins
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
                    did_you_mean(given, names) + "The example qhupd.toml shows all keys."
            );
        }
        if (const auto wish = key->setter.take(node)) {
            return bad_config(file, node.source(), "'" + std::string(given) + "' " + *wish + ".");
        }
        if (origins != nullptr && key->setter.show) {
            const std::string full = (section.empty() ? "" : section + ".") + key->name;
            (*origins)[full] = format_place(file, name.source());
        }
    }
    return std::nullopt;
}

/// What reading one file needs beside the places for its values.
struct Reading {
    std::string_view file;
    Origins& origins;
    std::optional<Failure> first; ///< what was wrong first in a section
};

/// A key whose value is a table with keys of its own.
Key section(std::string name, std::vector<Key> keys, Reading& reading) {
    const auto take = [name, keys, &reading](const toml::node& node) -> std::optional<std::string> {
        const toml::table* table = node.as_table();
        if (table == nullptr) {
            return "must be a section: [" + name + "]";
        }
        if (!reading.first) {
            reading.first = read_table(reading.file, *table, name, keys, &reading.origins);
        }
        return std::nullopt;
    };
    return Key{std::move(name), {take, nullptr}, std::move(keys)};
}

Result<toml::table> parse_toml(std::string_view text, std::string_view file) {
    if (const std::size_t line = line_of_too_deep_key(text); line != 0) {
        return bad_config(
            file,
            {{static_cast<toml::source_index>(line), 1}, {}, nullptr},
            "cannot be read: a key has too many parts."
        );
    }
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
    const auto take = [&target, make_setter](const toml::node& node) -> std::optional<std::string> {
        T value{};
        auto wish = make_setter(value).take(node);
        if (!wish) {
            target = std::move(value);
        }
        return wish;
    };
    const auto show = [&target, make_setter] {
        return target ? make_setter(*target).show() : std::string();
    };
    return {take, show};
}

Setter set_flag(bool& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        if (!node.is_boolean()) {
            return "must be true or false";
        }
        target = *node.value<bool>();
        return std::nullopt;
    };
    return {take, [&target] { return std::string(target ? "true" : "false"); }};
}

Setter set_priority(std::int32_t& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        const auto value = node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
        if (!value || *value < -kMostPriority || *value > kMostPriority) {
            return "must be a number from -1000 to 1000";
        }
        target = static_cast<std::int32_t>(*value);
        return std::nullopt;
    };
    return {take, [&target] { return std::to_string(target); }};
}

Setter set_windows(std::vector<DayWindow>& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        std::vector<std::string> texts;
        bool is_good = !set_names(texts).take(node);
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
    return {take, [&target] {
                return format_list(target, [](const DayWindow& window) {
                    return quoted(format_day_window(window));
                });
            }};
}

Setter set_command(std::vector<std::string>& target) {
    const auto take = [&target](const toml::node& node) -> std::optional<std::string> {
        std::vector<std::string> words;
        const bool is_good = !set_names(words).take(node);
        if (!is_good || (!words.empty() && words.front().front() != '/')) {
            return "must be a program with its arguments, as [\"/usr/local/bin/check-vm\", "
                   "\"{vm}\"]";
        }
        target = std::move(words);
        return std::nullopt;
    };
    return {take, [&target] { return format_list(target, quoted); }};
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
        {"labels", set_labels(rule.labels)},
        {"priority", set_optional(rule.priority, set_priority)},
        {"skip", set_optional(rule.skip, set_flag)},
        {"pause_budget", set_optional(rule.pause_budget, budget)},
        {"rehearse", set_optional(rule.rehearse, rehearse)},
        {"rehearse_back", set_optional(rule.rehearse_back, rehearse)},
        {"window", set_optional(rule.window, set_windows)},
        {"probe", set_optional(rule.probe, set_command)},
        {"probe_limit", set_optional(rule.probe_limit, limit)},
        {"after_failed_verify", set_optional(rule.after_failed_verify, after_failure)},
    };
}

std::vector<Key> keys_of(LabelRule& rule) {
    return {{"vms", set_names(rule.vms)}, {"labels", set_labels(rule.labels)}};
}

/// What a rule does not say, as the end of a sentence.
std::optional<std::string> find_missing(const PolicyRule& rule) {
    return rule.vms.empty() && rule.labels.empty()
               ? std::optional("which 'vms' it is for: [\"*\"], or which 'labels'")
               : std::nullopt;
}

std::optional<std::string> find_missing(const LabelRule& rule) {
    return rule.vms.empty() || rule.labels.empty()
               ? std::optional("which 'vms' have which 'labels'")
               : std::nullopt;
}

/// [[policy]] or [[vm]], any number of them.
template <class Rule>
Key rules(const std::string& name, std::vector<Rule>& target, Reading& reading) {
    const auto take = [name, &target, &reading](const toml::node& node
                      ) -> std::optional<std::string> {
        const toml::array* array = node.as_array();
        if (array == nullptr) {
            return "must be written as [[" + name + "]]";
        }
        for (const toml::node& entry : *array) {
            const toml::table* table = entry.as_table();
            if (table == nullptr) {
                return "must be written as [[" + name + "]]";
            }
            Rule rule;
            rule.origin = format_place(reading.file, entry.source());
            auto failure =
                read_table(reading.file, *table, "[" + name + "]", keys_of(rule), nullptr);
            const auto missing = find_missing(rule);
            if (!failure && missing) {
                failure = bad_config(
                    reading.file, entry.source(), "[[" + name + "]] must say " + *missing + "."
                );
            }
            if (failure) {
                reading.first = reading.first ? reading.first : failure;
                return std::nullopt;
            }
            target.push_back(std::move(rule));
        }
        return std::nullopt;
    };
    return Key{name, {take, nullptr}};
}

std::vector<Key> keys_of(Config& config, Reading& reading) {
    using namespace std::chrono_literals;
    auto& discovery = config.discovery;
    auto& api = config.api;
    auto& leases = config.leases;
    auto& deadlines = config.deadlines;
    std::vector<Key> keys{
        {"control_dir", set_path(config.control_dir)},
        {"releases_dir", set_folders(config.releases_dirs)},
        {"state_dir", set_path(config.state_dir)},
        {"parallel", set_number(config.parallel, 1, 1024)},
        {"pause_slots", set_number(config.pause_slots, 0, 1024)},
        {"memory_reserve_mib", set_number(config.memory_reserve_mib, 0, 1U << 24U)},
        {"kept_binaries", set_number(config.kept_binaries, 0, 64)},
        {"rehearse", set_word(config.rehearse, {"none", "first", "all"})},
        {"rehearse_back", set_word(config.rehearse_back, {"none", "first", "all"})},
        {"rehearse_back_after", set_duration(config.rehearse_back_after, 0ms, 1h)},
        {"selftest", set_word(config.selftest, {"off", "warn", "require"})},
        {"probe_user", set_text(config.probe_user)},
        {"log_level", set_word(config.log_level, {"debug", "info", "warn", "error"})},
        {"trusted_supervisors", set_names(config.trusted_supervisors)},
    };
    keys.push_back(section(
        "discovery",
        {{"qmp", set_globs(discovery.qmp)}, {"interval", set_duration(discovery.interval, 1s, 1h)}},
        reading
    ));
    keys.push_back(section(
        "api",
        {{"socket", set_path(api.socket)},
         {"group", set_text(api.group)},
         {"mode", set_mode(api.mode)},
         {"read_socket", set_path_or_none(api.read_socket)},
         {"read_group", set_text(api.read_group)},
         {"max_connections", set_number(api.max_connections, 4, 4096)},
         {"event_ring", set_number(api.event_ring, 16, 1'000'000)}},
        reading
    ));
    keys.push_back(section(
        "leases",
        {{"prepared", set_duration(leases.prepared, 5s, 10min)},
         {"frozen", set_duration(leases.frozen, 100ms, 30s)}},
        reading
    ));
    keys.push_back(section(
        "deadlines",
        {{"probe", set_duration(deadlines.probe, 100ms, 10s)},
         {"prepare", set_duration(deadlines.prepare, 1s, kMostPrepare, kWhyPrepare)},
         {"drain", set_duration(deadlines.drain, 1ms, 30s)},
         {"pause_budget", set_duration(deadlines.pause_budget, 10ms, 30s)},
         {"verify", set_duration(deadlines.verify, 100ms, kMostVerify, kWhyVerify)},
         {"request", set_duration(deadlines.request, 1s, 1min)}},
        reading
    ));
    keys.push_back(rules("vm", config.labels, reading));
    keys.push_back(rules("policy", config.policies, reading));
    return keys;
}

} // namespace

Result<Config> parse_config(const std::vector<ConfigText>& texts) {
    Config config;
    for (const ConfigText& each : texts) {
        const auto table = parse_toml(each.text, each.file);
        if (table.has_error()) {
            return table.error();
        }
        Reading reading{each.file, config.origins, std::nullopt};
        const auto keys = keys_of(config, reading);
        const auto failure = read_table(each.file, *table, "", keys, &config.origins);
        if (reading.first || failure) {
            return reading.first ? *reading.first : *failure;
        }
    }
    return config;
}

Result<Config> parse_config(std::string_view text, std::string_view file) {
    return parse_config({ConfigText{std::string(file), std::string(text)}});
}

std::vector<ConfigValue> describe_config(const Config& config) {
    Config copy = config;
    Reading reading{"", copy.origins, std::nullopt};
    std::vector<ConfigValue> values;
    const auto add = [&](const std::string& prefix, const Key& key, const std::string& origin) {
        std::string value = key.setter.show();
        if (!value.empty()) {
            values.push_back({prefix + key.name, std::move(value), origin});
        }
    };
    const auto add_from_file = [&](const std::string& prefix, const Key& key) {
        const auto origin = config.origins.find(prefix + key.name);
        add(prefix, key, origin == config.origins.end() ? "default" : origin->second);
    };
    for (const Key& key : keys_of(copy, reading)) {
        for (const Key& inner : key.keys) {
            add_from_file(key.name + ".", inner);
        }
        if (key.setter.show) {
            add_from_file("", key);
        }
    }
    std::size_t number = 0;
    for (LabelRule& rule : copy.labels) {
        const std::string prefix = "vm." + std::to_string(++number) + ".";
        for (const Key& key : keys_of(rule)) {
            add(prefix, key, rule.origin);
        }
    }
    number = 0;
    for (PolicyRule& rule : copy.policies) {
        const std::string prefix = "policy." + std::to_string(++number) + ".";
        for (const Key& key : keys_of(rule)) {
            add(prefix, key, rule.origin);
        }
    }
    return values;
}

std::string format_config(const Config& config) {
    std::string out;
    std::string section;
    for (const ConfigValue& each : describe_config(config)) {
        const std::size_t dot = each.key.rfind('.');
        const std::string in = dot == std::string::npos ? "" : each.key.substr(0, dot);
        if (in != section) {
            out += in.starts_with("policy.") ? "\n[[policy]]\n"
                   : in.starts_with("vm.")   ? "\n[[vm]]\n"
                                             : "\n[" + in + "]\n";
            section = in;
        }
        const std::string name = dot == std::string::npos ? each.key : each.key.substr(dot + 1);
        out += name + " = " + each.value + "  # " + each.origin + "\n";
    }
    return out;
}

Reloaded merge_reloaded(const Config& running, Config wanted) {
    Config was = running;
    Reloaded result{std::move(wanted), {}};
    Config& config = result.config;
    const auto keep = [&](const std::string& key, auto& now, auto& before) {
        if (now != before) {
            result.kept.push_back(key);
            now = std::move(before);
            const auto origin = was.origins.find(key);
            config.origins.erase(key);
            if (origin != was.origins.end()) {
                config.origins[key] = origin->second;
            }
        }
    };
    keep("control_dir", config.control_dir, was.control_dir);
    keep("state_dir", config.state_dir, was.state_dir);
    keep("parallel", config.parallel, was.parallel);
    keep("pause_slots", config.pause_slots, was.pause_slots);
    keep("memory_reserve_mib", config.memory_reserve_mib, was.memory_reserve_mib);
    keep("api.socket", config.api.socket, was.api.socket);
    keep("api.group", config.api.group, was.api.group);
    keep("api.mode", config.api.mode, was.api.mode);
    keep("api.read_socket", config.api.read_socket, was.api.read_socket);
    keep("api.read_group", config.api.read_group, was.api.read_group);
    keep("api.event_ring", config.api.event_ring, was.api.event_ring);
    return result;
}

std::string read_socket_of(const Config::Api& api) {
    if (!api.read_socket.empty()) {
        return api.read_socket;
    }
    const auto name = api.socket.rfind('/') + 1; // 0 if there is none
    const auto dot = api.socket.rfind('.');
    const bool has_ending = dot != std::string::npos && dot > name;
    return api.socket.substr(0, has_ending ? dot : std::string::npos) + "-ro" +
           (has_ending ? api.socket.substr(dot) : std::string());
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
