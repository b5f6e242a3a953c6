// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the two outputs of qhupd-ctl are, and what follows from it: whether lines are drawn again,
// colored, wrapped. The decisions are pure; observe_terminal() asks the kernel.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qhup::ctl {

/// How a run that goes on is shown.
enum class ProgressMode {
    automatic, ///< live on a terminal, else plain; none with --json
    plain,     ///< a line for each change
    live,      ///< lines that are drawn again
    none,      ///< nothing
};

/// Whether outcomes have colors.
enum class ColorMode { automatic, always, never };

/// One output of the process, and what the environment says about it.
struct Terminal {
    bool is_terminal = false; ///< a person may look at it
    bool is_dumb = false;     ///< TERM=dumb or none: it only goes forward
    bool wants_color = true;  ///< no NO_COLOR in the environment
    std::size_t columns = 0;  ///< width; 0: unknown, nothing is cut or wrapped
    std::size_t rows = 0;     ///< height; 0: unknown
};

/// What descriptor 1 or 2 is now.
Terminal observe_terminal(int descriptor);

/// The mode that holds; never automatic.
ProgressMode choose_progress(ProgressMode asked, const Terminal& err, bool is_json) noexcept;

bool choose_color(ColorMode asked, const Terminal& output) noexcept;

/// Colors for outcomes, or none.
struct Style {
    bool has_color = false;

    std::string good(std::string_view text) const { return paint("32", text); }
    std::string bad(std::string_view text) const { return paint("31", text); }
    std::string warn(std::string_view text) const { return paint("33", text); }
    std::string faint(std::string_view text) const { return paint("2", text); }
    /// As the outcome of a VM, or of a check, deserves.
    std::string outcome(std::string_view outcome, std::string_view text) const;

private:
    std::string paint(std::string_view code, std::string_view text) const;
};

/// Columns on screen, near enough: one for each UTF-8 character, none for colors.
std::size_t width_of(std::string_view text);

/// The line, cut to so many columns with a "…" if it is longer; 0: never. Colors end with it.
std::string cut(std::string_view line, std::size_t columns);

/// Lines that are longer than so many columns go on below, indented by two more; 0: never. Commands
/// to copy, which begin with four spaces and our name, stay.
std::string wrap(std::string_view text, std::size_t columns);

} // namespace qhup::ctl
