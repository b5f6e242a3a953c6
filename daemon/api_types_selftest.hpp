// SPDX-License-Identifier: GPL-2.0-or-later
//
// What goes over /v1/selftests, as structs, and the mapping from and to JSON. Pure.
#pragma once

#include "common/result.hpp"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// The body of POST /v1/selftests.
struct SelftestRequest {
    std::string to;           ///< release
    std::string from;         ///< release; "": the one that the VMs of this host run
    std::uint32_t guests = 5; ///< each is upgraded once; 1 to 50

    bool operator==(const SelftestRequest&) const = default;
};

/// Something of the host that VMs use, and whether the guests of a selftest did.
struct TriedView {
    std::string name;      ///< "kvm", "huge_pages", "vhost", "security_module", "libvirt_profile"
    bool used = false;     ///< each guest was seen to use it, before and after its upgrade
    std::string text;      ///< what was seen, or why it was not used; a sentence without stop
    std::uint32_t vms = 0; ///< VMs of this host that used it when the selftest began

    bool operator==(const TriedView&) const = default;
};

/// One selftest: throwaway guests of this host that were upgraded.
struct SelftestView {
    std::string id;                 ///< names it in paths
    std::string state;              ///< "starting", "upgrading", "checking" or "finished"
    bool passed = false;            ///< it has finished, and every guest was well
    std::string message;            ///< why it has not passed, as a sentence; else ""
    std::string next_step;          ///< what to do then; else ""
    std::string from;               ///< release that the guests were started with
    std::string to;                 ///< release that they were upgraded to
    std::string from_build_id;      ///< of its binary
    std::string to_build_id;        ///< of its binary
    std::string kernel;             ///< release of the host's kernel
    std::uint32_t guests = 0;       ///< how many
    std::string run;                ///< the run that upgraded them; "" while there is none
    std::string accelerator;        ///< "kvm" or "tcg"; "" while it is not known
    bool hugepages = false;         ///< their RAM was in huge pages
    std::string confinement;        ///< label of the security module; "" if there is none
    std::vector<TriedView> tried;   ///< empty while no guest runs; the last only if libvirt is here
    std::uint64_t counted = 0;      ///< numbers that all guests said, without a gap
    std::optional<double> pause_ms; ///< longest pause
    std::int64_t started_unix_ms = 0;
    std::int64_t finished_unix_ms = 0; ///< 0 while it goes on
    std::int64_t by_uid = 0;           ///< who asked

    bool operator==(const SelftestView&) const = default;
};

/// The name of what was tried, for people: "KVM", "huge pages".
std::string words_of_tried(std::string_view name);

nlohmann::json to_json(const TriedView& value);
nlohmann::json to_json(const SelftestRequest& value);
nlohmann::json to_json(const SelftestView& value);
/// {"selftests": […]}
nlohmann::json to_json(const std::vector<SelftestView>& value);

/// What a daemon said; missing members keep their default.
SelftestView selftest_from_json(const nlohmann::json& value);
std::vector<SelftestView> selftests_from_json(const nlohmann::json& value);

/// The body of POST /v1/selftests, as strict as parse_run_request().
Result<SelftestRequest> parse_selftest_request(std::string_view body);

} // namespace qhup::daemon
