// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/warnings.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace qhup::upgrade {
namespace {

using Seconds = std::chrono::duration<double>;

/// Packets per second to the guest; 0 if the link was not seen twice.
double rate_of(const Link& link, const LinkSample& sample) {
    const auto before = sample.before.find(link.ifname);
    const auto after = sample.after.find(link.ifname);
    const double seconds = Seconds(sample.between).count();
    if (before == sample.before.end() || after == sample.after.end() || seconds <= 0 ||
        after->second <= before->second) {
        return 0;
    }
    return static_cast<double>(after->second - before->second) / seconds;
}

std::string whole(double value) {
    return std::to_string(std::llround(value));
}

Blocker make_warning(const Link& link, double rate, Seconds pause) {
    const double harmless_ms = 1000 * static_cast<double>(link.queue_length) / rate;
    // why: the next power of two leaves room for a rate that grows a little.
    const double needed = std::exp2(std::ceil(std::log2(rate * pause.count() + 1)));
    return {
        link.id,
        "packet-loss",
        "The tap " + link.ifname + " gets " + whole(rate) + " packets per second and keeps " +
            std::to_string(link.queue_length) + ", so a pause of more than " + whole(harmless_ms) +
            " ms loses packets, and it may take " + whole(1000 * pause.count()) +
            " ms; upgrade at a quieter time, or give the tap a longer queue (ip link set " +
            link.ifname + " txqueuelen " + whole(needed) + ").",
    };
}

} // namespace

std::chrono::nanoseconds expect_pause(
    std::optional<std::chrono::nanoseconds> predicted, std::chrono::nanoseconds budget
) noexcept {
    return predicted ? std::min(2 * *predicted, budget) : budget;
}

std::vector<Blocker> find_warnings(
    const std::vector<Link>& links, const LinkSample& sample, std::chrono::nanoseconds pause
) {
    std::vector<Blocker> warnings;
    for (const Link& link : links) {
        const double rate = rate_of(link, sample);
        // why: a switch of the kernel's may put all flows into one queue, so one must do.
        if (rate * Seconds(pause).count() > static_cast<double>(link.queue_length)) {
            warnings.push_back(make_warning(link, rate, pause));
        }
    }
    return warnings;
}

} // namespace qhup::upgrade
