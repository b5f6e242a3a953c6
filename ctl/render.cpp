// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/render.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <map>
#include <utility>

namespace qhup::ctl {
namespace {

using Row = std::vector<std::string>;

constexpr std::size_t kMinuteColumns = 16; // of a time: "2026-01-31 12:00"

// The daemon asks whom it lists; what is older than this it could not ask in time.
constexpr std::uint64_t kOldMs = 5'000;

std::string pad(std::string_view text, std::size_t width) {
    std::string padded(text);
    padded.append(width - std::min(width, width_of(text)), ' ');
    return padded;
}

std::string or_dash(std::string_view text) {
    return text.empty() ? "-" : printable(text);
}

std::string count_of(std::size_t count, std::string_view one) {
    return std::to_string(count) + " " + std::string(one) + (count == 1 ? "" : "s");
}

/// A sentence without its full stop, so that it can stand before another.
std::string without_stop(std::string text) {
    while (!text.empty() && (text.back() == '.' || text.back() == ' ')) {
        text.pop_back();
    }
    return text;
}

std::string sentence(std::string_view text) {
    return without_stop(printable(text)) + ".";
}

std::string state_of(const daemon::VmView& vm) {
    const std::string mark = vm.attention ? ", needs operator" : "";
    if (!vm.reachable) {
        return "unreachable" + mark;
    }
    // why: the pair's "running" is the guest on the new QEMU, whose source has not ended yet.
    const bool is_in_work =
        !vm.upgrade_state.empty() && vm.upgrade_state != "none" && vm.upgrade_state != vm.state;
    return or_dash(vm.state) + (is_in_work ? " (" + printable(vm.upgrade_state) + ")" : "") + mark;
}

std::string upgradable_of(const daemon::VmView& vm) {
    if (!vm.reachable) {
        return "-";
    }
    if (!vm.run.empty()) {
        return "in run " + printable(vm.run);
    }
    if (vm.hold) {
        return "held";
    }
    if (vm.upgradable) {
        return "yes";
    }
    return vm.blockers.empty() ? "no" : "no, " + count_of(vm.blockers.size(), "blocker");
}

bool goes_back(const daemon::RunView& run) {
    return run.kind == "revert" || run.kind == "way_back";
}

/// Where the run takes VMs. A revert goes to no release, and each VM to its own binary.
std::string destination_of(const daemon::RunView& run) {
    return goes_back(run) && run.to == "kept" ? "back" : or_dash(run.to);
}

/// "3 upgraded, 1 refused", in the order of the VMs; "-" while there is none.
std::string outcome_counts(const daemon::RunView& run) {
    std::vector<std::pair<std::string, std::size_t>> counts;
    for (const daemon::RunVmView& vm : run.vms) {
        if (vm.outcome.empty()) {
            continue;
        }
        const std::string outcome = outcome_in(run.kind, vm);
        const auto known = std::find_if(counts.begin(), counts.end(), [&outcome](const auto& one) {
            return one.first == outcome;
        });
        if (known == counts.end()) {
            counts.emplace_back(outcome, 1);
        } else {
            ++known->second;
        }
    }
    std::string text;
    for (const auto& [outcome, count] : counts) {
        text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + outcome;
    }
    return or_dash(text);
}

std::string milliseconds_or_dash(const std::optional<double>& value) {
    return value ? format_milliseconds(*value) : "-";
}

std::string
blocker_lines(const std::vector<daemon::BlockerView>& blockers, std::string_view indent) {
    std::string text;
    for (const daemon::BlockerView& blocker : blockers) {
        text += std::string(indent) + or_dash(blocker.id) + ": " + sentence(blocker.reason) + "\n";
    }
    return text;
}

/// What is true of the guest after this outcome.
std::string_view meaning_of(std::string_view outcome) {
    if (outcome == "upgraded") {
        return "was upgraded";
    }
    if (outcome == "rehearsed") {
        return "was rehearsed";
    }
    if (outcome == "refused") {
        return "was refused and not touched";
    }
    if (outcome == "rolled_back") {
        return "was rolled back; the guest runs on where it was";
    }
    if (outcome == "skipped") {
        return "was left out";
    }
    if (outcome == "unchanged") {
        return "was on the release already";
    }
    if (outcome == "lost_contact") {
        return "does not answer any more; the pair finishes or undoes the upgrade by itself";
    }
    if (outcome == "needs_operator") {
        return "needs an operator";
    }
    return "ended in a way that this version does not know";
}

/// The sentence below the table for a VM that was not upgraded, or of which more must be said.
std::string explanation_of(const daemon::RunVmView& vm) {
    // why: whoever was paused for a rehearsal was touched.
    const bool was_rehearsed = vm.outcome == "refused" && vm.rehearsal && vm.rehearsal->pause_ms;
    std::string text =
        or_dash(vm.vm) + " " +
        (was_rehearsed ? "was refused and not moved" : std::string(meaning_of(vm.outcome)));
    // why: the engine's sentence and QEMU's words are about the first blocker, which is listed.
    const auto is_listed = [&vm](const std::string& words) {
        return std::any_of(vm.blockers.begin(), vm.blockers.end(), [&words](const auto& blocker) {
            return without_stop(words) == without_stop(blocker.reason);
        });
    };
    if (!vm.message.empty() && !is_listed(vm.message)) {
        text += ": " + without_stop(printable(vm.message));
    }
    if (!vm.peer_text.empty() && !is_listed(vm.peer_text)) {
        text += " (\"" + without_stop(printable(vm.peer_text)) + "\")";
    }
    text += vm.code.empty() ? "." : " [" + printable(vm.code) + "].";
    if (!vm.next_step.empty()) {
        text += " " + sentence(vm.next_step);
    }
    text += "\n";
    return text + blocker_lines(vm.blockers, "  ");
}

/// What the rehearsal before, or instead of, an upgrade found; "" if there was none.
std::string rehearsal_lines(const daemon::RunVmView& vm) {
    if (!vm.rehearsal) {
        return {};
    }
    const daemon::RehearsalView& rehearsal = *vm.rehearsal;
    std::string text = "  rehearsal of " + or_dash(vm.vm) + " " + or_dash(rehearsal.result);
    if (rehearsal.pause_ms) {
        text += ", paused for " + format_milliseconds(*rehearsal.pause_ms);
    }
    if (rehearsal.predicted_pause_ms) {
        text += ", an upgrade would pause for about " +
                format_milliseconds(*rehearsal.predicted_pause_ms);
    }
    text += rehearsal.section.empty() ? "" : ", refused: " + printable(rehearsal.section);
    return text + ".\n";
}

std::string size_text(std::uint64_t bytes) {
    return bytes == 0 ? "-" : std::to_string(bytes >> 20U) + " MiB";
}

} // namespace

std::string render_table(const std::vector<Row>& rows) {
    std::vector<std::size_t> widths;
    for (const Row& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], width_of(row[i]));
        }
    }
    std::string text;
    for (const Row& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            line += pad(row[i], i + 1 == row.size() ? 0 : widths[i] + 2);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        text += line + "\n";
    }
    return text;
}

std::string printable(std::string_view text) {
    std::string shown(text);
    for (std::size_t i = 0; i < shown.size(); ++i) {
        const auto byte = static_cast<unsigned char>(shown[i]);
        // why: 0xC2 0x80..0x9F are the control characters above ASCII; terminals obey them too.
        const bool is_high_control =
            byte == 0xC2 && i + 1 < shown.size() && static_cast<unsigned char>(shown[i + 1]) < 0xA0;
        if (byte == '\n' || byte == '\t') {
            shown[i] = ' ';
        } else if (byte < 0x20 || byte == 0x7F) {
            shown[i] = '?';
        } else if (is_high_control) {
            shown[i] = '?';
            shown[i + 1] = '?';
        }
    }
    return shown;
}

std::string format_milliseconds(double milliseconds) {
    std::array<char, 64> buffer{};
    const bool is_short = milliseconds < 1000.0;
    const int length =
        is_short ? std::snprintf(buffer.data(), buffer.size(), "%.1f ms", milliseconds)
                 : std::snprintf(buffer.data(), buffer.size(), "%.2f s", milliseconds / 1000.0);
    return std::string(buffer.data(), static_cast<std::size_t>(std::max(0, length)));
}

std::string format_time(std::int64_t unix_ms) {
    const std::time_t seconds = static_cast<std::time_t>(unix_ms / 1000);
    std::tm parts{};
    if (unix_ms <= 0 || ::gmtime_r(&seconds, &parts) == nullptr) {
        return "-";
    }
    std::array<char, 64> buffer{};
    const std::size_t length =
        std::strftime(buffer.data(), buffer.size(), "%Y-%m-%d %H:%M:%SZ", &parts);
    return std::string(buffer.data(), length);
}

std::string
render_vms(const std::vector<daemon::VmView>& vms, const std::vector<daemon::AttentionView>& gone) {
    std::string notes;
    for (const daemon::AttentionView& one : gone) {
        notes += or_dash(one.vm) + " is not there. " + render_attention(one);
    }
    if (vms.empty()) {
        return "No VM was found. VMs are looked for where [discovery] in qhupd.toml says.\n" +
               notes;
    }
    std::vector<Row> rows{{"VM", "PID", "VERSION", "STATE", "UPGRADABLE"}};
    std::size_t old = 0;
    for (const daemon::VmView& vm : vms) {
        old += vm.reachable && vm.run.empty() && vm.age_ms > kOldMs ? 1 : 0;
        rows.push_back(
            {or_dash(vm.name),
             vm.pid == 0 ? "-" : std::to_string(vm.pid),
             or_dash(vm.version),
             state_of(vm),
             upgradable_of(vm)}
        );
        if (!vm.reachable) {
            notes += or_dash(vm.name) + ": " + sentence(vm.reason) + "\n";
        }
        notes += vm.hold ? render_hold(*vm.hold) : "";
        notes += vm.attention ? render_attention(*vm.attention) : "";
    }
    if (old != 0) {
        notes += count_of(old, "VM") + " could not be asked in a moment, and " +
                 (old == 1 ? "is" : "are") +
                 " shown as last known. They are being asked: list again for news.\n";
    }
    return render_table(rows) + (notes.empty() ? "" : "\n" + notes);
}

std::string render_no_vm_with(const std::map<std::string, std::string>& labels) {
    std::string words;
    for (const auto& [key, value] : labels) {
        words += (words.empty() ? "" : " and ") + printable(key) + "=" + printable(value);
    }
    return "No VM has the label" + std::string(labels.size() == 1 ? " " : "s ") + words + ".\n";
}

std::string render_vm(const daemon::VmView& vm) {
    std::vector<Row> rows{
        {"VM", or_dash(vm.name)},
        {"UUID", or_dash(vm.uuid)},
        {"PID", vm.pid == 0 ? "-" : std::to_string(vm.pid)},
        {"QEMU",
         or_dash(vm.version) + (vm.package.empty() ? "" : " (" + printable(vm.package) + ")")},
        {"Build", or_dash(vm.build_id)},
        {"Machine", or_dash(vm.machine)},
        {"RAM", size_text(vm.ram_bytes)},
        {"QMP", or_dash(vm.socket)},
        {"State", state_of(vm)},
        {"Upgradable", upgradable_of(vm)},
    };
    std::string text = render_table(rows);
    if (!vm.reachable) {
        text += "\n" + sentence(vm.reason) + "\n";
    }
    text += vm.hold ? "\n" + render_hold(*vm.hold) : "";
    text += vm.attention ? "\n" + render_attention(*vm.attention) : "";
    if (!vm.blockers.empty()) {
        text += "\nBlocked by\n" + blocker_lines(vm.blockers, "  ");
    }
    return text;
}

std::string render_attention(const daemon::AttentionView& attention) {
    const std::string message = printable(attention.message);
    return or_dash(attention.vm) + " needs an operator" +
           (message.empty() ? std::string() : ": " + without_stop(message)) + " [" +
           printable(attention.code) + "]. " + sentence(attention.next_step) + "\n";
}

std::string render_hold(const daemon::HoldView& hold) {
    const std::string until =
        hold.until_unix_ms == 0 ? std::string() : " until " + format_time(hold.until_unix_ms);
    return or_dash(hold.vm) + " is held" + until + " by uid " + std::to_string(hold.by_uid) + ": " +
           sentence(hold.reason) + "\n";
}

std::string render_selftest_begin(const daemon::SelftestView& selftest) {
    return "Selftest " + or_dash(selftest.id) + ": " +
           count_of(selftest.guests, "throwaway guest") + " from " + or_dash(selftest.from) +
           " to " + or_dash(selftest.to) + " …\n";
}

namespace {

std::string render_tried(const std::vector<daemon::TriedView>& tried) {
    std::vector<Row> rows;
    for (const daemon::TriedView& each : tried) {
        const std::string users = each.used || each.vms == 0
                                      ? ""
                                      : "; " + count_of(each.vms, "VM") + " of this host " +
                                            (each.vms == 1 ? "uses it" : "use it");
        rows.push_back(
            {"  " + printable(daemon::words_of_tried(each.name)),
             (each.used ? "tried: " : "not tried: ") + printable(each.text) + users}
        );
    }
    return rows.empty() ? std::string() : render_table(rows);
}

} // namespace

std::string render_selftest(const daemon::SelftestView& selftest, const Style& style) {
    std::string text = "Selftest " + or_dash(selftest.id) + " from " + or_dash(selftest.from) +
                       " to " + or_dash(selftest.to) + " " +
                       (selftest.passed ? style.good("passed") : style.bad("failed")) +
                       " (kernel " + or_dash(selftest.kernel) + ")";
    if (!selftest.passed) {
        return text + ": " + sentence(selftest.message) + "\n  " + sentence(selftest.next_step) +
               "\n" + render_tried(selftest.tried);
    }
    text += ": " + count_of(selftest.guests, "guest") + " counted to " +
            std::to_string(selftest.counted) + " without a gap";
    text += selftest.pause_ms ? ", longest pause " + format_milliseconds(*selftest.pause_ms) : "";
    return text + ".\n" + render_tried(selftest.tried);
}

std::string render_warnings(const std::vector<daemon::BlockerView>& warnings) {
    std::string text;
    for (const daemon::BlockerView& warning : warnings) {
        text += "Warning: " + sentence(warning.reason) + "\n";
    }
    return text;
}

std::string render_checks(const std::vector<daemon::CheckView>& checks, const Style& style) {
    std::string text;
    for (const daemon::CheckView& check : checks) {
        text += or_dash(check.vm) + ": ";
        if (check.can_upgrade) {
            text += style.good("can be upgraded") + " from " + or_dash(check.from) + " to " +
                    or_dash(check.to) + ".\n";
            text += blocker_lines(check.warnings, "  warning: ");
            continue;
        }
        if (check.code == "already_on_release") {
            text += "runs " + or_dash(check.to) + " already.\n";
            continue;
        }
        if (check.code == "skipped") {
            text += "is left out: " + sentence(check.message) + "\n";
            continue;
        }
        text += style.warn("cannot be upgraded") + " to " + or_dash(check.to);
        const bool is_repeated = check.message.empty() || !check.blockers.empty();
        text += is_repeated ? ".\n" : ": " + sentence(check.message) + "\n";
        text += blocker_lines(check.blockers, "  ");
    }
    return text.empty() ? "No VM was found.\n" : text;
}

std::string render_releases(const std::vector<daemon::ReleaseView>& releases) {
    if (releases.empty()) {
        return "No release is configured. Put NAME.toml with path = \"/path/to/qemu-system-…\" "
               "into the folder that releases_dir in qhupd.toml names.\n";
    }
    std::vector<Row> rows{{"RELEASE", "USABLE", "BINARY", "DESCRIPTION"}};
    std::string notes;
    for (const daemon::ReleaseView& release : releases) {
        rows.push_back(
            {or_dash(release.name),
             release.usable ? "yes" : "no",
             or_dash(release.path),
             printable(release.description)}
        );
        if (!release.usable) {
            notes += or_dash(release.name) + ": " + sentence(release.reason) + "\n";
        }
    }
    return render_table(rows) + (notes.empty() ? "" : "\n" + notes);
}

std::string render_runs(const std::vector<daemon::RunView>& runs) {
    if (runs.empty()) {
        return "No run yet.\n";
    }
    std::vector<Row> rows{{"RUN", "KIND", "STATE", "TO", "VMS", "STARTED", "OUTCOMES"}};
    for (const daemon::RunView& run : runs) {
        rows.push_back(
            {or_dash(run.id),
             run.dry_run              ? "dry run"
             : run.kind == "way_back" ? "way back"
                                      : or_dash(run.kind),
             or_dash(run.state),
             destination_of(run),
             std::to_string(run.vms.size()),
             format_time(run.started_unix_ms),
             outcome_counts(run)}
        );
    }
    return render_table(rows);
}

std::string render_run(const daemon::RunView& run, const Style& style) {
    if (run.vms.empty()) {
        return "There was no VM to work on.\n";
    }
    std::vector<Row> rows{{"VM", "FROM", "TO", "OUTCOME", "PAUSE", "TOTAL"}};
    std::string notes;
    for (const daemon::RunVmView& vm : run.vms) {
        rows.push_back(
            {or_dash(vm.vm),
             or_dash(vm.from),
             goes_back(run) && vm.to == "kept" ? "back" : or_dash(vm.to),
             style.outcome(vm.outcome, outcome_in(run.kind, vm)),
             milliseconds_or_dash(vm.pause_ms),
             milliseconds_or_dash(vm.total_ms)}
        );
        const bool is_plain = vm.outcome == "upgraded" && vm.message.empty();
        const bool is_good = vm.outcome == "checked" || vm.outcome == "rehearsed";
        if (!vm.outcome.empty() && !is_plain && !is_good) {
            notes += explanation_of(vm);
        }
        notes += rehearsal_lines(vm);
    }
    if (run.stage && run.state == "running") {
        notes += render_stage(*run.stage);
    }
    if (!run.stop_reason.empty()) {
        notes += "The run was stopped: " + sentence(run.stop_reason) + "\n";
    }
    notes += run.dry_run ? "This was a dry run: nothing was touched.\n" : "";
    notes += run.kind == "rehearsal" || run.kind == "way_back"
                 ? "This was a rehearsal: no guest was moved.\n"
                 : "";
    return render_table(rows) + (notes.empty() ? "" : "\n" + notes);
}

std::string render_stage(const daemon::StageView& stage) {
    std::string text = "Stage " + std::to_string(stage.number) + " of " + std::to_string(stage.of) +
                       " (" + printable(stage.name) + ")";
    if (stage.state == "soaking") {
        text += ": its VMs are watched until " + format_time(stage.soak_until_unix_ms);
    }
    return text + ".\n";
}

std::vector<daemon::HistoryView> choose_history(
    std::vector<daemon::HistoryView> newest_first,
    const std::vector<std::string>& vms,
    std::size_t limit
) {
    std::map<std::string, daemon::AskerView> askers; // by run
    for (const daemon::HistoryView& entry : newest_first) {
        if (entry.action == to_string(daemon::HistoryAction::run_requested) && entry.by) {
            askers[entry.run] = *entry.by;
        }
    }
    std::vector<daemon::HistoryView> chosen;
    for (daemon::HistoryView& entry : newest_first) {
        const bool is_wanted =
            vms.empty() || std::find(vms.begin(), vms.end(), entry.vm) != vms.end();
        if (!is_wanted || chosen.size() == limit) {
            continue;
        }
        if (const auto asker = askers.find(entry.run); !entry.by && asker != askers.end()) {
            entry.by = asker->second;
        }
        chosen.push_back(std::move(entry));
    }
    return chosen;
}

namespace {

/// What was asked for and was not done: "hold not removed", "run refused".
std::string failed_text(std::string_view action, const std::string& shown) {
    if (action == to_string(daemon::HistoryAction::hold_removed)) {
        return "hold not removed";
    }
    if (action == to_string(daemon::HistoryAction::hold_set)) {
        return "hold not set";
    }
    if (action == to_string(daemon::HistoryAction::run_aborted)) {
        return "run not aborted";
    }
    return shown + ", refused";
}

} // namespace

std::string render_history(const std::vector<daemon::HistoryView>& entries, const Style& style) {
    if (entries.empty()) {
        return "Nothing was done yet.\n";
    }
    std::vector<Row> rows{{"WHEN", "VM", "WHAT", "FROM", "TO", "PAUSE", "RUN", "WHO"}};
    for (const daemon::HistoryView& entry : entries) {
        const bool is_end = entry.action == to_string(daemon::HistoryAction::vm_ended);
        std::string what = printable(is_end ? entry.outcome : entry.action);
        std::replace(what.begin(), what.end(), '_', ' ');
        if (!is_end && !entry.code.empty()) {
            what = failed_text(entry.action, what);
        }
        if (!entry.code.empty()) {
            what += " (" + printable(entry.code) + ")";
        }
        for (const std::string& code : entry.allow) {
            what += ", allowing " + printable(code);
        }
        std::string who;
        if (entry.by) {
            who = entry.by->user.empty() ? "uid " + std::to_string(entry.by->uid)
                                         : printable(entry.by->user);
        }
        rows.push_back(
            {format_time(entry.time_unix_ms).substr(0, kMinuteColumns) + "Z",
             or_dash(entry.vm),
             is_end ? style.outcome(entry.outcome, what) : what,
             or_dash(entry.from),
             or_dash(entry.to),
             milliseconds_or_dash(entry.pause_ms),
             or_dash(entry.run),
             or_dash(who)}
        );
    }
    return render_table(rows);
}

std::string render_findings(const std::vector<Finding>& findings, const Style& style) {
    std::string text;
    std::size_t bad = 0;
    std::size_t warned = 0;
    for (const Finding& finding : findings) {
        bad += finding.level == "fail" ? 1 : 0;
        warned += finding.level == "warn" ? 1 : 0;
        const std::string level = finding.level == "ok"     ? style.good("ok  ")
                                  : finding.level == "warn" ? style.warn("warn")
                                                            : style.bad("fail");
        text += level + "  " + or_dash(finding.name) + ": " + sentence(finding.text) + "\n";
        if (!finding.next_step.empty()) {
            text += "      → " + printable(finding.next_step) + "\n";
        }
    }
    if (bad + warned == 0) {
        return text + "\nNothing is wrong.\n";
    }
    return text + "\n" + std::to_string(bad) + " failed, " + count_of(warned, "warning") + ".\n";
}

std::string outcome_in(std::string_view kind, const daemon::RunVmView& vm) {
    if (vm.outcome.empty()) {
        return printable(vm.phase) + " …";
    }
    if (kind == "revert" && vm.outcome == "upgraded") {
        return "reverted";
    }
    std::string text = printable(vm.outcome);
    std::replace(text.begin(), text.end(), '_', ' ');
    return text;
}

std::string render_progress(std::string_view kind, const daemon::RunVmView& vm) {
    std::array<char, 64> time{};
    const int length = std::snprintf(
        time.data(), time.size(), "%8.3f s  ", static_cast<double>(vm.since_ms) / 1000.0
    );
    std::string line(time.data(), static_cast<std::size_t>(std::max(0, length)));
    line += or_dash(vm.vm) + "  ";
    if (vm.outcome.empty()) {
        return line + printable(vm.phase);
    }
    line += outcome_in(kind, vm);
    if (vm.pause_ms) {
        line += ", paused for " + format_milliseconds(*vm.pause_ms);
    }
    return line;
}

std::string render_problem(const daemon::Problem& problem) {
    std::string text = sentence(problem.detail.empty() ? problem.title : problem.detail);
    if (!problem.next_step.empty()) {
        text += " " + sentence(problem.next_step);
    }
    return text + "\n";
}

} // namespace qhup::ctl
