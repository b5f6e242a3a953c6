// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/manual.hpp"

#include "ctl/manual_pages.hpp"
#include "ctl/render.hpp"

#include <algorithm>
#include <utility>

namespace qhup::ctl {
namespace {

using Cells = std::vector<std::string>;

/// A row of a table, and the heading that it stands below.
struct TableRow {
    std::string section;
    Cells cells;
};

std::string trimmed(std::string_view text) {
    const std::size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
    const std::size_t end = text.find_last_not_of(" \t");
    return std::string(text.substr(begin, end == std::string_view::npos ? 0 : end + 1 - begin));
}

/// Cells between the bars; "\|" is a bar inside a cell.
Cells split_row(std::string_view line) {
    Cells cells;
    std::string cell;
    for (std::size_t i = 1; i < line.size(); ++i) {
        if (line[i] == '\\' && i + 1 < line.size() && line[i + 1] == '|') {
            cell += line[++i];
        } else if (line[i] == '|') {
            cells.push_back(trimmed(cell));
            cell.clear();
        } else {
            cell += line[i];
        }
    }
    return cells;
}

std::vector<TableRow> rows_of(std::string_view page) {
    std::vector<TableRow> rows;
    std::string section;
    while (!page.empty()) {
        const std::size_t end = std::min(page.find('\n'), page.size());
        const std::string_view line = page.substr(0, end);
        if (line.starts_with("## ")) {
            section = trimmed(line.substr(3));
        } else if (line.starts_with("|") && !line.starts_with("|---")) {
            rows.push_back({section, split_row(line)});
        }
        page.remove_prefix(std::min(end + 1, page.size()));
    }
    return rows;
}

/// Markdown's marks for code and emphasis are for the page.
std::string plain(std::string_view text) {
    std::string shown;
    for (const char c : text) {
        shown += c == '`' ? "" : std::string(1, c);
    }
    return shown;
}

/// The word in backticks, if the cell is nothing else; "" else.
std::string name_in(const std::string& cell) {
    const bool is_name = cell.size() > 2 && cell.front() == '`' && cell.back() == '`' &&
                         std::count(cell.begin(), cell.end(), '`') == 2;
    return is_name ? cell.substr(1, cell.size() - 2) : std::string();
}

std::string sentence_of(std::string text) {
    text = plain(text);
    if (!text.empty() && text.back() != '.' && text.back() != '?') {
        text += ".";
    }
    return text;
}

void read_api_page(std::vector<ManualEntry>& entries) {
    std::vector<ManualEntry> requests;
    std::vector<ManualEntry> outcomes;
    for (const TableRow& row : rows_of(kApiPage)) {
        const std::string name = row.cells.empty() ? "" : name_in(row.cells.front());
        if (name.empty()) {
            continue;
        }
        if (row.section == "Codes of upgrades" && row.cells.size() == 3) {
            entries.push_back(
                {Topic::upgrade, name, row.cells[1], sentence_of(row.cells[2]), {}, {}}
            );
        } else if (row.section == "Problems" && row.cells.size() >= 3) {
            requests.push_back(
                {Topic::request, name, row.cells[1], sentence_of(row.cells[2]), {}, {}}
            );
        } else if (row.section != "Problems" && row.section != "Phases" && row.cells.size() == 2 && name.find('/') == std::string::npos && name.find(' ') == std::string::npos) {
            outcomes.push_back({Topic::outcome, name, "", sentence_of(row.cells[1]), {}, {}});
        }
    }
    entries.insert(entries.end(), requests.begin(), requests.end());
    entries.insert(entries.end(), outcomes.begin(), outcomes.end());
}

/// "process/fsize, process/as"
std::vector<std::string> split_ids(std::string_view text) {
    std::vector<std::string> ids;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(','), text.size());
        ids.push_back(trimmed(text.substr(0, end)));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return ids;
}

/// Whether the id is one of the pattern: "fd/251" of "fd/N", "process/kernel//boot/a" of
/// "process/OPTION/FILE". A part in capitals stands for any word, at the end for any words.
bool is_id_of(std::string_view pattern, std::string_view id) {
    for (;;) {
        const std::string_view part = pattern.substr(0, pattern.find('/'));
        const bool is_last = part.size() == pattern.size();
        const bool is_any = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
            return c >= 'A' && c <= 'Z';
        });
        const std::string_view word = id.substr(0, id.find('/'));
        if (is_last) {
            return is_any ? !id.empty() : part == id;
        }
        if (word.size() == id.size() || (!is_any && part != word)) {
            return false;
        }
        pattern.remove_prefix(part.size() + 1);
        id.remove_prefix(word.size() + 1);
    }
}

void read_blockers_page(std::vector<ManualEntry>& entries) {
    const std::size_t begin = entries.size();
    std::string ids; // of the row before: "same" stands for them
    for (const TableRow& row : rows_of(kBlockersPage)) {
        const std::string name = row.cells.empty() ? "" : name_in(row.cells.front());
        if (name.empty()) {
            continue;
        }
        if (row.section == "Classes" && row.cells.size() == 3) {
            entries.push_back(
                {Topic::blocker, name, row.cells[1], sentence_of(row.cells[2]), {}, {}}
            );
            continue;
        }
        const std::string whose = row.section == "QEMU's own" ? "QEMU" : "engine";
        const auto known = std::find_if(
            entries.begin() + static_cast<std::ptrdiff_t>(begin),
            entries.end(),
            [&](const auto& entry) { return entry.name == name && entry.kind == whose; }
        );
        if (row.cells.size() != 4) {
            continue;
        }
        if (known == entries.end()) {
            const bool is_warning = row.section == "Warnings";
            entries.push_back(
                {Topic::blocker,
                 name,
                 is_warning ? "warning" : whose,
                 sentence_of(row.cells[2]),
                 {},
                 {}}
            );
        }
        ManualEntry& entry = known == entries.end() ? entries.back() : *known;
        const std::string said = plain(row.cells[1]);
        ids = said.starts_with("same") ? ids + said.substr(4) : said;
        for (std::string& id : split_ids(ids)) {
            entry.ids.push_back(std::move(id));
        }
        entry.details.push_back(plain(row.cells[2]) + " → " + plain(row.cells[3]));
    }
}

void read_phases(std::vector<ManualEntry>& entries) {
    for (const TableRow& row : rows_of(kApiPage)) {
        const std::string name = row.cells.empty() ? "" : name_in(row.cells.front());
        if (row.section == "Phases" && !name.empty() && row.cells.size() == 3) {
            entries.push_back(
                {Topic::phase, name, plain(row.cells[1]), sentence_of(row.cells[2]), {}, {}}
            );
        }
    }
}

/// Causes that the page names with a code go to that code: what goes wrong, what the operator sees,
/// on which side the guest runs, what to do.
void read_failure_modes(std::vector<ManualEntry>& entries) {
    for (const TableRow& row : rows_of(kFailureModesPage)) {
        if (row.cells.size() < 4) {
            continue;
        }
        for (ManualEntry& entry : entries) {
            const bool is_seen = entry.topic == Topic::upgrade &&
                                 row.cells[1].find("`" + entry.name + "`") != std::string::npos;
            if (!is_seen) {
                continue;
            }
            std::string detail = plain(row.cells[0]);
            if (row.cells[2].size() > 1) {
                detail += "; the guest runs on: " + plain(row.cells[2]);
            }
            if (row.cells[3].size() > 1) {
                detail += " → " + plain(row.cells[3]);
            }
            entry.details.push_back(std::move(detail));
        }
    }
}

/// "The VM has a blocker; remove it.", "No such VM. 'qhupd-ctl list' shows all."
std::string text_of(const daemon::CodeView& code) {
    const bool is_problem = code.kind == "problem";
    const std::string end = code.next_step.empty() ? "."
                            : is_problem           ? ". " + code.next_step
                                                   : "; " + code.next_step;
    return plain(printable(code.meaning + end));
}

ManualEntry make_entry(const daemon::CodeView& code) {
    const bool is_problem = code.kind == "problem";
    return {
        .topic = is_problem ? Topic::request : Topic::upgrade,
        .name = printable(code.code),
        .kind = is_problem ? std::to_string(code.status) : printable(code.severity),
        .text = text_of(code),
        .details = {},
        .ids = {}};
}

std::vector<ManualEntry> read_manual() {
    std::vector<ManualEntry> entries;
    read_api_page(entries);
    read_blockers_page(entries);
    read_failure_modes(entries);
    read_phases(entries);
    return merge_codes(std::move(entries), daemon::known_codes());
}

} // namespace

const std::vector<ManualEntry>& manual() {
    static const std::vector<ManualEntry> kEntries = read_manual();
    return kEntries;
}

std::vector<ManualEntry>
merge_codes(std::vector<ManualEntry> entries, const std::vector<daemon::CodeView>& codes) {
    for (const daemon::CodeView& code : codes) {
        ManualEntry entry = make_entry(code);
        const auto known = std::find_if(entries.begin(), entries.end(), [&](const auto& each) {
            return each.topic == entry.topic && each.name == entry.name;
        });
        if (known != entries.end()) {
            known->kind = std::move(entry.kind);
            known->text = std::move(entry.text);
            continue;
        }
        const auto last = std::find_if(entries.rbegin(), entries.rend(), [&](const auto& each) {
            return each.topic == entry.topic;
        });
        entries.insert(last.base(), std::move(entry));
    }
    return entries;
}

std::vector<ManualEntry>
find_in_manual(const std::vector<ManualEntry>& entries, std::string_view name) {
    std::vector<ManualEntry> found;
    const std::string_view klass = name.substr(0, name.find('/'));
    for (const ManualEntry& entry : entries) {
        if (entry.name == name || (entry.topic == Topic::blocker && entry.name == klass)) {
            found.push_back(entry);
        }
    }
    if (!found.empty() || klass == name) {
        return found;
    }
    for (const ManualEntry& entry : entries) {
        if (std::any_of(entry.ids.begin(), entry.ids.end(), [name](const std::string& id) {
                return is_id_of(id, name);
            })) {
            found.push_back(entry);
        }
    }
    return found;
}

std::string guest_after(const ManualEntry& entry) {
    if (entry.topic == Topic::blocker) {
        return entry.kind == "warning" ? "The VM can be upgraded; this is good to know before."
                                       : "The guest was not touched and runs on: a blocker is "
                                         "found before anything is done.";
    }
    if (entry.topic == Topic::request) {
        return "No guest was touched by this request.";
    }
    if (entry.topic == Topic::outcome || entry.topic == Topic::phase) {
        return {};
    }
    if (entry.kind == "refused" || entry.kind == "transient") {
        return "The guest was not touched, or not even paused, and is where it was.";
    }
    if (entry.kind == "rolled_back") {
        return "The guest runs on the old QEMU; nothing is lost.";
    }
    return "Somebody has to look at the guest: 'qhupd-ctl show VM' says how it stands now.";
}

std::string first_clause(const std::string& text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool is_stop = text[i] == '.' && (i + 1 == text.size() || text[i + 1] == ' ');
        if (text[i] == ';' || is_stop) {
            return text.substr(0, i);
        }
    }
    return text;
}

std::string_view heading_of(Topic topic) noexcept {
    switch (topic) {
    case Topic::upgrade: return "Codes of upgrades and checks";
    case Topic::request: return "Codes of error answers";
    case Topic::outcome: return "Outcomes";
    case Topic::blocker: return "Classes of blockers";
    case Topic::phase: return "Phases";
    }
    return "";
}

std::string render_entries(const std::vector<ManualEntry>& entries) {
    std::string text;
    for (const ManualEntry& entry : entries) {
        text += text.empty() ? "" : "\n";
        text += entry.name + ": ";
        switch (entry.topic) {
        case Topic::upgrade: text += "code of an upgrade or a check, " + entry.kind; break;
        case Topic::request: text += "code of an error answer, HTTP status " + entry.kind; break;
        case Topic::outcome: text += "outcome of a VM in a run"; break;
        case Topic::phase: text += "phase of a VM in a run, shown as \"" + entry.kind + "\""; break;
        case Topic::blocker:
            text += "class of a blocker, found by " +
                    (entry.kind == "QEMU" ? std::string("QEMU") : "qhupd");
            break;
        }
        std::replace(text.begin(), text.end(), '\t', ' ');
        text += "\n  " + entry.text + "\n";
        if (const std::string guest = guest_after(entry); !guest.empty()) {
            text += "  " + guest + "\n";
        }
        if (!entry.details.empty()) {
            text +=
                entry.topic == Topic::blocker ? "  When, and what to do:\n" : "  How it comes:\n";
        }
        for (const std::string& detail : entry.details) {
            text += "  - " + detail + "\n";
        }
    }
    return text;
}

std::string render_contents(const std::vector<ManualEntry>& entries) {
    std::string text;
    for (const Topic topic :
         {Topic::upgrade, Topic::request, Topic::outcome, Topic::blocker, Topic::phase}) {
        std::vector<std::vector<std::string>> rows;
        for (const ManualEntry& entry : entries) {
            if (entry.topic == topic) {
                rows.push_back({"  " + entry.name, first_clause(entry.text)});
            }
        }
        text +=
            (text.empty() ? "" : "\n") + std::string(heading_of(topic)) + "\n" + render_table(rows);
    }
    return text + "\n'qhupd-ctl explain CODE' says more about one.\n";
}

} // namespace qhup::ctl
