// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_view.hpp"

#include "qmp-client/errors.hpp"
#include "upgrade-engine/blockers.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace qhup::daemon {
namespace {

// A path of a Unix socket has at most 107 bytes; "/run/qhupd/vms" and "/ID-source" take half.
constexpr std::size_t kMaxFolderName = 48;

/// Makes any text usable as a name.
std::string sanitised(std::string_view text) {
    std::string name;
    for (const char c : text.substr(0, 120)) {
        const std::string one(1, c);
        const bool is_fit = is_valid_name("x" + one);
        name += is_fit ? c : '_';
    }
    return is_valid_name(name) ? name : "vm" + name;
}

std::uint64_t hash_of(std::string_view text) {
    std::uint64_t hash = 14695981039346656037U; // FNV-1a
    for (const char c : text) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    }
    return hash;
}

std::string hex_of(std::uint64_t value) {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::string hex;
    for (int shift = 60; shift >= 0; shift -= 4) {
        hex += kDigits[(value >> static_cast<unsigned int>(shift)) & 0xFU];
    }
    return hex;
}

/// Two monitors of one process: made by the same process, and the same words from both.
using ProcessKey = std::tuple<pid_t, pid_t, std::string>;

std::optional<ProcessKey> process_of(const ProbedSocket& socket) {
    if (!socket.last || !socket.last->answers || socket.last->listener_pid == 0 ||
        socket.last->facts.claimed_pid == 0) {
        return std::nullopt;
    }
    const upgrade::VmFacts& facts = socket.last->facts;
    return ProcessKey(socket.last->listener_pid, facts.claimed_pid, facts.name);
}

/// The wish of each socket: the name it has, unless QEMU says something new, else what QEMU says,
/// else its path's.
std::string wish_of(const ProbedSocket& socket) {
    const std::optional<std::string> claim = claim_of(socket);
    const bool says_the_same = !claim || claim == socket.claim;
    if (!socket.name.empty() && (says_the_same || socket.is_in_run)) {
        return socket.name;
    }
    return claim && !claim->empty() ? *claim : name_from_path(socket.path);
}

/// How good a right a socket has to its wish; more is better, and nobody has a name by claim alone
/// that another one claims, too.
enum class Right { claim, path, owner };

Right right_of(const ProbedSocket& socket, const std::string& wish) {
    if (socket.name == wish) {
        return Right::owner;
    }
    return name_from_path(socket.path) == wish ? Right::path : Right::claim;
}

/// Who gets a name.
struct Owner {
    std::size_t index;
    Right right;
    bool is_disputed = false;
};

std::string unused(const std::string& name, const std::set<std::string>& used) {
    std::string candidate = name;
    for (int number = 2; used.count(candidate) != 0; ++number) {
        candidate = name.substr(0, 110) + "~" + std::to_string(number);
    }
    return candidate;
}

} // namespace

std::optional<std::string> claim_of(const ProbedSocket& socket) {
    if (!socket.last || !socket.last->answers) {
        return std::nullopt;
    }
    const std::string& name = socket.last->facts.name;
    return is_valid_name(name) ? name : std::string();
}

std::string name_from_path(std::string_view path) {
    static constexpr std::array<std::string_view, 4> kCommon{"qmp", "monitor", "mon", "control"};
    const auto slash = path.rfind('/');
    std::string_view file = slash == std::string_view::npos ? path : path.substr(slash + 1);
    const auto dot = file.find('.', 1);
    std::string_view stem = file.substr(0, dot);
    if (std::find(kCommon.begin(), kCommon.end(), stem) != kCommon.end() &&
        slash != std::string_view::npos && slash > 0) {
        const std::string_view folder = path.substr(0, slash);
        const auto before = folder.rfind('/');
        stem = before == std::string_view::npos ? folder : folder.substr(before + 1);
    }
    return sanitised(stem);
}

std::vector<std::string> choose_names(const std::vector<ProbedSocket>& sockets) {
    std::vector<std::string> names(sockets.size());
    std::vector<bool> is_second(sockets.size(), false);
    std::map<std::string, Owner> owners;
    std::set<ProcessKey> processes;
    for (const ProbedSocket& socket : sockets) {
        if (const auto process = process_of(socket); process && socket.is_in_run) {
            processes.insert(*process);
        }
    }
    for (std::size_t i = 0; i < sockets.size(); ++i) {
        const auto process = process_of(sockets[i]);
        is_second[i] = process && !sockets[i].is_in_run && !processes.insert(*process).second;
        if (is_second[i]) {
            continue;
        }
        const std::string wish = wish_of(sockets[i]);
        const Owner claimant{i, right_of(sockets[i], wish)};
        Owner& owner = owners.emplace(wish, claimant).first->second;
        if (claimant.right > owner.right) {
            owner = claimant;
        } else if (owner.index != i && owner.right == Right::claim) {
            owner.is_disputed = true;
        }
    }
    std::set<std::string> used;
    for (const auto& [wish, owner] : owners) {
        used.insert(wish);
        if (!owner.is_disputed) {
            names[owner.index] = wish;
        }
    }
    for (std::size_t i = 0; i < sockets.size(); ++i) {
        if (names[i].empty() && !is_second[i]) {
            names[i] = unused(name_from_path(sockets[i].path), used);
            used.insert(names[i]);
        }
    }
    return names;
}

std::string control_folder_of(std::string_view vm_name) {
    if (vm_name.size() <= kMaxFolderName) {
        return std::string(vm_name);
    }
    return std::string(vm_name.substr(0, kMaxFolderName - 17)) + "-" + hex_of(hash_of(vm_name));
}

std::vector<BlockerView> to_views(const std::vector<upgrade::Blocker>& blockers) {
    std::vector<BlockerView> views;
    views.reserve(blockers.size());
    for (const upgrade::Blocker& blocker : blockers) {
        views.push_back({.id = blocker.id, .klass = blocker.klass, .reason = blocker.reason});
    }
    return views;
}

std::string reason_of(const Failure& failure, std::string_view socket) {
    const std::string where(socket);
    if (failure.code == qmp::Errc::nobody_listens) {
        return "nobody listens on " + where +
               " any more: its QEMU has ended. Remove the socket if it is still there: rm " + where;
    }
    if (failure.code == qmp::Errc::monitor_busy) {
        return "somebody listens on " + where +
               " but does not accept connections now: another client keeps its monitor busy, or "
               "QEMU is stopped. The VM may well run; do not start it a second time";
    }
    if (failure.code == qmp::Errc::monitor_forbidden) {
        return "qhupd may not connect to " + where +
               ": see the permissions of the socket and of its folders. The VM may well run";
    }
    if (failure.code == qmp::Errc::connect_failed) {
        return "qhupd cannot connect to " + where + " (" + failure.peer_text +
               "), so it does not know whether the VM runs";
    }
    if (failure.code == qmp::Errc::greeting_timed_out) {
        return "somebody listens on " + where +
               " but QEMU does not greet. A QMP monitor serves one client at a time: close other "
               "clients, or give the VM a second -qmp for qhupd";
    }
    if (failure.code == qmp::Errc::negotiation_failed ||
        failure.code == qmp::Errc::protocol_error || failure.code == qmp::Errc::line_too_long ||
        failure.code == qmp::Errc::too_deep) {
        return "what listens on " + where + " does not speak QMP";
    }
    if (is_timed_out(failure) || failure.code == qmp::Errc::timed_out) {
        return "QEMU does not answer on " + where +
               ". If the guest is fine, another client may keep the monitor busy";
    }
    return to_text(failure);
}

VmView make_vm_view(std::string name, std::string socket, const VmProbe* probe) {
    VmView view;
    view.name = std::move(name);
    view.socket = std::move(socket);
    view.state = "unreachable";
    if (probe == nullptr) {
        view.reason = "it was not asked yet";
        return view;
    }
    if (!probe->answers) {
        view.reason = probe->why ? reason_of(*probe->why, view.socket) : "it does not answer";
        view.stale = probe->why && probe->why->code == qmp::Errc::nobody_listens;
        return view;
    }
    const upgrade::VmFacts& facts = probe->facts;
    view.uuid = facts.uuid;
    view.pid = facts.claimed_pid;
    view.version = facts.version_text;
    view.package = facts.package;
    view.build_id = facts.build_id;
    view.machine = facts.machine;
    view.shape_class = facts.shape_class;
    view.state = facts.run_state;
    view.ram_bytes = facts.ram_bytes;
    view.reachable = true;
    if (!probe->is_patched) {
        view.pid = probe->listener_pid;
        view.blockers = to_views({upgrade::make_not_patched_blocker()});
        return view;
    }
    view.upgrade_state = std::string(upgrade::to_string(facts.state));
    view.blockers = to_views(facts.blockers);
    if (facts.state != upgrade::PairState::none) {
        view.blockers.push_back(
            {.id = "engine/upgrade",
             .klass = "upgrade",
             .reason = "an upgrade of this VM has not ended (" + view.upgrade_state +
                       "); wait for it, or see 'qhupd-ctl status'. An upgrade or revert of the VM "
                       "ends one of qhupd's first"}
        );
    }
    view.upgradable = view.blockers.empty() && facts.state == upgrade::PairState::none;
    return view;
}

} // namespace qhup::daemon
