// SPDX-License-Identifier: GPL-2.0-or-later
//
// Files of root's: a mistake in one must be said, not end the daemon.
#include "daemon/config.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "upgrade-engine/release.hpp"

using namespace qhup;
using fuzz::require;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    const Result<daemon::Config> config = daemon::parse_config(text, "qhupd.toml");
    if (config.has_value()) {
        require(config->parallel > 0, "somebody may work");
        require(daemon::pause_slots_for(*config, 4) > 0, "somebody may be paused");
        require(config->deadlines.pause_budget.count() > 0, "a pause has a budget");
    } else {
        require(config.error().message.starts_with("qhupd.toml"), "a mistake has its place");
    }
    const auto release = upgrade::parse_release(text, "some");
    if (release.has_value()) {
        require(release->path.starts_with('/'), "the path of a binary is absolute");
        require(!upgrade::release_tail(*release).empty() || release->firmware.empty(), "a tail");
    } else {
        require(!release.error().message.empty(), "a mistake has words");
    }
    const auto duration = daemon::parse_duration(text);
    require(duration.has_error() || duration->count() >= 0, "no time is negative");
    return 0;
}
