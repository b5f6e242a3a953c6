// SPDX-License-Identifier: GPL-2.0-or-later
//
// qhupd: reads the configuration and starts the daemon.
#include "common/log.hpp"
#include "common/version.hpp"
#include "daemon/api_server.hpp"
#include "daemon/config.hpp"
#include "daemon/daemon.hpp"
#include "daemon/fault_points.hpp"
#include "upgrade-engine/blockers.hpp"

#include <getopt.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace {

using namespace qhup;

constexpr int kUsageError = 64;
constexpr int kConfigurationError = 78;
constexpr const char* kDefaultConfig = "/etc/qhupd/qhupd.conf";
constexpr const char* kHelp = "Usage: qhupd [--config FILE] [--check-config] [--version]\n"
                              "\n"
                              "Upgrades the QEMU of running VMs. Steered with qhupd-ctl.\n"
                              "\n"
                              "  --config FILE   configuration (default /etc/qhupd/qhupd.conf;\n"
                              "                  if that is missing, the built-in defaults)\n"
                              "  --check-config  say what is wrong with it and exit\n"
                              "  --version       print the version and exit\n"
                              "  --list-blockers print the classes of its blockers, with remedies\n"
                              "  --list-faults   print the fault points, which are for tests\n"
                              "  --fault POINT   end as if killed at this point\n"
                              "\n"
                              "Exit status: 0 stopped, 1 failure, 64 usage, 78 configuration\n";

struct Arguments {
    std::string config = kDefaultConfig;
    bool is_config_named = false;
    bool only_checks = false;
    std::string fault;    ///< fault point to die at; "" for none
    int exit_status = -1; ///< not negative: exit now
};

Arguments parse_arguments(int argc, char** argv) {
    static const option kOptions[] = {
        {"config", required_argument, nullptr, 'c'},
        {"check-config", no_argument, nullptr, 'C'},
        {"version", no_argument, nullptr, 'V'},
        {"list-blockers", no_argument, nullptr, 'B'},
        {"list-faults", no_argument, nullptr, 'L'},
        {"fault", required_argument, nullptr, 'F'},
        {"help", no_argument, nullptr, 'h'},
        {nullptr, 0, nullptr, 0},
    };
    Arguments arguments;
    for (int chosen = 0; (chosen = ::getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
        switch (chosen) {
        case 'c':
            arguments.config = optarg;
            arguments.is_config_named = true;
            break;
        case 'C': arguments.only_checks = true; break;
        case 'V':
            std::printf("qhupd %s\n", std::string(kVersion).c_str());
            arguments.exit_status = 0;
            return arguments;
        case 'B':
            for (const upgrade::BlockerClass& known : upgrade::blocker_classes()) {
                std::printf(
                    "%s\t%s\n", std::string(known.name).c_str(), std::string(known.remedy).c_str()
                );
            }
            arguments.exit_status = 0;
            return arguments;
        case 'L':
            for (const std::string& name : daemon::all_fault_points()) {
                std::printf("%s\n", name.c_str());
            }
            arguments.exit_status = 0;
            return arguments;
        case 'F': arguments.fault = optarg; break;
        case 'h':
            std::fputs(kHelp, stdout);
            arguments.exit_status = 0;
            return arguments;
        default:
            std::fputs(kHelp, stderr);
            arguments.exit_status = kUsageError;
            return arguments;
        }
    }
    const auto faults = daemon::all_fault_points();
    const bool is_known_fault =
        arguments.fault.empty() ||
        std::find(faults.begin(), faults.end(), arguments.fault) != faults.end();
    if (optind < argc || !is_known_fault) {
        std::fputs(kHelp, stderr);
        arguments.exit_status = kUsageError;
    }
    return arguments;
}

Result<daemon::Config> load_config(const Arguments& arguments) {
    std::error_code ignored;
    if (std::filesystem::is_directory(arguments.config, ignored)) {
        return make_failure(
            Errc::invalid_argument, arguments.config + ": is a folder; name a file in it."
        );
    }
    std::ifstream file(arguments.config, std::ios::binary);
    if (!file && !arguments.is_config_named) {
        return daemon::Config();
    }
    if (!file) {
        return make_failure(Errc::not_found, arguments.config + ": cannot be opened.");
    }
    const std::string text(
        (std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()
    );
    return daemon::parse_config(text, arguments.config);
}

/// Says what is wrong beyond the file itself. @return the exit status
int check_config(const Arguments& arguments, const daemon::Config& config) {
    const auto group = daemon::check_group(config.api.group);
    if (group.has_error()) {
        std::fprintf(stderr, "%s.\n", to_text(group.error()).c_str());
    }
    std::error_code error;
    const bool has_releases = std::filesystem::is_directory(config.releases_dir, error);
    if (!has_releases) {
        std::fprintf(
            stderr,
            "the folder %s, which releases_dir names, cannot be used%s%s, so there is no release. "
            "Make it.\n",
            config.releases_dir.c_str(),
            error ? ": " : "",
            error ? error.message().c_str() : ""
        );
    }
    if (group.has_error() || !has_releases) {
        return kConfigurationError;
    }
    const bool is_there = std::filesystem::exists(arguments.config, error);
    std::printf(
        is_there ? "%s: good\n" : "%s: is not there, the built-in defaults are used: good\n",
        arguments.config.c_str()
    );
    return 0;
}

int run(int argc, char** argv) {
    const Arguments arguments = parse_arguments(argc, argv);
    if (arguments.exit_status >= 0) {
        return arguments.exit_status;
    }
    const auto config = load_config(arguments);
    if (config.has_error()) {
        std::fprintf(stderr, "%s\n", to_text(config.error()).c_str());
        return kConfigurationError;
    }
    if (arguments.only_checks) {
        return check_config(arguments, *config);
    }
    if (const auto logging = setup_log(config->log_level); logging.has_error()) {
        std::fprintf(stderr, "%s\n", to_text(logging.error()).c_str());
        return kConfigurationError;
    }
    return daemon::run_daemon(*config, arguments.fault);
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& bug) {
        std::fprintf(stderr, "qhupd has a bug: %s\n", bug.what());
        return 1;
    }
}
