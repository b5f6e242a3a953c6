// SPDX-License-Identifier: GPL-2.0-or-later
//
// Rows of a journal that somebody may have damaged: they give runs that can be written and read
// again, or an error.
//
// The input is a list of lines: the run's id, a blank, the number ("-" for the run itself, "h" for
// a hold), a blank, the record.
#include "daemon/journal_rows.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <charconv>
#include <utility>

using namespace qhup;
using namespace qhup::daemon;
using fuzz::require;

namespace {

std::vector<JournalRow> parse_rows(fuzz::Input input) {
    std::vector<JournalRow> rows;
    while (!input.is_empty()) {
        const std::string_view line = input.until('\n');
        fuzz::Input fields(reinterpret_cast<const std::uint8_t*>(line.data()), line.size());
        JournalRow row;
        row.run = fields.until(' ');
        const std::string_view number = fields.until(' ');
        if (number == "h") {
            row.hold = std::exchange(row.run, "");
        } else if (number != "-") {
            std::uint32_t value = 0;
            std::from_chars(number.data(), number.data() + number.size(), value);
            row.number = value;
        }
        row.record = fields.take(line.size());
        rows.push_back(std::move(row));
    }
    return rows;
}

std::vector<JournalRow> rows_of(const std::vector<RunView>& runs) {
    std::vector<JournalRow> rows;
    for (const RunView& run : runs) {
        for (JournalChange& change : put_whole(run)) {
            rows.push_back(std::move(change.row));
        }
    }
    return rows;
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::vector<JournalRow> rows = parse_rows({data, size});
    std::vector<JournalChange> changes;
    for (const JournalRow& row : rows) {
        require(checksum_of(row) == checksum_of(JournalRow(row)), "a checksum is of the values");
        changes.push_back({JournalChange::Kind::put, row});
    }
    const auto fewer = merged(changes);
    require(fewer.size() <= changes.size(), "merging makes fewer");
    require(merged(fewer) == fewer, "merging twice is merging once");
    (void)assemble_holds(rows);
    const auto runs = assemble_runs(rows);
    if (runs.has_error()) {
        require(!runs.error().message.empty(), "damage has words");
        return 0;
    }
    require(outdated_runs(*runs, {.runs = 0, .upgrades = 0}).size() <= runs->size(), "bounded");
    const std::vector<JournalRow> again = rows_of(*runs);
    const auto runs_again = assemble_runs(again);
    require(runs_again.has_value(), "what is written can be read");
    require(rows_of(*runs_again) == again, "a run is the same again");
    return 0;
}
