// SPDX-License-Identifier: GPL-2.0-or-later
//
// Does one thing as another user of the host, with that user's rights only: for a daemon that has a
// user of its own, and CAP_SETUID. Who is root needs none of it but to take rights away.
#pragma once

#include "common/result.hpp"

#include <sys/types.h>

#include <functional>
#include <string>

namespace qhup {

/// The user that qhupd.service runs as.
inline constexpr const char* kServiceUser = "qhupd";

/// Whether we can become any user: the effective capabilities have CAP_SETUID.
[[nodiscard]] bool may_take_user();

/// Whether we have rights over others without being root, as qhupd.service has.
[[nodiscard]] bool is_own_user_with_rights();

/// Whether what belongs to this user is as good as ours: root's, our own, and for root what belongs
/// to the user of qhupd.service.
[[nodiscard]] bool is_ours(uid_t owner);

/// Calls `work` once, on a thread that is this user, has no capability and can get none, and that
/// ends with it. What `work` starts is born so, too. The group is ours.
///
/// why: a thread that is not used again cannot be left in another user's name, and has nothing to
/// restore.
///
/// @param what  for the sentence, as "connecting to a VM"
/// Errors:        system_error: there is no thread, or we may not become this user
/// After failure: `work` was not called
/// Blocking:      as long as `work`
Result<void> run_as_user(uid_t uid, const std::string& what, const std::function<void()>& work);

} // namespace qhup
