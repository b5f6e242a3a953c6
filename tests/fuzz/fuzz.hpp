// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the fuzz targets share. A target is one function; libFuzzer calls it with what it makes up,
// and corpus_main.cpp with the files of the corpus and with what it makes of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

/// One input. Ends the process if something is not as it must be; else returns zero.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace qhup::fuzz {

/// What must be true of every input.
inline void require(bool is_true, const char* what) {
    if (!is_true) {
        std::fprintf(stderr, "not true: %s\n", what);
        std::abort();
    }
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

/// Takes an input apart. When it is used up, zeros and empty texts follow.
class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(text_of(data, size)) {}

    [[nodiscard]] bool is_empty() const { return rest_.empty(); }

    std::uint8_t byte() {
        if (rest_.empty()) {
            return 0;
        }
        const auto value = static_cast<std::uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        return value;
    }

    std::string_view take(std::size_t size) {
        const std::string_view taken = rest_.substr(0, size);
        rest_.remove_prefix(taken.size());
        return taken;
    }

    /// Until the separator, which is taken, too.
    std::string_view until(char separator) {
        const std::string_view taken = rest_.substr(0, rest_.find(separator));
        rest_.remove_prefix(taken.size());
        take(1);
        return taken;
    }

private:
    std::string_view rest_;
};

} // namespace qhup::fuzz
