// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a binary says of itself when it is asked, from bytes to names and versions.
#include "tests/fuzz/fuzz.hpp"
#include "upgrade-engine/binary_facts.hpp"

using namespace qhup;
using namespace qhup::upgrade;
using fuzz::require;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    require(find_refused_option(text).size() <= text.size(), "a name is part of the words");
    const Result<BinaryFacts> facts = parse_answers(text);
    if (facts.has_value()) {
        require(!facts->machines.empty() && !facts->types.empty(), "an answer is a whole one");
        require(facts->refused_options.empty() && facts->states.empty(), "the rest is told later");
    } else {
        require(!to_text(facts.error()).empty(), "a refusal has words");
    }
    const Result<StateFormats> states = parse_state_formats(text);
    if (states.has_value()) {
        for (const auto& [type, format] : *states) {
            const bool is_sound = format.oldest <= format.version;
            require(judge_state(format, format).empty() == is_sound, "who is sound reads itself");
        }
    } else {
        require(!to_text(states.error()).empty(), "a refusal has words");
    }
    return 0;
}
