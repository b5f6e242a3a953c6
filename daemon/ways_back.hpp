// SPDX-License-Identifier: GPL-2.0-or-later
//
// The ways back of the VMs that are there: gathers what way_back judges by.
#pragma once

#include "daemon/kept_binaries.hpp"
#include "daemon/run_book.hpp"
#include "daemon/way_back.hpp"

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class WaysBack {
public:
    WaysBack(RunServices services, const RunBook& book, const KeptBinaries& kept)
        : services_(std::move(services)), book_(book), kept_(kept) {}

    WayBack of(const std::string& vm) const;
    /// Of each, in their order.
    std::vector<WayBack> of(const std::vector<VmView>& vms) const;

    /// Where the VMs of a revert go. A run in place of VMs stands for those that it has upgraded:
    /// the request then names these.
    std::map<std::string, CameFrom> choose(RunRequest& request) const;

    /// Binaries that a VM runs, or came from.
    std::set<std::string> needed_binaries() const;

private:
    std::unordered_map<std::string, CameFrom> find_all(const std::vector<VmView>& vms) const;

    RunServices services_;
    const RunBook& book_;
    const KeptBinaries& kept_;
};

} // namespace qhup::daemon
