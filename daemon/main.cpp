// SPDX-License-Identifier: GPL-2.0-or-later
//
// qhupd: reads the configuration and starts the daemon.
#include "common/log.hpp"
#include "common/version.hpp"
#include "daemon/config_check.hpp"
#include "daemon/config_files.hpp"
#include "daemon/daemon.hpp"
#include "daemon/fault_points.hpp"
#include "upgrade-engine/blockers.hpp"

#include <boost/system/system_error.hpp>

#include <getopt.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <system_error>
#include <vector>

namespace {

using namespace qhup;

constexpr int kUsageError = 64;
constexpr int kConfigurationError = 78;
constexpr const char* kHelp =
    "Usage: qhupd [--config FILE] [--check-config] [--print-config] [--version]\n"
    "\n"
    "Upgrades the QEMU of running VMs. Steered with qhupd-ctl.\n"
    "\n"
    "  --config FILE   configuration: only this file. Without it qhupd.toml and\n"
    "                  qhupd.toml.d/*.toml in /usr/lib/qhupd, /etc/qhupd and /run/qhupd, as far\n"
    "                  as they are there; the later ones count more\n"
    "  --root DIR      look for these folders below DIR\n"
    "  --check-config  say what is wrong with it, and with the releases, and exit\n"
    "  --check-reload  say whether a running qhupd would take it, and exit\n"
    "  --print-config  print every key with its value and where it was set, and exit\n"
    "  --version       print the version and exit\n"
    "  --list-blockers print the classes of its blockers, with remedies\n"
    "  --list-faults   print the fault points, which are for tests\n"
    "  --fault POINT   end as if killed at this point\n"
    "\n"
    "Exit status: 0 stopped, 1 failure, 64 usage, 78 configuration\n";

enum class Work { serve, check_config, check_reload, print_config };

struct Arguments {
    daemon::ConfigSource source;
    Work work = Work::serve;
    std::string fault;    ///< fault point to die at; "" for none
    int exit_status = -1; ///< not negative: exit now
};

Arguments parse_arguments(int argc, char** argv) {
    static const option kOptions[] = {
        {"config", required_argument, nullptr, 'c'},
        {"root", required_argument, nullptr, 'r'},
        {"check-config", no_argument, nullptr, 'C'},
        {"check-reload", no_argument, nullptr, 'R'},
        {"print-config", no_argument, nullptr, 'P'},
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
        case 'c': arguments.source.file = optarg; break;
        case 'r': arguments.source.root = optarg; break;
        case 'C': arguments.work = Work::check_config; break;
        case 'R': arguments.work = Work::check_reload; break;
        case 'P': arguments.work = Work::print_config; break;
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
        if (optind < argc) {
            std::fprintf(stderr, "qhupd takes options only, and '%s' is none.\n\n", argv[optind]);
        } else {
            std::fprintf(stderr, "There is no fault point '%s'.\n\n", arguments.fault.c_str());
        }
        std::fputs(kHelp, stderr);
        arguments.exit_status = kUsageError;
    }
    return arguments;
}

/// Says what is wrong beyond the files themselves. @return the exit status
int check_config(const daemon::Config& config, bool with_releases) {
    std::vector<std::string> mistakes = daemon::find_config_mistakes(config);
    if (with_releases) {
        for (std::string& mistake : daemon::find_release_mistakes(config)) {
            mistakes.push_back(std::move(mistake));
        }
    }
    for (const std::string& mistake : mistakes) {
        std::fprintf(stderr, "%s\n", mistake.c_str());
    }
    if (!mistakes.empty()) {
        return kConfigurationError;
    }
    std::printf("the configuration is good\n");
    return 0;
}

int run(int argc, char** argv) {
    const Arguments arguments = parse_arguments(argc, argv);
    if (arguments.exit_status >= 0) {
        return arguments.exit_status;
    }
    const auto config = daemon::load_config(arguments.source);
    if (config.has_error()) {
        std::fprintf(stderr, "%s\n", to_text(config.error()).c_str());
        return kConfigurationError;
    }
    switch (arguments.work) {
    case Work::check_config: return check_config(*config, true);
    case Work::check_reload: return check_config(*config, false);
    case Work::print_config: std::fputs(daemon::format_config(*config).c_str(), stdout); return 0;
    case Work::serve: break;
    }
    if (const auto logging = setup_log(config->log_level); logging.has_error()) {
        std::fprintf(stderr, "%s\n", to_text(logging.error()).c_str());
        return kConfigurationError;
    }
    return daemon::run_daemon(*config, arguments.source, arguments.fault);
}

/// No thread, no descriptor, no memory of the kernel. @return the exit status
int say_refused(const std::exception& refused) {
    std::fprintf(stderr, "the system refuses what qhupd needs to run: %s\n", refused.what());
    return 1;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::system_error& refused) {
        return say_refused(refused);
    } catch (const boost::system::system_error& refused) {
        return say_refused(refused);
    } catch (const std::exception& bug) {
        std::fprintf(stderr, "qhupd has a bug: %s\n", bug.what());
        return 1;
    }
}
