// SPDX-License-Identifier: GPL-2.0-or-later
//
// A target with a defect that no file of its corpus shows, but a changed one does. What runs the
// targets must find it.
#include "tests/fuzz/fuzz.hpp"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = qhup::fuzz::text_of(data, size);
    qhup::fuzz::require(
        text.empty() || text == "one" || text == "two", "an input is one of the corpus"
    );
    return 0;
}
