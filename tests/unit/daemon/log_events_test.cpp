// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/log_events.hpp"
#include "tests/support/catch.hpp"

#include <fstream>
#include <set>
#include <string>

using namespace qhup;
using namespace qhup::daemon;

namespace {

std::string value_of(const std::vector<LogField>& fields, const std::string& name) {
    for (const LogField& field : fields) {
        if (field.name == name) {
            return field.value;
        }
    }
    return "none";
}

} // namespace

TEST_CASE("the message catalog explains each message that has an id", "[daemon][log]") {
    std::ifstream file(QHUP_SOURCE_DIR "/systemd/qhupd.catalog");
    std::set<std::string> explained;
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("-- ", 0) == 0) {
            CHECK(explained.insert(line.substr(3)).second);
        }
    }
    std::set<std::string> known;
    for (const LogEvent& event : log_events()) {
        CHECK(event.id.size() == 32);
        CHECK(known.insert(std::string(event.id)).second);
    }
    CHECK(explained == known);
}

TEST_CASE(
    "the message about a VM says which, in which run, how and for how long", "[daemon][log]"
) {
    RunVmView vm;
    vm.vm = "web";
    vm.phase = "upgraded";
    vm.outcome = "upgraded";
    vm.steps = {{"switch_over", 10, "declined"}, {"switch_over", 20, "ok"}, {"commit", 30, "ok"}};
    vm.pause_ms = 12.3456;
    auto fields = outcome_fields("r7", vm);
    CHECK(value_of(fields, "QHUPD_VM") == "web");
    CHECK(value_of(fields, "QHUPD_RUN") == "r7");
    CHECK(value_of(fields, "QHUPD_PHASE") == "commit");
    CHECK(value_of(fields, "QHUPD_PAUSE_US") == "12346");
    CHECK(value_of(fields, "QHUPD_CODE") == "none");
    CHECK(value_of(fields, "MESSAGE_ID") == message_id_of("upgraded"));
    vm.outcome = "unchanged";
    vm.code = "x";
    vm.pause_ms.reset();
    fields = outcome_fields("r7", vm);
    CHECK(value_of(fields, "QHUPD_PAUSE_US") == "none");
    CHECK(value_of(fields, "QHUPD_CODE") == "x");
    CHECK(value_of(fields, "MESSAGE_ID") == "none");
}

TEST_CASE("the phase of a message is the one that decided the outcome", "[daemon][log]") {
    RunVmView vm;
    vm.phase = "prepare";
    vm.steps = {{"preflight", 1, "ok"}, {"prepare", 2, ""}};
    CHECK(value_of(outcome_fields("r7", vm), "QHUPD_PHASE") == "prepare"); // it is there
    vm.phase = "rolled_back";
    vm.outcome = "rolled_back";
    vm.steps = {{"prepare", 2, "ok"}, {"switch_over", 3, "failed"}, {"rolling_back", 4, "ok"}};
    CHECK(value_of(outcome_fields("r7", vm), "QHUPD_PHASE") == "switch_over");
    vm.outcome = "needs_operator";
    vm.steps.back().outcome = "unknown";
    CHECK(value_of(outcome_fields("r7", vm), "QHUPD_PHASE") == "rolling_back");
    vm.outcome = "skipped";
    vm.phase = "refused";
    vm.steps.clear();
    CHECK(value_of(outcome_fields("r7", vm), "QHUPD_PHASE") == "refused"); // no step was begun
}

TEST_CASE("fields hold for the messages of their scope", "[daemon][log]") {
    CHECK(LogFields::current().empty());
    {
        const LogFields outer(std::vector<LogField>{LogField{"QHUPD_VM", "a"}});
        {
            const LogFields inner(std::vector<LogField>{LogField{"QHUPD_VM", "b"}});
            CHECK(value_of(LogFields::current(), "QHUPD_VM") == "b");
        }
        CHECK(value_of(LogFields::current(), "QHUPD_VM") == "a");
    }
    CHECK(LogFields::current().empty());
}
