// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/nearest_name.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace qhup::daemon {
namespace {

constexpr std::size_t kMaxComparedLength = 256;

/// Optimal string alignment distance: insert, delete, replace, swap two neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> before_last(b.size() + 1);
    std::vector<std::size_t> last(b.size() + 1);
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(last.begin(), last.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0U : 1U);
            row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = std::min(row[j], before_last[j - 2] + 1);
            }
        }
        std::swap(before_last, last);
        std::swap(last, row);
    }
    return last[b.size()];
}

} // namespace

std::optional<std::string>
nearest_name(std::string_view given, const std::vector<std::string>& candidates) {
    if (given.empty() || given.size() > kMaxComparedLength) {
        return std::nullopt;
    }
    std::optional<std::string> best;
    std::size_t best_distance = 0;
    for (const std::string& candidate : candidates) {
        if (candidate.size() > kMaxComparedLength) {
            continue;
        }
        const std::size_t distance = edit_distance(given, candidate);
        const std::size_t allowed =
            std::max<std::size_t>(1, std::max(given.size(), candidate.size()) / 3);
        const bool is_closer =
            !best || distance < best_distance || (distance == best_distance && candidate < *best);
        if (distance <= allowed && is_closer) {
            best = candidate;
            best_distance = distance;
        }
    }
    return best;
}

std::string did_you_mean(std::string_view given, const std::vector<std::string>& candidates) {
    const auto nearest = nearest_name(given, candidates);
    return nearest ? "Did you mean '" + *nearest + "'? " : std::string();
}

} // namespace qhup::daemon
