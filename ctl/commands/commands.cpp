// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/commands/commands.hpp"

#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdio>

namespace qhup::ctl {

namespace {

bool has_lost_output = false;

} // namespace

void print(const std::string& text) {
    print_raw(wrap(text, observe_terminal(STDOUT_FILENO).columns));
}

void print_document(
    const Options& options,
    const nlohmann::json& document,
    const std::function<std::string()>& render
) {
    if (options.json) {
        print_raw(daemon::format_json_pretty(document) + "\n");
    } else {
        print(render());
    }
}

void print_raw(const std::string& text) {
    const bool is_written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    has_lost_output = has_lost_output || !is_written;
}

bool is_output_lost() noexcept {
    return has_lost_output;
}

void tell(const std::string& text) {
    tell_raw(wrap(text, observe_terminal(STDERR_FILENO).columns));
}

void tell_raw(const std::string& text) {
    std::fputs(text.c_str(), stderr);
}

Style output_style(const Options& options) {
    return {choose_color(options.color, observe_terminal(STDOUT_FILENO))};
}

Style error_style(const Options& options) {
    return {choose_color(options.color, observe_terminal(STDERR_FILENO))};
}

ExitStatus report(const Options& options, const Failure& failure) {
    std::string text = failure.message + ".";
    if (!text.starts_with("qhupd")) { // a name stays as it is
        text.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(text.front())));
    }
    if (options.json) {
        print_raw(
            daemon::format_json({{"code", wire_code_of(failure.code)}, {"detail", text}}) + "\n"
        );
    }
    tell(printable(text) + "\n");
    if (failure.code == make_error_code(Errc::not_permitted)) {
        return ExitStatus::not_permitted;
    }
    if (failure.code == make_error_code(Errc::unreachable) ||
        failure.code == make_error_code(Errc::no_answer)) {
        return ExitStatus::unreachable;
    }
    return ExitStatus::failure;
}

ExitStatus report(const Options& options, const Reply& reply) {
    const auto body = daemon::parse_json(reply.body);
    if (body.has_error() || !body->is_object()) {
        return report(
            options, make_failure(Errc::bad_answer, "what answers on the socket is not qhupd")
        );
    }
    daemon::Problem problem = daemon::problem_from_json(*body);
    problem.status = reply.status;
    if (options.json) {
        print_raw(daemon::format_json(*body) + "\n");
    }
    tell(render_problem(problem));
    return exit_status_of(problem);
}

ExitStatus report_problem(const Options& options, const daemon::Problem& problem) {
    if (options.json) {
        print_raw(daemon::format_json(daemon::to_json(problem)) + "\n");
    }
    tell(render_problem(problem));
    return exit_status_of(problem);
}

std::variant<nlohmann::json, ExitStatus>
get_document(Client& client, const Options& options, const std::string& target) {
    constexpr int kOk = 200;
    const auto reply = client.request("GET", target);
    if (reply.has_error()) {
        return report(options, reply.error());
    }
    if (reply->status != kOk) {
        return report(options, *reply);
    }
    auto body = json_of(*reply);
    if (body.has_error()) {
        return report(options, body.error());
    }
    return std::move(*body);
}

Result<nlohmann::json> json_of(const Reply& reply) {
    auto body = daemon::parse_json(reply.body);
    if (body.has_error() || !body->is_object()) {
        return make_failure(Errc::bad_answer, "what answers on the socket is not qhupd");
    }
    return body;
}

std::string vms_target(const Options& options) {
    std::string labels;
    for (const auto& [key, value] : options.labels) {
        labels += (labels.empty() ? "" : "%2C") + percent_encoded(key + "=" + value);
    }
    return "/v1/vms" + (labels.empty() ? "" : "?labels=" + labels);
}

std::string percent_encoded(std::string_view name) {
    std::string encoded;
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.' || c == '~') {
            encoded += c;
            continue;
        }
        std::array<char, 4> hex{};
        std::snprintf(hex.data(), hex.size(), "%%%02X", static_cast<unsigned int>(byte));
        encoded += hex.data();
    }
    return encoded;
}

} // namespace qhup::ctl
