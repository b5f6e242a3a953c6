// SPDX-License-Identifier: GPL-2.0-or-later
//
// A run that goes on, as lines that are drawn again and again: one for each VM, and a total. Pure:
// events and the time go in, lines come out.
#pragma once

#include "ctl/terminal.hpp"
#include "daemon/api_types.hpp"

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// A phase in words for people: "the guest is being handed over".
std::string_view phase_text(std::string_view phase) noexcept;

class LiveView {
public:
    explicit LiveView(Style style = {}) : style_(style) {}

    /// The run as it is; what was known before is forgotten.
    void on_run(const daemon::RunView& run);
    /// A VM of the run changed. `now` is any steady clock.
    void on_vm(const daemon::RunVmView& vm, std::chrono::milliseconds now);
    void on_stage(const daemon::StageView& stage);
    [[nodiscard]] const std::string& kind() const { return kind_; } ///< of the run

    /// The lines to draw, the total last: VMs in work, then those that ended last, then those that
    /// wait, as many as there is room for.
    ///
    /// @param columns  nothing is wider; 0: unknown
    /// @param rows     not more lines than that, but three at least; 0: unknown
    std::vector<std::string>
    lines(std::size_t columns, std::size_t rows, std::chrono::milliseconds now) const;

private:
    struct Entry {
        daemon::RunVmView vm;
        std::chrono::milliseconds since{0}; ///< when it entered its phase
        std::size_t changed = 0;            ///< order of the last changes
    };

    std::string line_of(const Entry& entry, std::size_t names, std::chrono::milliseconds now) const;
    std::string total(std::chrono::milliseconds now) const;

    Style style_;
    std::vector<Entry> entries_; ///< in the order of the run
    std::string kind_;           ///< of the run; "" while that is not known
    std::string stage_;          ///< as a sentence; "": none
    std::size_t changes_ = 0;
    std::chrono::milliseconds began_{-1}; ///< of the first event
};

} // namespace qhup::ctl
