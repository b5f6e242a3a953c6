// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VMs need an operator, since their last upgrade left something that a person must look at.
// Pure. Made from the rows of the runs, which are in the journal; everything that says it, says it
// from here.
#pragma once

#include "daemon/api_types.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// A VM of a run.
struct RunRow {
    std::string run;        ///< id
    std::size_t number = 0; ///< of the VM in it, from 0
};

class Attention {
public:
    /// A VM of a run has its outcome. Told of all, in the order in which they came; again of those
    /// that were told already, after a new start.
    /// @return  the row that is settled by that: nothing is left to do of what it says, or an older
    ///          one says it
    std::optional<RunRow> on_end(const RunView& run, std::size_t number);

    /// The VM was asked, and no run has it.
    /// @param is_untouched  its process knows of no upgrade: it was started after the last one
    /// @return  as on_end()
    std::optional<RunRow> on_look(std::string_view vm, bool is_untouched);

    /// The run is forgotten.
    void forget(std::string_view run);

    [[nodiscard]] std::optional<AttentionView> find(std::string_view vm) const;
    /// All, by VM; also of VMs that are not there.
    [[nodiscard]] std::vector<AttentionView> list() const;

private:
    struct Entry {
        AttentionView view;
        std::size_t number;
        std::string upgrade; // id
    };
    std::optional<RunRow> remove(std::string_view vm);

    std::map<std::string, Entry, std::less<>> entries_; // by VM
};

} // namespace qhup::daemon
