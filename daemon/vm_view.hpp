// SPDX-License-Identifier: GPL-2.0-or-later
//
// How VMs are named and shown: from what was probed to what the API says. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// What one look at a QMP socket brought.
struct VmProbe {
    bool answers = false;       ///< QEMU answered in time; `facts` are valid
    bool is_patched = false;    ///< it knows query-hot-upgrade; else few facts are known
    upgrade::VmFacts facts;     ///< what QEMU said
    pid_t listener_pid = 0;     ///< who made the socket, as the kernel says; 0: unknown
    uid_t listener_uid = 0;     ///< its user
    std::optional<Failure> why; ///< why it did not answer
};

/// A socket and what is known of who listens there.
struct ProbedSocket {
    std::string path;                    ///< of the QMP socket
    std::shared_ptr<const VmProbe> last; ///< none: never probed
    std::string name;                    ///< the VM's name so far; "" if it has none yet
    std::optional<std::string> claim;    ///< what QEMU said when it got that name; none: nothing
    bool is_in_run = false;              ///< a run works on it: it keeps its name
};

/// The name that QEMU says, "" if it cannot be one; none if it did not answer.
std::optional<std::string> claim_of(const ProbedSocket& socket);

/// A name from the path: the folder's name for ".../vm1/qmp", else the file's without extension.
std::string name_from_path(std::string_view path);

/// A name for each socket, in their order: unique, and usable as a VM's name.
///
/// A VM has the name that QEMU says. If several claim one name, it stays with the one that has it
/// already, else it goes to the one whose path has it, else to none; the others are named after
/// their paths. A name that was given stays as long as the socket is there and QEMU says the same:
/// it moves to no other VM when its owner ends. A socket that is a second monitor of a VM that was
/// named before, or is in a run, gets an empty name and is left out. One that is in a run never is.
std::vector<std::string> choose_names(const std::vector<ProbedSocket>& sockets);

/// Name of the VM's folder below control_dir: the VM's name, or a shorter one made from it if a
/// socket inside would have a longer path than the kernel takes.
std::string control_folder_of(std::string_view vm_name);

/// What the API says about a VM.
///
/// @param probe  null: it was not asked yet
VmView make_vm_view(std::string name, std::string socket, const VmProbe* probe);

/// Why a VM cannot be reached, as a sentence that says what to do.
std::string reason_of(const Failure& failure, std::string_view socket);

std::vector<BlockerView> to_views(const std::vector<upgrade::Blocker>& blockers);

} // namespace qhup::daemon
