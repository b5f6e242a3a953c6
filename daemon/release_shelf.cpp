// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/release_shelf.hpp"

#include "common/text.hpp"
#include "daemon/nearest_name.hpp"
#include "daemon/problems.hpp"
#include "daemon/release_files.hpp"
#include "upgrade-engine/binary_probe.hpp"

#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

using upgrade::PinnedBinary;
using upgrade::Release;

bool is_same_release(const Release& a, const Release& b) {
    return a.name == b.name && a.path == b.path && a.sha256 == b.sha256 && a.version == b.version &&
           a.firmware == b.firmware && a.options == b.options;
}

/// True if the path still leads to the file that was pinned.
bool is_still_there(const PinnedBinary& binary) {
    struct stat facts {};
    return ::lstat(binary.release.path.c_str(), &facts) == 0 && facts.st_dev == binary.device &&
           facts.st_ino == binary.inode && upgrade::check_unchanged(binary).has_value();
}

} // namespace

ReleaseShelf::ReleaseShelf(std::vector<std::string> folders, asio::thread_pool& disk)
    : folders_(std::move(folders)), disk_(disk) {}

void ReleaseShelf::look_in(std::vector<std::string> folders) {
    folders_ = std::move(folders);
}

ReleaseShelf::Shelf
ReleaseShelf::load(const std::vector<std::string>& folders, const Pinned& before) {
    Shelf shelf;
    for (ReleaseFile& file : read_release_files(folders)) {
        auto& release = file.release;
        if (release.has_error()) {
            shelf.items.push_back({file.name, {}, release.error(), {}});
            continue;
        }
        const std::string name = release->name.text();
        const auto known = before.find(name);
        const bool is_known = known != before.end() &&
                              is_same_release(known->second->release, *release) &&
                              is_still_there(*known->second);
        auto binary = is_known ? Result<std::shared_ptr<const PinnedBinary>>(known->second)
                               : upgrade::pin_binary(*release);
        const Result<void> firmware = check_firmware(*release);
        const Result<void> is_qemu = binary.has_value() ? check_is_qemu(**binary) : Result<void>();
        if (is_qemu.has_error()) {
            binary = is_qemu.error();
        } else if (binary.has_value() && firmware.has_error()) {
            binary = firmware.error();
        }
        std::string key;
        if (binary.has_value()) {
            key = upgrade::probe_key(**binary);
            shelf.pinned[name] = *binary;
            shelf.keys[name] = key;
        }
        shelf.items.push_back({name, std::move(*release), std::move(binary), std::move(key)});
    }
    return shelf;
}

awaitable<std::vector<ReleaseShelf::Item>> ReleaseShelf::reload() {
    auto work = [folders = folders_, before = pinned_] { return load(folders, before); };
    Shelf shelf = co_await blocking(disk_, std::move(work));
    pinned_ = std::move(shelf.pinned);
    keys_ = std::move(shelf.keys);
    co_return std::move(shelf.items);
}

awaitable<std::vector<ReleaseView>> ReleaseShelf::list() {
    const std::vector<Item> items = co_await reload();
    std::vector<ReleaseView> views;
    for (const Item& item : items) {
        ReleaseView view;
        view.name = item.name;
        view.path = item.release.path;
        view.sha256 = item.release.sha256;
        view.description = item.release.description;
        view.usable = item.binary.has_value();
        if (item.binary.has_value()) {
            view.sha256 = (*item.binary)->sha256;
            view.build_id = (*item.binary)->build_id;
        } else {
            view.reason = to_text(item.binary.error());
        }
        views.push_back(std::move(view));
    }
    co_return views;
}

awaitable<std::vector<std::vector<std::string>>> ReleaseShelf::tails() {
    const std::vector<Item> items = co_await reload();
    std::vector<std::vector<std::string>> tails;
    for (const Item& item : items) {
        auto tail = upgrade::release_tail(item.release);
        if (!tail.empty()) {
            tails.push_back(std::move(tail));
        }
    }
    co_return tails;
}

awaitable<BinaryCatalog::Facts> ReleaseShelf::facts_of(std::string build_id) {
    BinaryCatalog::Facts known = catalog_.find(build_id);
    const auto release =
        std::find_if(pinned_.begin(), pinned_.end(), [&build_id](const auto& each) {
            return !build_id.empty() && each.second->build_id == build_id;
        });
    if (!known && release != pinned_.end()) {
        const std::shared_ptr<const PinnedBinary> binary = release->second;
        known = co_await catalog_.ask(binary, keys_[release->first]);
    }
    co_return known;
}

awaitable<ReleaseShelf::Answer> ReleaseShelf::pick(std::string name) {
    const std::vector<Item> items = co_await reload();
    Picked picked;
    std::vector<std::string> names;
    const Item* wanted = nullptr;
    for (const Item& item : items) {
        names.push_back(item.name);
        wanted = item.name == name ? &item : wanted;
        const auto tail = upgrade::release_tail(item.release);
        if (!tail.empty()) {
            picked.known_tails.push_back(tail);
        }
    }
    Answer answer;
    if (wanted == nullptr) {
        answer.problem = make_problem(
            ProblemCode::release_not_found,
            "There is no release '" + name + "'.",
            did_you_mean(name, names) + "'qhupd-ctl releases' shows all."
        );
    } else if (wanted->binary.has_error()) {
        answer.problem = make_problem(
            ProblemCode::release_unusable,
            "The release '" + name +
                "' must not be used: " + with_stop(to_text(wanted->binary.error())),
            "Repair its file or its binary; 'qhupd-ctl releases' says when it is usable."
        );
    } else {
        picked.binary = *wanted->binary;
        picked.facts = co_await catalog_.ask(picked.binary, wanted->key);
        answer.picked = std::move(picked);
    }
    co_return answer;
}

} // namespace qhup::daemon
