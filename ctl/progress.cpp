// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/progress.hpp"

#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <unistd.h>

namespace qhup::ctl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenDraws{100};
constexpr milliseconds kBetweenQuietDraws{500}; // nothing changed but the time

milliseconds now() {
    return std::chrono::duration_cast<milliseconds>(Clock::now().time_since_epoch());
}

} // namespace

void Progress::begin(const std::string& what) {
    if (mode_ != ProgressMode::none) {
        note(what + "\n");
    }
}

void Progress::on_run(const daemon::RunView& run) {
    view_.on_run(run);
    is_changed_ = true;
}

void Progress::on_vm(const daemon::RunVmView& vm) {
    view_.on_vm(vm, now());
    is_changed_ = true;
    if (mode_ == ProgressMode::plain && vm.phase != "queued") {
        tell(render_progress(view_.kind(), vm) + "\n");
    }
    tick();
}

void Progress::on_stage(const daemon::StageView& stage) {
    view_.on_stage(stage);
    is_changed_ = true;
    if (mode_ == ProgressMode::plain) {
        tell(render_stage(stage));
    }
}

void Progress::tick() {
    const auto wait = is_changed_ ? kBetweenDraws : kBetweenQuietDraws;
    if (mode_ == ProgressMode::live && Clock::now() - last_draw_ >= wait) {
        draw();
    }
}

void Progress::note(const std::string& text) {
    erase();
    tell(text);
}

void Progress::finish() {
    erase();
}

void Progress::draw() {
    const Terminal terminal = observe_terminal(STDERR_FILENO);
    const std::size_t rows = terminal.rows > 1 ? terminal.rows - 1 : 0;
    std::string text = drawn_ == 0 ? "" : "\x1b[" + std::to_string(drawn_) + "A\r";
    const auto lines = view_.lines(terminal.columns, rows, now());
    for (const std::string& line : lines) {
        text += line + "\x1b[K\n";
    }
    tell_raw(text + "\x1b[J");
    drawn_ = lines.size();
    is_changed_ = false;
    last_draw_ = Clock::now();
}

void Progress::erase() {
    if (drawn_ > 0) {
        tell_raw("\x1b[" + std::to_string(drawn_) + "A\r\x1b[J");
        drawn_ = 0;
    }
}

} // namespace qhup::ctl
