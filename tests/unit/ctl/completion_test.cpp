// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/completion.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::ctl;

namespace {

std::vector<std::string> words_for(const std::vector<std::string>& typed) {
    std::vector<std::string> words;
    for (const Candidate& candidate : complete(describe_command_line(), typed).candidates) {
        words.push_back(candidate.word);
    }
    return words;
}

LiveNames live_for(const std::vector<std::string>& typed) {
    return complete(describe_command_line(), typed).live;
}

using Words = std::vector<std::string>;

} // namespace

TEST_CASE("commands and options are completed where they may stand", "[ctl][completion]") {
    CHECK(words_for({"up"}) == Words{"upgrade"});
    CHECK(words_for({"re"}) == Words{"rehearse", "revert", "releases"});
    CHECK(words_for({"upgrade", "--pa"}) == Words{"--parallel", "--pause-budget"});
    CHECK(words_for({"upgrade", "--json", "--pa"}) == Words{"--parallel", "--pause-budget"});
    CHECK(words_for({"list", "--pa"}).empty());
    CHECK(words_for({"list", "--js"}) == Words{"--json"});
    CHECK(words_for({"config", ""}) == Words{"show"});
    CHECK(words_for({"config", "show", "--o"}) == Words{"--origin"});
    CHECK(words_for({"list", "--help"}) == Words{"--help"});
}

TEST_CASE("values of options are completed, and not taken for a place", "[ctl][completion]") {
    CHECK(words_for({"--progress", ""}) == Words{"auto", "plain", "live", "none"});
    CHECK(words_for({"list", "--color", "n"}) == Words{"never"});
    CHECK(words_for({"completion", ""}) == Words{"bash", "zsh", "fish"});
    CHECK(live_for({"upgrade", "--to", ""}) == LiveNames::releases);
    CHECK(live_for({"upgrade", "--to", "x", ""}) == LiveNames::vms);
    CHECK(live_for({"upgrade", "--parallel", ""}) == LiveNames::none);
    CHECK(live_for({"events", "--run", ""}) == LiveNames::runs);
}

TEST_CASE("places are completed with names, as many as may stand there", "[ctl][completion]") {
    CHECK(live_for({"show", ""}) == LiveNames::vms);
    CHECK(live_for({"show", "vm1", ""}) == LiveNames::none);
    CHECK(live_for({"hold", "vm1", ""}) == LiveNames::vms);
    CHECK(live_for({"revert", ""}) == LiveNames::vms_or_moves);
    CHECK(live_for({"status", ""}) == LiveNames::runs);
    CHECK(live_for({"abort", ""}) == LiveNames::runs);
    CHECK(live_for({"explain", ""}) == LiveNames::codes);
    CHECK(live_for({"list", ""}) == LiveNames::none);
}

TEST_CASE("every command and option says what it does, in one sentence", "[ctl][completion]") {
    const CommandSpec program = describe_command_line();
    CHECK(program.commands.size() == 20);
    const auto check = [](const std::string& name, const std::string& help) {
        INFO(name << ": " << help);
        CHECK_FALSE(help.empty());
        CHECK((help.empty() || (help.back() != '.' && std::isupper(help.front()) != 0)));
    };
    for (const CommandSpec& command : program.commands) {
        check(command.name, command.help);
        for (const OptionSpec& option : command.options) {
            check(command.name + " " + option.value, option.help);
        }
    }
}

TEST_CASE("a value behind an equals sign is completed, too", "[ctl][completion]") {
    CHECK(words_for({"--progress=l"}) == Words{"--progress=live"});
    const Completion release = complete(describe_command_line(), {"upgrade", "--to=v"});
    CHECK(release.live == LiveNames::releases);
    CHECK(release.prefix == "--to=");
    CHECK(live_for({"upgrade", "--yes=v"}) == LiveNames::none);
    CHECK(live_for({"list", "--label", ""}) == LiveNames::labels);
    CHECK(live_for({"list", "--label=tier"}) == LiveNames::labels);
}
