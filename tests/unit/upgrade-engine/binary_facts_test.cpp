// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/binary_facts.hpp"

#include <string>

using namespace qhup::upgrade;

namespace {

/// What a patched QEMU says, as captured from 10.0.13 and shortened.
std::string make_output() {
    return R"({"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}})"
           "\r\n"
           R"({"return": {}, "id": "qmp_capabilities"})"
           "\r\n"
           R"({"return": [{"name": "argv", "remedy": "r"}], "id": "query-hot-upgrade-blocker-classes"})"
           "\r\n"
           R"({"return": [{"name": "pc-q35-10.0", "alias": "q35", "cpu-max": 4096}, {"name": "none"}], "id": "query-machines"})"
           "\r\n"
           R"({"return": [{"name": "igb", "parent": "pci-device"}, {"name": "iommufd"}], "id": "qom-list-types"})"
           "\r\n"
           R"({"return": {}, "id": "quit"})"
           "\r\n"
           R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}})"
           "\r\n";
}

std::string without(std::string text, const std::string& part) {
    const std::size_t at = text.find(part);
    REQUIRE(at != std::string::npos);
    return text.erase(at, part.size());
}

} // namespace

TEST_CASE("a binary is asked one thing a line, and told to end last", "[upgrade][binary_facts]") {
    const std::string text = format_questions();
    CHECK_THAT(text, Catch::StartsWith("{") && Catch::EndsWith("\n"));
    CHECK(text.find("qmp_capabilities") < text.find("query-machines"));
    CHECK_THAT(text.substr(text.rfind('{')), Catch::Contains("quit"));
    CHECK(text.size() < 4096); // of a pipe, at once
}

TEST_CASE("what a binary says of itself is read", "[upgrade][binary_facts]") {
    const auto facts = parse_answers(make_output());
    REQUIRE(facts.has_value());
    CHECK(facts->is_patched);
    CHECK(facts->machines == Names{"none", "pc-q35-10.0", "q35"});
    CHECK(facts->types == Names{"igb", "iommufd"});
}

TEST_CASE("a QEMU that refuses our command is not patched", "[upgrade][binary_facts]") {
    std::string output = make_output();
    const std::string good = R"("return": [{"name": "argv", "remedy": "r"}])";
    output.replace(
        output.find(good),
        good.size(),
        R"("error": {"class": "CommandNotFound", "desc": "The command is not there"})"
    );
    const auto facts = parse_answers(output);
    REQUIRE(facts.has_value());
    CHECK_FALSE(facts->is_patched);
}

TEST_CASE("half an answer is no answer", "[upgrade][binary_facts]") {
    const std::string whole = make_output();
    const std::size_t needed = whole.find("\r\n", whole.find("qom-list-types"));
    for (std::size_t size = 0; size < needed; ++size) {
        CHECK(parse_answers(whole.substr(0, size)).has_error());
    }
    CHECK(parse_answers(whole.substr(0, needed)).has_value());
}

TEST_CASE("an answer of another form is no answer", "[upgrade][binary_facts]") {
    CHECK(parse_answers("").has_error());
    CHECK(parse_answers("QEMU emulator version 10.0.13\n").has_error());
    CHECK(parse_answers(std::string("\0\xff{[", 4)).has_error());
    CHECK(parse_answers(std::string(100'000, '[')).has_error());
    CHECK(parse_answers(std::string(2U << 20U, 'x')).has_error());
    CHECK(parse_answers(without(
                            make_output(),
                            R"({"name": "igb", "parent": "pci-device"}, {"name": "iommufd"})"
                        ))
              .has_error());
    for (const char* wrong : {"7", R"("x")", R"([7])", R"([{"name": 7}])", R"({"name": "x"})"}) {
        std::string output = make_output();
        const std::string good =
            R"([{"name": "igb", "parent": "pci-device"}, {"name": "iommufd"}])";
        output.replace(output.find(good), good.size(), wrong);
        INFO(wrong);
        CHECK(parse_answers(output).has_error());
    }
    std::string names;
    for (int i = 0; i < 20'001; ++i) {
        names += R"({"name": "n)" + std::to_string(i) + "\"},";
    }
    std::string output = make_output();
    output.insert(output.find(R"({"name": "igb")"), names);
    CHECK(parse_answers(output).has_error());
}

TEST_CASE("the form of device state is read", "[upgrade][binary_facts]") {
    const auto states = parse_state_formats(R"({
        "vmschkmachine": {"Name": "none"},
        "e1000": {"Name": "e1000", "version_id": 9, "minimum_version_id": 9,
                  "Description": {"name": "e1000-card", "version_id": 3, "minimum_version_id": 1,
                                  "Fields": [{"field": "x", "version_id": 0}]}}
    })");
    REQUIRE(states.has_value());
    CHECK(*states == StateFormats{{"e1000", {"e1000-card", 3, 1}}});

    for (const char* text : {
             "",
             "x",
             "[]",
             R"({"e1000": 7})",
             R"({"e1000": {"Description": []}})",
             R"({"e1000": {"Description": {"name": "n", "version_id": 3}}})",
             R"({"e1000": {"Description": {"name": 7, "version_id": 3, "minimum_version_id": 1}}})",
         }) {
        INFO(text);
        CHECK(parse_state_formats(text).has_error());
    }
}

TEST_CASE(
    "state is read by its name, from the oldest to its own version", "[upgrade][binary_facts]"
) {
    const StateFormat reader{"nic", 5, 3};
    CHECK(judge_state({"nic", 5, 5}, reader).empty());
    CHECK(judge_state({"nic", 3, 0}, reader).empty());
    CHECK_THAT(
        judge_state({"nic", 6, 3}, reader), Catch::Contains("6") && Catch::Contains("3 to 5")
    );
    CHECK_THAT(judge_state({"nic", 2, 2}, reader), Catch::Contains("version 2"));
    CHECK_THAT(judge_state({"net", 5, 3}, reader), Catch::Contains("net"));
}

TEST_CASE("the option that QEMU refused is found in its words", "[upgrade][binary_facts]") {
    CHECK(find_refused_option("qemu-system-x86_64: -spice: invalid option\n") == "spice");
    CHECK(find_refused_option("/a -b/qemu: -run-with: invalid option") == "run-with");
    CHECK(find_refused_option("qemu: -spice: requires an argument").empty());
    CHECK(find_refused_option(": invalid option").empty());
    CHECK(find_refused_option("").empty());
}
