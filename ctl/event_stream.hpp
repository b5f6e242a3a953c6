// SPDX-License-Identifier: GPL-2.0-or-later
//
// The lines of text/event-stream, put together to events, and what a follower of one run does with
// these. Pure: whoever follows (ctl/commands/follow.cpp) reads lines and asks the daemon.
#pragma once

#include "daemon/api_types_events.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// Puts frames together, and knows where to go on after the stream broke.
class EventReader {
public:
    /// A line without its end; the empty one ends a frame.
    ///
    /// @return  the data of the frame, if this line ended one that has some
    std::optional<std::string> on_line(std::string_view line);

    /// A new connection begins: half a frame of the last one is forgotten.
    void on_connection();

    /// What the next connection says as Last-Event-ID; none: no frame with an id was complete.
    std::optional<std::uint64_t> last_id() const noexcept { return last_id_; }

private:
    std::optional<std::uint64_t> last_id_;
    std::optional<std::uint64_t> id_; ///< of the frame that is being read
    std::string data_;
    bool has_data_ = false;
};

/// What a follower of a run knows of it, from its events and from the run as it was asked for.
class RunFollower {
public:
    /// What is new, to be shown.
    struct News {
        std::vector<daemon::RunVmView> vms;
        std::optional<daemon::StageView> stage;
    };

    explicit RunFollower(const daemon::RunView& known);

    News on_event(const daemon::EventView& event);
    News on_run(const daemon::RunView& run);

    /// Events do not say everything from here: some were missed, another daemon took the run over,
    /// or it has ended. Until on_run().
    bool must_ask() const noexcept { return must_ask_; }

    /// The run as it ended, if events alone have told what became of each of its VMs: for when the
    /// daemon that could be asked has gone.
    std::optional<daemon::RunView> told_end() const;

private:
    struct Known {
        std::string phase;
        std::string outcome;
    };

    daemon::RunView run_; ///< as far as it is known
    std::map<std::string, Known, std::less<>> vms_;
    std::optional<daemon::StageView> stage_;
    bool must_ask_ = false;
    bool has_gap_ = false; ///< events were missed since the run was asked for
};

} // namespace qhup::ctl
