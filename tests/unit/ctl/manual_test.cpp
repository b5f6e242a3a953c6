// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/live_view.hpp"
#include "ctl/man_pages.hpp"
#include "ctl/manual.hpp"
#include "tests/support/catch.hpp"
#include "upgrade-engine/errors.hpp"

#include <algorithm>
#include <set>

using namespace qhup;
using namespace qhup::ctl;

namespace {

ManualEntry entry_of(Topic topic, const std::string& name) {
    for (const ManualEntry& entry : manual()) {
        if (entry.topic == topic && entry.name == name) {
            return entry;
        }
    }
    FAIL("no entry " << name);
    return {};
}

} // namespace

TEST_CASE("every code of the engine is explained in the engine's words", "[ctl][manual]") {
    for (const upgrade::Errc code : upgrade::kAllErrcs) {
        const std::string name = wire_code_of(make_error_code(code));
        INFO(name);
        const ManualEntry entry = entry_of(Topic::upgrade, name);
        CHECK(entry.text == upgrade::explain(code));
        CHECK(entry.kind == to_string(severity_of(make_error_code(code))));
        CHECK_FALSE(guest_after(entry).empty());
    }
}

TEST_CASE("outcomes, answers and blockers are explained, with what to do", "[ctl][manual]") {
    for (const char* outcome :
         {"upgraded",
          "unchanged",
          "checked",
          "rehearsed",
          "skipped",
          "refused",
          "rolled_back",
          "lost_contact",
          "needs_operator"}) {
        CHECK_FALSE(entry_of(Topic::outcome, outcome).text.empty());
    }
    CHECK(entry_of(Topic::request, "vm_not_found").kind == "404");
    const ManualEntry chardev = entry_of(Topic::blocker, "chardev");
    CHECK(chardev.kind == "QEMU");
    CHECK_FALSE(chardev.details.empty());
    CHECK(entry_of(Topic::blocker, "packet-loss").kind == "warning");
    // nothing of the pages' marks is left
    for (const ManualEntry& entry : manual()) {
        CHECK(entry.text.find('`') == std::string::npos);
        CHECK(entry.text.size() > 5);
    }
}

TEST_CASE("an id that check shows leads to its class", "[ctl][manual]") {
    const auto by_id = find_in_manual(manual(), "chardev/serial0");
    REQUIRE(by_id.size() == 1);
    CHECK(by_id.front().name == "chardev");
    const auto engine = find_in_manual(manual(), "engine/device/virtio-net");
    REQUIRE(engine.size() == 1);
    CHECK(engine.front().name == "device");
    CHECK(engine.front().kind == "engine");
    CHECK(find_in_manual(manual(), "engine/memory").front().name == "memory");
    // a word that is a code and an outcome has both
    CHECK(find_in_manual(manual(), "rolled_back").size() == 2);
    CHECK(find_in_manual(manual(), "lod_failed").empty());
}

TEST_CASE("codes of error answers are explained with what to do", "[ctl][manual]") {
    CHECK(
        entry_of(Topic::request, "vm_not_found").text == "No such VM. 'qhupd-ctl list' shows all."
    );
}

TEST_CASE("a newer daemon's codes are explained in its words", "[ctl][manual]") {
    const std::vector<daemon::CodeView> codes{
        {"load_failed", "upgrade", 0, "rolled_back", "It was refused", "do this."},
        {"of_tomorrow", "upgrade", 0, "refused", "The moon is\x1b full", "wait."},
        {"of_tomorrow", "problem", 418, "refused", "A teapot", "Ask another."},
    };
    const auto merged = merge_codes(manual(), codes);
    CHECK(merged.size() == manual().size() + 2);
    const auto known = find_in_manual(merged, "load_failed");
    REQUIRE(known.size() == 1);
    CHECK(known.front().text == "It was refused; do this.");
    CHECK(known.front().details == find_in_manual(manual(), "load_failed").front().details);
    const auto fresh = find_in_manual(merged, "of_tomorrow");
    REQUIRE(fresh.size() == 2);
    CHECK(fresh.front().topic == Topic::upgrade);
    CHECK(fresh.front().kind == "refused");
    CHECK(fresh.front().text.find('\x1b') == std::string::npos);
    CHECK_FALSE(guest_after(fresh.front()).empty());
    CHECK(fresh.back().kind == "418");
    CHECK(fresh.back().text == "A teapot. Ask another.");
    // topics stay together, for the table of contents and the page
    CHECK(std::is_sorted(merged.begin(), merged.end(), [](const auto& a, const auto& b) {
        return a.topic < b.topic;
    }));
}

TEST_CASE("what a failure needs of a person is said with its code", "[ctl][manual]") {
    const std::string text = render_entries(find_in_manual(manual(), "probe_failed"));
    CHECK(text.find("the guest runs on: ") != std::string::npos);
    CHECK(text.find("→ look at the guest") != std::string::npos);
    CHECK(text.find("needs_operator") != std::string::npos);
}

TEST_CASE("troff prints what it is given", "[ctl][manual]") {
    CHECK(troff_escaped(".TH is no request") == "\\&.TH is no request");
    CHECK(troff_escaped("--a'b\\n") == "\\-\\-a\\(aqb\\en");
    const std::string page =
        make_daemon_page("Usage: qhupd [--x]\n\nDoes it.\n\n  --x FILE     one\n               "
                         "two\n  --longer-one three\n\nExit "
                         "status: 0 good\n");
    CHECK(page.find("\\fB\\-\\-x FILE\\fR\none\ntwo\n") != std::string::npos);
    CHECK(page.find("\\fB\\-\\-longer\\-one\\fR\nthree\n") != std::string::npos);
}

TEST_CASE("an id with a name of its own leads to the class that has it", "[ctl][manual]") {
    const auto descriptor = find_in_manual(manual(), "fd/251");
    REQUIRE(descriptor.size() == 1);
    CHECK(descriptor.front().name == "descriptor");
    CHECK(render_entries(descriptor).find("251>&-") != std::string::npos);
    const auto limit = find_in_manual(manual(), "process/as"); // the second of two in a cell
    REQUIRE(limit.size() == 1);
    CHECK(limit.front().name == "limit");
    CHECK(find_in_manual(manual(), "process/kernel//boot/vmlinuz").front().name == "command-line");
    CHECK(find_in_manual(manual(), "fd/").empty());
    CHECK(find_in_manual(manual(), "nonsense/1").empty());
}

TEST_CASE("every phase is explained, in the words that a run shows", "[ctl][manual]") {
    std::size_t phases = 0;
    for (const ManualEntry& entry : manual()) {
        phases += entry.topic == Topic::phase ? 1 : 0;
        if (entry.topic == Topic::phase) {
            CHECK(phase_text(entry.name) == entry.kind);
        }
    }
    CHECK(phases == 11);
    CHECK(find_in_manual(manual(), "switch_over").front().text.starts_with("the guest is paused"));
}

TEST_CASE("a list shows whole clauses", "[ctl][manual]") {
    CHECK(
        first_clause("From what was measured, it is long; wait.") ==
        "From what was measured, it is long"
    );
    CHECK(first_clause("Since 10.0 it is so. Wait.") == "Since 10.0 it is so");
    CHECK(first_clause("no stop") == "no stop");
    const std::string all = render_contents(manual());
    CHECK(all.find("the pause would become longer than allowed") != std::string::npos);
}

TEST_CASE("the page of the configuration fills its sentences and keeps its keys", "[ctl][manual]") {
    const std::string page = make_config_page("# One sentence that is\n# long.\nkey = 3\n\n"
                                              "# [[policy]]\n# skip = true      # why\n");
    CHECK(page.find("One sentence that is\nlong.\n.nf\nkey = 3\n.fi\n") != std::string::npos);
    CHECK(page.find("# skip = true\n.fi\n.RS 4\nwhy\n.RE\n") != std::string::npos);
    CHECK(page.find("/run/qhupd/qhupd.toml.d/*.toml") != std::string::npos);
    CHECK(page.find(".SH FILES\n") != std::string::npos);
    CHECK(page.find(".SH EXAMPLES\n") != std::string::npos);
}
