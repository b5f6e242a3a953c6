// SPDX-License-Identifier: GPL-2.0-or-later
//
// Shows a run that goes on, on standard error: as lines that are drawn again, or a line for each
// change, or not at all.
#pragma once

#include "ctl/live_view.hpp"
#include "ctl/terminal.hpp"
#include "daemon/api_types.hpp"

#include <chrono>
#include <string>

namespace qhup::ctl {

class Progress {
public:
    /// @param mode  not automatic
    Progress(ProgressMode mode, Style style) : mode_(mode), style_(style), view_(style) {}
    ~Progress() { finish(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// Something that takes a moment begins; said at once.
    void begin(const std::string& what);
    /// The run as it is when it is followed from here.
    void on_run(const daemon::RunView& run);
    void on_vm(const daemon::RunVmView& vm);
    void on_stage(const daemon::StageView& stage);
    /// Time passes. Draws ten times a second at most.
    void tick();
    /// A sentence that stays.
    void note(const std::string& text);
    /// The drawn lines go away; what follows may be printed.
    void finish();

private:
    void draw();
    void erase();

    ProgressMode mode_;
    Style style_;
    LiveView view_;
    std::size_t drawn_ = 0; ///< lines on screen
    bool is_changed_ = false;
    std::chrono::steady_clock::time_point last_draw_{};
};

} // namespace qhup::ctl
