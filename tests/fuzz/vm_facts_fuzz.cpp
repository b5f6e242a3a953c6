// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a QEMU says about itself, from JSON to a decision.
#include "qmp-client/message.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/vm_facts.hpp"

using namespace qhup;
using namespace qhup::upgrade;
using fuzz::require;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    (void)parse_exit_status(text);
    (void)parse_refused_section(text);
    const Result<qmp::Json> value = qmp::parse_json(text);
    if (value.has_error()) {
        return 0;
    }
    const Result<SwitchTimings> timings = parse_switch_timings(*value);
    if (timings.has_value()) {
        for (const auto& [name, ns] : to_map_ns(*timings)) {
            require(ns >= 0, "no time is negative");
        }
    }
    require(make_shape_class("pc", *value).size() <= 16, "a class has 16 digits at most");
    Result<VmFacts> facts = parse_vm_facts(*value);
    if (facts.has_error()) {
        require(!to_text(facts.error()).empty(), "a refusal has words");
        return 0;
    }
    require(facts->argv.size() < 100'000, "the command line is bounded");
    require(parse_pair_state(to_string(facts->state)) == facts->state, "the state has a name");
    const Observation seen{Observation::Presence::answers, std::move(*facts), std::nullopt};
    const Observation nobody;
    for (const Observation* other : {&nobody, &seen}) {
        require(!decide(seen, *other).reason.empty(), "a decision has a reason");
        require(!decide(*other, seen).reason.empty(), "a decision has a reason");
    }
    return 0;
}
