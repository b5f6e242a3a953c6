// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/terminal.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::ctl;

TEST_CASE("progress is live only where lines can be drawn again", "[ctl][terminal]") {
    const Terminal file;
    const Terminal screen{.is_terminal = true};
    const Terminal dumb{.is_terminal = true, .is_dumb = true};
    CHECK(choose_progress(ProgressMode::automatic, screen, false) == ProgressMode::live);
    CHECK(choose_progress(ProgressMode::automatic, dumb, false) == ProgressMode::plain);
    CHECK(choose_progress(ProgressMode::automatic, file, false) == ProgressMode::plain);
    CHECK(choose_progress(ProgressMode::automatic, screen, true) == ProgressMode::none);
    CHECK(choose_progress(ProgressMode::plain, screen, true) == ProgressMode::plain);
    CHECK(choose_progress(ProgressMode::none, screen, false) == ProgressMode::none);
}

TEST_CASE("colors need a terminal that wants them, or a word", "[ctl][terminal]") {
    const Terminal screen{.is_terminal = true};
    CHECK(choose_color(ColorMode::automatic, screen));
    CHECK_FALSE(choose_color(ColorMode::automatic, {}));
    CHECK_FALSE(choose_color(ColorMode::automatic, {.is_terminal = true, .wants_color = false}));
    CHECK_FALSE(choose_color(ColorMode::automatic, {.is_terminal = true, .is_dumb = true}));
    CHECK(choose_color(ColorMode::always, {}));
    CHECK_FALSE(choose_color(ColorMode::never, screen));
    CHECK(Style{true}.outcome("upgraded", "x") == "\x1b[32mx\x1b[0m");
    CHECK(Style{true}.outcome("rolled_back", "x") == "\x1b[33mx\x1b[0m");
    CHECK(Style{true}.outcome("needs_operator", "x") == "\x1b[31mx\x1b[0m");
    CHECK(Style{false}.outcome("upgraded", "x") == "x");
}

TEST_CASE("a line is as wide as its characters, and cut by them", "[ctl][terminal]") {
    CHECK(width_of("\x1b[32mgrün\x1b[0m") == 4);
    CHECK(cut("abcdef", 6) == "abcdef");
    CHECK(cut("abcdef", 5) == "abcd…");
    CHECK(cut("grünes", 4) == "grü…");
    CHECK(cut("\x1b[32mabcdef\x1b[0m", 3) == "\x1b[32mab…\x1b[0m");
    CHECK(cut("abcdef", 0) == "abcdef");
}

TEST_CASE("a long line goes on below, and a command to copy stays whole", "[ctl][terminal]") {
    CHECK(wrap("one two three four\n", 10) == "one two\n  three\n  four\n");
    CHECK(wrap("  one two three\n", 12) == "  one two\n    three\n");
    CHECK(wrap("    qhupd-ctl list --json\n", 10) == "    qhupd-ctl list --json\n");
    CHECK(wrap("one two three four", 0) == "one two three four");
    CHECK(wrap("unbreakable", 4) == "unbreakable");
    CHECK(wrap("a\n\nb\n", 10) == "a\n\nb\n");
}
