// SPDX-License-Identifier: GPL-2.0-or-later
//
// config show: the configuration as qhupd reads it, which is asked itself.
#include "ctl/commands/commands.hpp"
#include "ctl/daemon_program.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace qhup::ctl {
namespace {

constexpr std::string_view kOriginMark = "  # ";

ConfigLine parse_line(std::string_view line, const std::string& section) {
    ConfigLine parsed;
    parsed.section = section;
    const std::size_t mark = line.rfind(kOriginMark);
    const std::size_t equals = line.find(" = ");
    const std::string_view words = line.substr(0, mark);
    parsed.key = std::string(words.substr(0, equals));
    parsed.value = std::string(words.substr(std::min(equals + 3, words.size())));
    parsed.origin =
        mark == std::string_view::npos ? "" : std::string(line.substr(mark + kOriginMark.size()));
    return parsed;
}

} // namespace

std::vector<ConfigLine> parse_printed_config(std::string_view text) {
    std::vector<ConfigLine> lines;
    std::string section;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        if (line.starts_with("[")) {
            section = std::string(line.substr(0, line.rfind(']') + 1));
            section.erase(std::remove(section.begin(), section.end(), '['), section.end());
            section.erase(std::remove(section.begin(), section.end(), ']'), section.end());
        } else if (line.find(" = ") != std::string_view::npos && !line.starts_with("#")) {
            lines.push_back(parse_line(line, section));
        }
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines;
}

Result<ProgramEnd> ask_daemon_program(const Options& options, const char* what) {
    const std::string program = find_daemon_program();
    if (program.empty()) {
        return make_failure(Errc::unreachable, "the program qhupd is not installed on this host");
    }
    std::vector<std::string> words{program};
    if (!options.config_file.empty()) {
        words.insert(words.end(), {"--config", options.config_file});
    }
    words.emplace_back(what);
    return run_program(words);
}

ExitStatus run_config_show(const Options& options) {
    const auto printed = ask_daemon_program(options, "--print-config");
    if (printed.has_error()) {
        return report(options, printed.error());
    }
    if (printed->status != 0) {
        daemon::Problem problem;
        problem.status = 500;
        problem.code = "bad_configuration";
        problem.detail = printed->err.substr(0, printed->err.find('\n'));
        problem.next_step = "Mend the file; 'qhupd --check-config' says whether it is good";
        (void)report_problem(options, problem);
        return ExitStatus::bad_configuration;
    }
    if (options.json) {
        nlohmann::json values = nlohmann::json::array();
        for (const ConfigLine& line : parse_printed_config(printed->out)) {
            auto value = daemon::parse_json(line.value);
            values.push_back(
                {{"section", line.section},
                 {"key", line.key},
                 {"value", value.has_value() ? *value : nlohmann::json(line.value)},
                 {"origin", line.origin}}
            );
        }
        print_raw(daemon::format_json_pretty({{"values", values}}) + "\n");
        return ExitStatus::ok;
    }
    std::string text;
    std::string_view rest = printed->out;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find('\n'), rest.size());
        const std::string_view line = rest.substr(0, end);
        text += options.origin ? line : line.substr(0, line.rfind(kOriginMark));
        text += "\n";
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    print_raw(text);
    return ExitStatus::ok;
}

} // namespace qhup::ctl
