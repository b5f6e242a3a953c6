// SPDX-License-Identifier: GPL-2.0-or-later
//
// The releases that root configured, by name, and their binaries, opened and checked once and kept
// open. Clients name a release, never a path.
#pragma once

#include "common/async.hpp"
#include "daemon/api_types.hpp"
#include "daemon/binary_catalog.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Thread: the daemon's home strand.
class ReleaseShelf {
public:
    /// @param folders  of the drop-ins *.toml; see read_release_files()
    /// @param disk     a pool for blocking calls
    ReleaseShelf(std::vector<std::string> folders, asio::thread_pool& disk);

    /// From now on the drop-ins are those of these folders.
    void look_in(std::vector<std::string> folders);

    /// All releases, by name, as they are on disk now. A drop-in that cannot be used is listed with
    /// the reason.
    [[nodiscard]] awaitable<std::vector<ReleaseView>> list();

    /// A binary that was checked, for a whole run, with the tails of all releases.
    struct Picked {
        std::shared_ptr<const upgrade::PinnedBinary> binary;
        std::vector<std::vector<std::string>> known_tails;
        BinaryCatalog::Facts facts; ///< what the binary says of itself; null: not known
        /// The same of the binary that the VM runs now.
        BinaryCatalog::Facts source_facts{};
    };

    /// The release of that name.
    /// Errors: a Problem: release_not_found with the nearest name, release_unusable
    struct Answer {
        std::optional<Picked> picked;
        std::optional<Problem> problem;
    };
    [[nodiscard]] awaitable<Answer> pick(std::string name);

    /// The tails of all releases.
    [[nodiscard]] awaitable<std::vector<std::vector<std::string>>> tails();

    /// What binaries say of themselves.
    [[nodiscard]] BinaryCatalog& catalog() noexcept { return catalog_; }

    /// What the binary with that build id says of itself, if it is one of a release, or was asked
    /// before.
    [[nodiscard]] awaitable<BinaryCatalog::Facts> facts_of(std::string build_id);

private:
    struct Item {
        std::string name;
        upgrade::Release release;
        Result<std::shared_ptr<const upgrade::PinnedBinary>> binary;
        std::string key; // of the catalog
    };
    using Pinned = std::map<std::string, std::shared_ptr<const upgrade::PinnedBinary>>;
    using Keys = std::map<std::string, std::string>;
    struct Shelf {
        std::vector<Item> items; // by name
        Pinned pinned;           // by release name
        Keys keys;               // of the catalog, by release name
    };

    static Shelf load(const std::vector<std::string>& folders, const Pinned& before);
    [[nodiscard]] awaitable<std::vector<Item>> reload();

    std::vector<std::string> folders_;
    asio::thread_pool& disk_;
    Pinned pinned_;
    Keys keys_;
    BinaryCatalog catalog_;
};

} // namespace qhup::daemon
