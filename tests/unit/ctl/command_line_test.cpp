// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/command_line.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::ctl;

namespace {

std::variant<Options, EarlyExit> parse(std::vector<const char*> words) {
    words.insert(words.begin(), "qhupd-ctl");
    return parse_command_line(static_cast<int>(words.size()), words.data());
}

Options options_of(std::vector<const char*> words) {
    return std::get<Options>(parse(std::move(words)));
}

int status_of(std::vector<const char*> words) {
    const auto parsed = parse(std::move(words));
    const auto* early = std::get_if<EarlyExit>(&parsed);
    return early == nullptr ? -1 : static_cast<int>(early->status);
}

} // namespace

TEST_CASE("every command is understood", "[ctl][command_line]") {
    CHECK(options_of({"list"}).command == Command::list);
    CHECK(options_of({"show", "vm1"}).vms == std::vector<std::string>{"vm1"});
    const Options check = options_of({"check", "vm1", "vm2", "--to", "deb13"});
    CHECK(check.vms.size() == 2);
    CHECK(check.to == "deb13");
    const Options upgrade =
        options_of({"upgrade", "--all", "--to", "deb13", "--parallel", "3", "-y"});
    CHECK(upgrade.all);
    CHECK(upgrade.yes);
    CHECK(upgrade.parallel == 3U);
    CHECK(
        options_of({"upgrade", "vm1", "--to", "x", "--request-id", "job-7"}).request_id == "job-7"
    );
    CHECK(status_of({"upgrade", "vm1", "--to", "x", "--request-id", "a/b"}) == 64);
    CHECK(options_of({"upgrade", "vm1", "--to", "x", "--max-failures", "2"}).max_failures == 2);
    CHECK(status_of({"upgrade", "vm1", "--to", "x", "--max-failures", "0"}) == 64);
    CHECK(options_of({"abort", "r1"}).command == Command::abort);
    CHECK(options_of({"abort", "r1"}).run == "r1");
    CHECK(status_of({"abort"}) == 64);
    CHECK(options_of({"status"}).run.empty());
    CHECK(options_of({"status", "r1"}).run == "r1");
    CHECK(options_of({"releases"}).command == Command::releases);
    CHECK(options_of({"version"}).command == Command::version);
}

TEST_CASE("global options stand before or behind the command", "[ctl][command_line]") {
    CHECK(options_of({"--json", "list"}).json);
    CHECK(options_of({"list", "--json"}).json);
    CHECK(options_of({"list", "--socket", "/s"}).socket == "/s");
    CHECK(options_of({"--socket", "/s", "list"}).socket == "/s");
}

TEST_CASE("who names a socket gets no other one", "[ctl][command_line]") {
    CHECK(options_of({"list"}).read_socket == "/run/qhupd/qhupd-ro.sock");
    CHECK(options_of({"list", "--socket", "/s"}).read_socket.empty());
    CHECK(options_of({"__complete", "show", ""}).read_socket == "/run/qhupd/qhupd-ro.sock");
    CHECK(options_of({"__complete", "--socket", "/s", "show", ""}).read_socket.empty());
}

TEST_CASE("how runs are shown can be said", "[ctl][command_line]") {
    CHECK(options_of({"list"}).progress == ProgressMode::automatic);
    CHECK(options_of({"status", "r1", "--progress", "plain"}).progress == ProgressMode::plain);
    CHECK(options_of({"--progress=none", "list"}).progress == ProgressMode::none);
    CHECK(options_of({"list", "--color", "never"}).color == ColorMode::never);
    CHECK(status_of({"list", "--color", "blue"}) == 64);
    CHECK(status_of({"list", "--progress", "0"}) == 64);
    CHECK(options_of({"upgrade", "vm1", "--to", "x", "--no-wait"}).no_wait);
    CHECK(options_of({"status", "r1", "--timeout", "90s"}).timeout == std::chrono::seconds(90));
    CHECK(status_of({"upgrade", "vm1", "--to", "x", "--no-wait", "--timeout", "1s"}) == 64);
    CHECK(status_of({"upgrade", "vm1", "--to", "x", "--timeout", "1"}) == 64);
}

TEST_CASE("a wrong command line ends with 64", "[ctl][command_line]") {
    CHECK(status_of({}) == 64);
    CHECK(status_of({"lst"}) == 64);
    CHECK(status_of({"show"}) == 64);
    CHECK(status_of({"upgrade", "vm1"}) == 64);
    CHECK(status_of({"upgrade", "--to", "deb13"}) == 64);
    CHECK(status_of({"upgrade", "vm1", "--all", "--to", "deb13"}) == 64);
    CHECK(status_of({"upgrade", "--all", "--to", "deb13", "--parallel", "0"}) == 64);
    CHECK(status_of({"upgrade", "--all", "--to", "../x"}) == 64);
    CHECK(status_of({"show", "a/b"}) == 64);
    CHECK(status_of({"rehearse", "--to", "deb13"}) == 64);
    CHECK(status_of({"rehearse", "vm1", "--to", "deb13", "--dry-run"}) == 64);
    CHECK(status_of({"rehearse", "vm1", "--to", "deb13", "--pause-budget", "0"}) == 64);
    CHECK(status_of({"upgrade", "vm1", "--to", "deb13", "--rehearse", "--no-rehearse"}) == 64);
    CHECK(status_of({"list", "--nonsense"}) == 64);
}

TEST_CASE("what shall be rehearsed is understood", "[ctl][command_line]") {
    const auto options_of = [](std::vector<const char*> words) {
        return std::get<Options>(parse(std::move(words)));
    };
    const Options alone = options_of({"rehearse", "--all", "--to", "x", "--pause-budget", "50"});
    CHECK(alone.command == Command::rehearse);
    CHECK(alone.pause_budget_ms == 50U);
    CHECK(options_of({"upgrade", "vm1", "--to", "x"}).rehearse.empty());
    CHECK(options_of({"upgrade", "vm1", "--to", "x", "--rehearse"}).rehearse == "all");
    CHECK(options_of({"upgrade", "vm1", "--to", "x", "--no-rehearse"}).rehearse == "none");
}

TEST_CASE("a revert names no release", "[ctl][command_line]") {
    CHECK(status_of({"revert"}) == 64);
    CHECK(status_of({"revert", "vm1", "--to", "deb13"}) == 64);
    CHECK(std::get<Options>(parse({"revert", "vm1", "vm2"})).command == Command::revert);
}

TEST_CASE("a hold needs a reason, and has one end at most", "[ctl][command_line]") {
    const Options open = options_of({"hold", "vm1", "vm2", "--reason", "a backup goes on"});
    CHECK(open.command == Command::hold);
    CHECK(open.vms.size() == 2);
    CHECK(open.reason == "a backup goes on");
    CHECK_FALSE(open.until_unix_ms.has_value());
    const Options until = options_of({"hold", "vm1", "--reason", "x", "--until", "2023-11-14Z"});
    CHECK(until.until_unix_ms == 1'699'920'000'000);
    const Options span = options_of({"hold", "vm1", "--reason", "x", "--for", "2h"});
    CHECK(span.hold_for == std::chrono::hours(2));
    CHECK(options_of({"unhold", "vm1"}).command == Command::unhold);
    CHECK(status_of({"hold", "vm1"}) == 64);
    CHECK(status_of({"hold", "--reason", "x"}) == 64);
    CHECK(status_of({"hold", "vm1", "--reason", "x", "--for", "2"}) == 64);
    CHECK(status_of({"hold", "vm1", "--reason", "x", "--until", "soon"}) == 64);
    CHECK(
        status_of({"hold", "vm1", "--reason", "x", "--until", "2023-11-14Z", "--for", "2h"}) == 64
    );
    CHECK(status_of({"unhold"}) == 64);
    CHECK(status_of({"hold", "a/b", "--reason", "x"}) == 64);
}

TEST_CASE("the stages of an upgrade are understood", "[ctl][command_line]") {
    const Options options = options_of(
        {"upgrade", "--all", "--to", "x", "--canaries", "2", "--soak", "10min", "--batch", "20"}
    );
    CHECK(options.canaries == 2);
    CHECK(options.batch == 20);
    CHECK(options.soak == std::chrono::minutes(10));
    CHECK(status_of({"upgrade", "--all", "--to", "x", "--canaries", "0"}) == 64);
    CHECK(status_of({"upgrade", "--all", "--to", "x", "--soak", "10min"}) == 64);
    CHECK(status_of({"upgrade", "--all", "--to", "x", "--batch", "2", "--soak", "8d"}) == 64);
    CHECK(status_of({"upgrade", "--all", "--to", "x", "--batch", "2", "--soak", "8"}) == 64);
    CHECK(status_of({"rehearse", "--all", "--to", "x", "--batch", "2"}) == 64);
}

TEST_CASE("a word that is no command is named", "[ctl][command_line]") {
    const auto parsed = parse({"foo", "vm1"});
    const auto* early = std::get_if<EarlyExit>(&parsed);
    REQUIRE(early != nullptr);
    CHECK(early->text.find("'foo' is not a command") == 0);
}

TEST_CASE("help and version are no errors", "[ctl][command_line]") {
    CHECK(status_of({"--help"}) == 0);
    CHECK(status_of({"upgrade", "--help"}) == 0);
    CHECK(status_of({"--version"}) == 0);
}

TEST_CASE("a pause is said with a unit, or in milliseconds", "[ctl][command_line]") {
    const auto budget_of = [](const char* text) {
        return options_of({"upgrade", "vm1", "--to", "x", "--pause-budget", text}).pause_budget_ms;
    };
    CHECK(budget_of("50") == 50U);
    CHECK(budget_of("50ms") == 50U);
    CHECK(budget_of("2s") == 2000U);
    for (const char* text : {"0", "0ms", "31s", "30001", "5min", "ms", "-1ms"}) {
        CHECK(status_of({"upgrade", "vm1", "--to", "x", "--pause-budget", text}) == 64);
    }
}

TEST_CASE("what is empty is refused in the words of the command line", "[ctl][command_line]") {
    const auto text_of = [](std::vector<const char*> words) {
        const auto parsed = parse(std::move(words));
        const auto* early = std::get_if<EarlyExit>(&parsed);
        return early == nullptr ? std::string() : early->text;
    };
    CHECK(text_of({"hold", "vm1", "--reason", ""}).starts_with("--reason is empty"));
    CHECK(text_of({"hold", "vm1", "--reason", " "}).starts_with("--reason is empty"));
    CHECK(text_of({"upgrade", "vm1", "--to", ""}).starts_with("--to is empty"));
    CHECK(text_of({"selftest", "--to", ""}).starts_with("--to is empty"));
}

TEST_CASE("help is no answer to a misspelt command", "[ctl][command_line]") {
    for (const auto& words : std::vector<std::vector<const char*>>{
             {"upgrd", "--help"}, {"--help", "upgrd"}, {"--color", "never", "upgrd", "-h"}}) {
        const auto parsed = parse(words);
        const auto* early = std::get_if<EarlyExit>(&parsed);
        REQUIRE(early != nullptr);
        CHECK(early->status == ExitStatus::usage);
        CHECK(early->text.find("Did you mean 'upgrade'?") != std::string::npos);
    }
    CHECK(status_of({"--color", "never", "--help"}) == 0);
    const auto parsed = parse({"-v"});
    CHECK(std::get<EarlyExit>(parsed).text.find("'--version'") != std::string::npos);
    const auto other = parse({"-x"});
    CHECK(std::get<EarlyExit>(other).text.find("Did you mean") == std::string::npos);
}
