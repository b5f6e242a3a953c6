// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/live_view.hpp"

#include "ctl/render.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace qhup::ctl {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kLeastRows = 3;
constexpr std::size_t kUsualRows = 20;
constexpr std::size_t kMostNameColumns = 24;

std::string seconds_text(milliseconds time) {
    std::array<char, 32> text{};
    const int length = std::snprintf(
        text.data(),
        text.size(),
        "%.1f s",
        static_cast<double>(std::max(time.count(), milliseconds::rep{0})) / 1000.0
    );
    return std::string(text.data(), static_cast<std::size_t>(std::max(0, length)));
}

/// Who is shown first: in work, ended, waiting.
int rank_of(const daemon::RunVmView& vm) noexcept {
    return !vm.outcome.empty() ? 1 : vm.phase == "queued" || vm.phase.empty() ? 2 : 0;
}

} // namespace

std::string_view phase_text(std::string_view phase) noexcept {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kTexts{{
        {"queued", "waits for its turn"},
        {"preflight", "is checked"},
        {"prepare", "another QEMU starts beside it"},
        {"await_pause", "ready, waits for its turn to pause"},
        {"rehearse", "paused, rehearsing"},
        {"ending_rehearsal", "the rehearsal ends"},
        {"switch_over", "paused, handed over"},
        {"verify", "handed over, is watched"},
        {"commit", "the old process ends"},
        {"discarding", "the other QEMU is given up"},
        {"rolling_back", "goes back to where it was"},
    }};
    for (const auto& [name, text] : kTexts) {
        if (name == phase) {
            return text;
        }
    }
    return phase;
}

void LiveView::on_run(const daemon::RunView& run) {
    entries_.clear();
    for (const daemon::RunVmView& vm : run.vms) {
        entries_.push_back({vm});
    }
    kind_ = run.kind;
    stage_ = run.stage ? render_stage(*run.stage) : "";
}

void LiveView::on_vm(const daemon::RunVmView& vm, milliseconds now) {
    began_ = began_ < milliseconds(0) ? now : began_;
    auto known = std::find_if(entries_.begin(), entries_.end(), [&vm](const Entry& entry) {
        return entry.vm.vm == vm.vm;
    });
    if (known == entries_.end()) {
        known = entries_.insert(entries_.end(), Entry{vm, now});
    }
    if (known->vm.phase != vm.phase || known->since == milliseconds(0)) {
        known->since = now;
    }
    known->vm = vm;
    known->changed = ++changes_;
}

void LiveView::on_stage(const daemon::StageView& stage) {
    stage_ = render_stage(stage);
}

std::string LiveView::line_of(const Entry& entry, std::size_t names, milliseconds now) const {
    std::string name = cut(printable(entry.vm.vm), kMostNameColumns);
    name.append(names - std::min(names, width_of(name)), ' ');
    if (entry.vm.outcome.empty()) {
        const std::string text(phase_text(entry.vm.phase));
        return "  " + name + "  " + printable(text) +
               (rank_of(entry.vm) == 0 ? "  " + style_.faint(seconds_text(now - entry.since)) : "");
    }
    std::string line =
        "  " + name + "  " + style_.outcome(entry.vm.outcome, outcome_in(kind_, entry.vm));
    if (entry.vm.pause_ms) {
        line += ", paused for " + format_milliseconds(*entry.vm.pause_ms);
    }
    if (!entry.vm.code.empty()) {
        line += " [" + printable(entry.vm.code) + "]";
    }
    return line;
}

std::string LiveView::total(milliseconds now) const {
    std::size_t done = 0;
    std::size_t bad = 0;
    for (const Entry& entry : entries_) {
        done += entry.vm.outcome.empty() ? 0 : 1;
        const std::string& outcome = entry.vm.outcome;
        const bool is_good = outcome == "upgraded" || outcome == "unchanged" ||
                             outcome == "rehearsed" || outcome == "checked" || outcome == "skipped";
        bad += outcome.empty() || is_good ? 0 : 1;
    }
    std::string text = std::to_string(done) + " of " + std::to_string(entries_.size()) +
                       (entries_.size() == 1 ? " VM" : " VMs") + " done";
    text += bad == 0 ? "" : ", " + style_.warn(std::to_string(bad) + " not as wanted");
    text += "  " +
            style_.faint(seconds_text(began_ < milliseconds(0) ? milliseconds(0) : now - began_));
    return text;
}

std::vector<std::string>
LiveView::lines(std::size_t columns, std::size_t rows, milliseconds now) const {
    std::vector<const Entry*> order;
    std::size_t names = 0;
    for (const Entry& entry : entries_) {
        order.push_back(&entry);
        names = std::max(names, std::min(width_of(printable(entry.vm.vm)), kMostNameColumns));
    }
    std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
        const int left = rank_of(a->vm);
        const int right = rank_of(b->vm);
        return left != right ? left < right : left == 1 && a->changed > b->changed;
    });
    const std::size_t most = std::max(rows == 0 ? kUsualRows : rows, kLeastRows);
    const std::size_t others = 1 + (stage_.empty() ? 0 : 1); // the total, the stage
    const bool has_more = order.size() + others > most;
    const std::size_t shown = has_more ? most - std::min(most, others + 1) : order.size();
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < shown; ++i) {
        lines.push_back(line_of(*order[i], names, now));
    }
    if (has_more) {
        lines.push_back("  … and " + std::to_string(order.size() - shown) + " more");
    }
    if (!stage_.empty()) {
        lines.push_back(stage_.substr(0, stage_.find('\n')));
    }
    lines.push_back(total(now));
    for (std::string& line : lines) {
        line = cut(line, columns == 0 ? 0 : columns - 1); // the last column would wrap the cursor
    }
    return lines;
}

} // namespace qhup::ctl
