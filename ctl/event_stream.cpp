// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/event_stream.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

namespace qhup::ctl {
namespace {

/// The value of a field of a line; one space after the colon belongs to neither.
std::optional<std::string_view> value_of(std::string_view line, std::string_view field) {
    if (!line.starts_with(field) || line.substr(field.size(), 1) != ":") {
        return std::nullopt;
    }
    line.remove_prefix(field.size() + 1);
    line.remove_prefix(line.starts_with(' ') ? 1 : 0);
    return line;
}

std::optional<std::uint64_t> number_in(std::string_view digits) {
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const bool is_whole = parsed.ec == std::errc{} && parsed.ptr == digits.data() + digits.size();
    return is_whole ? std::optional(number) : std::nullopt;
}

} // namespace

std::optional<std::string> EventReader::on_line(std::string_view line) {
    if (line.ends_with('\r')) {
        line.remove_suffix(1);
    }
    if (const auto id = value_of(line, "id")) {
        id_ = number_in(*id);
    } else if (const auto data = value_of(line, "data")) {
        data_ += has_data_ ? "\n" : "";
        data_ += *data;
        has_data_ = true;
    }
    if (!line.empty()) {
        return std::nullopt;
    }
    // why: an id counts when its frame is complete; a frame without data only moves it on.
    last_id_ = id_ ? id_ : last_id_;
    id_.reset();
    std::string data = std::exchange(data_, {});
    return std::exchange(has_data_, false) ? std::optional(std::move(data)) : std::nullopt;
}

void EventReader::on_connection() {
    id_.reset();
    data_.clear();
    has_data_ = false;
}

RunFollower::RunFollower(const daemon::RunView& known) : run_(known), stage_(known.stage) {
    for (const daemon::RunVmView& vm : known.vms) {
        vms_[vm.vm] = {vm.phase, vm.outcome};
    }
}

RunFollower::News RunFollower::on_event(const daemon::EventView& event) {
    News news;
    const auto type = daemon::parse_event_type(event.type);
    must_ask_ = must_ask_ || type == daemon::EventType::missed ||
                type == daemon::EventType::run_resumed || type == daemon::EventType::run_finished;
    has_gap_ =
        has_gap_ || type == daemon::EventType::missed || type == daemon::EventType::run_resumed;
    if (event.of_run) {
        run_.state = event.of_run->run.state;
        run_.finished_unix_ms = event.of_run->run.finished_unix_ms;
        run_.stopped_by = event.of_run->run.stopped_by;
        run_.stop_reason = event.of_run->run.stop_reason;
    }
    if (event.stage && event.stage != stage_) {
        stage_ = event.stage;
        run_.stage = event.stage;
        news.stage = event.stage;
    }
    if (event.upgrade) {
        Known& known = vms_[event.upgrade->vm];
        // invariant: what has an outcome stays so; events that are older than the run as it was
        // asked for come later than it.
        if (known.outcome.empty()) {
            known = {event.upgrade->phase, event.upgrade->outcome};
            news.vms.push_back(*event.upgrade);
            const auto is_it = [&event](const daemon::RunVmView& vm) {
                return vm.vm == event.upgrade->vm;
            };
            std::replace_if(run_.vms.begin(), run_.vms.end(), is_it, *event.upgrade);
        }
    }
    return news;
}

std::optional<daemon::RunView> RunFollower::told_end() const {
    const bool is_known =
        !has_gap_ && !run_.vms.empty() &&
        std::none_of(run_.vms.begin(), run_.vms.end(), [](const daemon::RunVmView& vm) {
            return vm.outcome.empty();
        });
    if (!is_known) {
        return std::nullopt;
    }
    daemon::RunView ended = run_;
    ended.state = "finished";
    return ended;
}

RunFollower::News RunFollower::on_run(const daemon::RunView& run) {
    News news;
    must_ask_ = false;
    has_gap_ = false;
    run_ = run;
    if (run.stage && run.stage != stage_) {
        news.stage = run.stage;
    }
    stage_ = run.stage;
    for (const daemon::RunVmView& vm : run.vms) {
        Known& known = vms_[vm.vm];
        if (known.phase != vm.phase || known.outcome != vm.outcome) {
            known = {vm.phase, vm.outcome};
            news.vms.push_back(vm);
        }
    }
    // why: a run has its VMs in the order of work, not of what happened.
    std::stable_sort(news.vms.begin(), news.vms.end(), [](const auto& a, const auto& b) {
        return a.since_ms < b.since_ms;
    });
    return news;
}

} // namespace qhup::ctl
