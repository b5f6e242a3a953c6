// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/kept_binaries.hpp"

#include "common/log.hpp"
#include "upgrade-engine/binary_probe.hpp"
#include "upgrade-engine/kept_binary.hpp"

#include <utility>
#include <vector>

namespace qhup::daemon {

KeptBinaries::KeptBinaries(RunServices services)
    : services_(std::move(services)), root_(services_.config.state_dir + "/kept") {}

awaitable<void> KeptBinaries::load() {
    auto work = [root = root_] { return upgrade::list_kept(root); };
    const std::vector<std::string> trees = co_await blocking(services_.disk, std::move(work));
    for (const std::string& build_id : trees) {
        // why: systemd gives the whole of state_dir to the user of the unit when that was another
        // one.
        auto own = [root = root_, build_id] {
            upgrade::own_kept(root, build_id);
            return 0;
        };
        (void)co_await blocking(services_.disk, std::move(own));
        co_await look_at(build_id);
    }
}

/// Whether a tree that is there may be used.
awaitable<void> KeptBinaries::look_at(std::string build_id) {
    auto work = [root = root_, build_id] { return upgrade::check_kept(root, build_id); };
    const Result<void> usable = co_await blocking(services_.disk, std::move(work));
    if (usable.has_error()) {
        log_failure("looking at the kept binary " + build_id, usable.error());
        kept_.erase(build_id);
        keeping_[build_id] = usable.error().message;
        co_return;
    }
    kept_.insert(build_id);
    keeping_.erase(build_id);
}

std::string KeptBinaries::why_not_kept(const std::string& build_id) const {
    const auto failed = keeping_.find(build_id);
    return failed == keeping_.end() ? std::string() : failed->second;
}

awaitable<BinaryCatalog::Facts>
KeptBinaries::ask(std::string build_id, std::shared_ptr<const upgrade::PinnedBinary> binary) {
    BinaryCatalog::Facts known = services_.shelf.catalog().find(build_id);
    if (!known) {
        auto work = [binary] { return upgrade::probe_key(*binary); };
        std::string key = co_await blocking(services_.disk, std::move(work));
        known = co_await services_.shelf.catalog().ask(binary, std::move(key));
    }
    co_return known;
}

awaitable<BinaryCatalog::Facts> KeptBinaries::facts_of(std::string build_id) {
    BinaryCatalog::Facts known = co_await services_.shelf.facts_of(build_id);
    if (known || !kept_.contains(build_id)) {
        co_return known;
    }
    auto work = [root = root_, build_id] { return upgrade::pin_kept(root, build_id); };
    const auto binary = co_await blocking(services_.disk, std::move(work));
    if (binary.has_value()) {
        known = co_await ask(build_id, *binary);
    }
    co_return known;
}

awaitable<std::optional<ReleaseShelf::Picked>> KeptBinaries::open(std::string build_id) {
    auto work = [root = root_, build_id] { return upgrade::pin_kept(root, build_id); };
    const auto binary = co_await blocking(services_.disk, std::move(work));
    if (binary.has_error()) {
        log_failure("opening the kept binary " + build_id, binary.error());
        kept_.erase(build_id);
        keeping_[build_id] = binary.error().message;
        co_return std::nullopt;
    }
    ReleaseShelf::Picked picked;
    picked.binary = *binary;
    picked.known_tails = co_await services_.shelf.tails();
    co_return picked;
}

awaitable<std::optional<ReleaseShelf::Picked>> KeptBinaries::pick(std::string build_id) {
    std::optional<ReleaseShelf::Picked> picked = co_await open(build_id);
    if (picked) {
        picked->facts = co_await ask(build_id, picked->binary);
    }
    co_return picked;
}

void KeptBinaries::add_tails(ReleaseShelf::Picked& picked) const {
    for (const std::string& build_id : kept_) {
        picked.known_tails.push_back(upgrade::kept_tail(root_, build_id));
    }
}

/// Removes binaries that nobody needs until there is room for one more.
awaitable<bool> KeptBinaries::make_room(std::set<std::string> needed) {
    for (const std::string& build_id : std::set<std::string>(kept_)) {
        if (kept_.size() < services_.config.kept_binaries || needed.contains(build_id)) {
            continue;
        }
        kept_.erase(build_id);
        auto work = [root = root_, build_id] {
            upgrade::forget_kept(root, build_id);
            return 0;
        };
        (void)co_await blocking(services_.disk, std::move(work));
        log().info("the binary {} is not kept any longer, since no VM needs it", build_id);
    }
    co_return kept_.size() < services_.config.kept_binaries;
}

awaitable<void> KeptBinaries::keep(VmView vm, std::string build_id, std::set<std::string> needed) {
    const bool is_under_way = keeping_.contains(build_id) && keeping_[build_id].empty();
    if (build_id.empty() || kept_.contains(build_id) || is_under_way ||
        services_.config.kept_binaries == 0) {
        co_return;
    }
    keeping_[build_id] = "";
    const bool has_room = co_await make_room(std::move(needed));
    if (!has_room) {
        keeping_[build_id] = "The binary that it came from is not kept, since kept_binaries in "
                             "qhupd.toml allows no more of them";
        co_return;
    }
    upgrade::KeepRequest request{
        .root = root_,
        .build_id = build_id,
        .version = vm.version,
        .pid = static_cast<pid_t>(vm.pid),
    };
    auto work = [request] { return upgrade::keep_binary(request); };
    const Result<void> kept = co_await blocking(services_.disk, std::move(work));
    if (kept.has_error()) {
        log_failure("keeping the way back of " + vm.name, kept.error());
        keeping_[build_id] = kept.error().message;
        co_return;
    }
    co_await look_at(build_id);
    if (is_kept(build_id)) {
        log().info("QEMU {} ({}) is kept for the way back", vm.version, build_id);
    }
}

} // namespace qhup::daemon
