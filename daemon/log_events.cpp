// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/log_events.hpp"

#include <algorithm>
#include <cmath>

namespace qhup::daemon {

const std::vector<LogEvent>& log_events() {
    static const std::vector<LogEvent> events{
        {"started", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c01"},
        {"config_refused", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c02"},
        {"run_started", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c03"},
        {"upgraded", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c10"},
        {"rehearsed", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c11"},
        {"refused", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c12"},
        {"rolled_back", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c13"},
        {"needs_operator", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c14"},
        {"lost_contact", "3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c15"},
    };
    return events;
}

std::string_view message_id_of(std::string_view name) noexcept {
    const auto& events = log_events();
    const auto found = std::find_if(events.begin(), events.end(), [name](const LogEvent& event) {
        return event.name == name;
    });
    return found == events.end() ? std::string_view() : found->id;
}

namespace {

void add_id(std::vector<LogField>& fields, std::string_view event) {
    const std::string_view id = message_id_of(event);
    if (!id.empty()) {
        fields.push_back({"MESSAGE_ID", std::string(id)});
    }
}

std::string deciding_phase(const RunVmView& vm) {
    if (vm.outcome.empty() || vm.steps.empty()) {
        return vm.phase;
    }
    const bool is_success =
        vm.outcome == "upgraded" || vm.outcome == "rehearsed" || vm.outcome == "checked";
    const auto bad = std::find_if(vm.steps.rbegin(), vm.steps.rend(), [](const StepView& step) {
        return !step.outcome.empty() && step.outcome != "ok";
    });
    return is_success || bad == vm.steps.rend() ? vm.steps.back().phase : bad->phase;
}

} // namespace

std::vector<LogField> run_fields(std::string_view event, const RunView& run) {
    std::vector<LogField> fields{
        {"QHUPD_RUN", run.id},
        {"QHUPD_KIND", run.kind},
        {"QHUPD_RELEASE", run.to},
    };
    add_id(fields, event);
    return fields;
}

std::vector<LogField> outcome_fields(const std::string& run, const RunVmView& vm) {
    std::vector<LogField> fields{
        {"QHUPD_VM", vm.vm},
        {"QHUPD_RUN", run},
        {"QHUPD_PHASE", deciding_phase(vm)},
        {"QHUPD_OUTCOME", vm.outcome},
    };
    if (!vm.code.empty()) {
        fields.push_back({"QHUPD_CODE", vm.code});
    }
    if (vm.pause_ms) {
        fields.push_back({"QHUPD_PAUSE_US", std::to_string(std::llround(*vm.pause_ms * 1000))});
    }
    add_id(fields, vm.outcome);
    return fields;
}

} // namespace qhup::daemon
