// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a client of the API sends: path and body; and what qhupd-ctl reads of an answer.
#include "daemon/api_types_events.hpp"
#include "daemon/routes.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <nlohmann/json.hpp>

#include <string>

using namespace qhup;
using namespace qhup::daemon;
using fuzz::require;

namespace {

void read_answer(const nlohmann::json& value) {
    (void)vm_from_json(value);
    (void)release_from_json(value);
    (void)check_from_json(value);
    (void)run_event_from_json(value);
    (void)problem_from_json(value);
    const std::string event = format_sse(event_from_json(value));
    require(event.find("\n\n") == event.size() - 2, "an event is one frame");
    (void)version_from_json(value);
    const std::string once = format_json(to_json(run_from_json(value)));
    const auto again = parse_json(once);
    require(again.has_value(), "what is written can be read");
    require(format_json(to_json(run_from_json(*again))) == once, "a run is the same again");
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::string_view method = input.until(' ');
    const std::string_view target = input.until('\n');
    const Route route = find_route(method, target);
    if (const auto* const vm = std::get_if<GetVm>(&route)) {
        require(is_valid_name(vm->name), "a name in a path is a name");
    }
    const std::string_view body = input.take(size);
    const Result<RunRequest> request = parse_run_request(body);
    if (request.has_value()) {
        require(request->all || !request->vms.empty(), "a run is about some VM");
        for (const std::string& vm : request->vms) {
            require(is_valid_name(vm), "a VM has a name");
        }
        const RunRequest again = run_request_from_json(to_json(*request));
        require(again == *request, "a request is the same again");
    }
    (void)parse_hold_request(body);
    const auto value = parse_json(body);
    require(value.has_value() || request.has_error(), "a request is JSON");
    if (value.has_value()) {
        read_answer(*value);
    }
    return 0;
}
