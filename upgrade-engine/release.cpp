// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/release.hpp"

#include "common/toml.hpp"
#include "common/toml_keys.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace qhup::upgrade {
namespace {

constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kHexDigits = 64;

bool is_name(std::string_view text) {
    constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_.-";
    return !text.empty() && text.size() <= kMaxNameBytes && text.front() != '.' &&
           text.find_first_not_of(kAllowed) == std::string_view::npos;
}

bool is_sha256(std::string_view text) {
    return text.size() == kHexDigits &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// Reads the keys one after the other and keeps the first complaint.
class Reader {
public:
    explicit Reader(std::string file) : file_(std::move(file)) {}

    void complain(const toml::source_region& where, const std::string& what) {
        if (!failure_) {
            const auto line = static_cast<unsigned>(where.begin.line);
            failure_ = make_failure(
                Errc::release_invalid,
                "The release " + file_ +
                    (line == 0 ? " " : ", line " + std::to_string(line) + ", ") + what +
                    "; correct the file."
            );
        }
    }

    void read(const toml::node& node, const std::string& key, std::string& into) {
        const toml::value<std::string>* const text = node.as_string();
        if (text == nullptr) {
            complain(node.source(), "has a value of " + key + " that is not a text");
        } else if (text->get().find('\0') != std::string::npos) {
            complain(node.source(), "has a zero byte in " + key);
        } else {
            into = text->get();
        }
    }

    void read(const toml::node& node, const std::string& key, std::vector<std::string>& into) {
        const toml::array* const array = node.as_array();
        if (array == nullptr) {
            complain(node.source(), "has a value of " + key + " that is not a list of texts");
            return;
        }
        for (const toml::node& item : *array) {
            read(item, key, into.emplace_back());
        }
    }

    [[nodiscard]] const std::optional<Failure>& failure() const { return failure_; }

private:
    std::string file_;
    std::optional<Failure> failure_;
};

void read_key(Reader& reader, const std::string& key, const toml::node& node, Release& release) {
    if (key == "name") {
        std::string name;
        reader.read(node, key, name);
        release.name = ReleaseName(std::move(name));
    } else if (key == "path") {
        reader.read(node, key, release.path);
    } else if (key == "sha256") {
        reader.read(node, key, release.sha256);
    } else if (key == "version") {
        reader.read(node, key, release.version);
    } else if (key == "description") {
        reader.read(node, key, release.description);
    } else if (key == "firmware") {
        reader.read(node, key, release.firmware);
    } else if (key == "options") {
        reader.read(node, key, release.options);
    } else {
        std::string list;
        for (const std::string_view one : kReleaseKeys) {
            list += (list.empty() ? "" : ", ") + std::string(one);
        }
        reader.complain(node.source(), "has the key " + key + ", which is none of " + list);
    }
}

void check(Reader& reader, Release& release) {
    std::transform(
        release.sha256.begin(),
        release.sha256.end(),
        release.sha256.begin(),
        [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; }
    );
    if (!is_name(release.name.text())) {
        reader.complain({}, "has a name that is not one to 64 letters, digits, '_', '.' or '-'");
    }
    if (!release.path.starts_with('/')) {
        reader.complain({}, "needs the absolute path of a QEMU binary in path");
    }
    if (!release.sha256.empty() && !is_sha256(release.sha256)) {
        reader.complain({}, "has a sha256 that is not 64 hexadecimal digits");
    }
    for (const std::string& folder : release.firmware) {
        if (!folder.starts_with('/')) {
            reader.complain({}, "has a firmware folder that is not an absolute path");
        }
    }
}

} // namespace

Result<Release> parse_release(std::string_view text, std::string_view default_name) {
    Reader reader{std::string(default_name)};
    if (const std::size_t line = line_of_too_deep_key(text); line != 0) {
        reader.complain(
            {{static_cast<toml::source_index>(line), 1}, {}, nullptr},
            "has a key with too many parts"
        );
        return *reader.failure();
    }
    const toml::parse_result parsed = toml::parse(text);
    if (parsed.failed()) {
        reader.complain(
            parsed.error().source(),
            "is not valid TOML: " + std::string(parsed.error().description())
        );
        return *reader.failure();
    }
    Release release;
    release.name = ReleaseName(std::string(default_name));
    for (const auto& [key, node] : parsed.table()) {
        read_key(reader, std::string(key.str()), node, release);
    }
    check(reader, release);
    if (reader.failure()) {
        return *reader.failure();
    }
    return release;
}

std::vector<std::string> release_tail(const Release& release) {
    std::vector<std::string> tail;
    for (const std::string& folder : release.firmware) {
        tail.emplace_back("-L");
        tail.push_back(folder);
    }
    tail.insert(tail.end(), release.options.begin(), release.options.end());
    return tail;
}

} // namespace qhup::upgrade
