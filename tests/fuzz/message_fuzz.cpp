// SPDX-License-Identifier: GPL-2.0-or-later
//
// One line from a peer: what is understood is within the bounds, and can be written and read again.
#include "qmp-client/message.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace qhup;
using fuzz::require;

namespace {

void try_getters(const qmp::Json& value) {
    for (const char* const key : {"return", "id", "QMP", "a", ""}) {
        (void)qmp::get_string(value, key);
        (void)qmp::get_int(value, key);
        (void)qmp::get_uint(value, key);
        (void)qmp::get_bool(value, key);
        (void)qmp::get_strings(value, key);
        (void)qmp::get_object(value, key);
        (void)qmp::get_optional_array(value, key);
        (void)qmp::get_optional_int(value, key);
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view line = fuzz::text_of(data, size);
    const Result<qmp::Json> value = qmp::parse_json(line);
    if (value.has_value()) {
        require(qmp::check_bounds(line).has_value(), "what is parsed is within the bounds");
        const std::string text = qmp::format_json(*value);
        require(text.find('\n') == std::string::npos, "it is written on one line");
        const Result<qmp::Json> again = qmp::parse_json(text);
        require(again.has_value() && qmp::format_json(*again) == text, "it can be read again");
        try_getters(*value);
    }
    const Result<qmp::Message> message = qmp::parse_message(line);
    require(message.has_error() || value.has_value(), "a message is JSON");
    if (message.has_value()) {
        if (const auto* const error = std::get_if<qmp::ErrorReply>(&*message)) {
            const Failure failure = qmp::to_failure(*error, "some-command");
            require(to_text(failure).size() < 10'000, "a failure is short enough to log");
        }
        if (const auto* const event = std::get_if<qmp::Event>(&*message)) {
            require(event->data.is_object(), "the data of an event is an object");
        }
    }
    return 0;
}
