// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/scheduler.hpp"

#include <algorithm>
#include <random>
#include <vector>

using namespace qhup::upgrade;

namespace {

using Grants = std::vector<Grant>;

std::vector<Ticket> add_vms(Scheduler& scheduler, BatchId batch, int count) {
    std::vector<Ticket> tickets;
    for (int i = 0; i < count; ++i) {
        tickets.push_back(scheduler.add_vm(batch));
    }
    return tickets;
}

} // namespace

TEST_CASE("VMs start in the order in which they were added", "[upgrade][scheduler]") {
    Scheduler scheduler({2, 1});
    const auto vms = add_vms(scheduler, scheduler.add_batch({8, 0}), 3);
    CHECK(
        scheduler.next_grants() == Grants{{vms[0], GrantKind::start}, {vms[1], GrantKind::start}}
    );
    CHECK(scheduler.next_grants().empty());
}

TEST_CASE("a prepared VM gives its prepare slot to the next", "[upgrade][scheduler]") {
    Scheduler scheduler({1, 1});
    const auto vms = add_vms(scheduler, scheduler.add_batch({8, 0}), 2);
    (void)scheduler.next_grants();
    scheduler.on_prepared(vms[0]);
    CHECK(
        scheduler.next_grants() == Grants{{vms[0], GrantKind::pause}, {vms[1], GrantKind::start}}
    );
}

TEST_CASE("no more VMs are in work than the batch allows", "[upgrade][scheduler]") {
    Scheduler scheduler({8, 8});
    const auto vms = add_vms(scheduler, scheduler.add_batch({1, 0}), 2);
    CHECK(scheduler.next_grants() == Grants{{vms[0], GrantKind::start}});
    scheduler.on_prepared(vms[0]);
    CHECK(scheduler.next_grants() == Grants{{vms[0], GrantKind::pause}});
    scheduler.on_pause_over(vms[0]);
    CHECK(scheduler.next_grants().empty()); // still in verify
    scheduler.on_finished(vms[0], false);
    CHECK(scheduler.next_grants() == Grants{{vms[1], GrantKind::start}});
}

TEST_CASE("one pause slot is held by one VM at a time", "[upgrade][scheduler]") {
    Scheduler scheduler({8, 1});
    const auto vms = add_vms(scheduler, scheduler.add_batch({8, 0}), 3);
    (void)scheduler.next_grants();
    scheduler.on_prepared(vms[2]);
    CHECK(scheduler.next_grants() == Grants{{vms[2], GrantKind::pause}});
    scheduler.on_prepared(vms[1]);
    scheduler.on_prepared(vms[0]);
    CHECK(scheduler.next_grants().empty());
    scheduler.on_pause_over(vms[2]);
    CHECK(scheduler.next_grants() == Grants{{vms[0], GrantKind::pause}}); // first in order
    scheduler.on_finished(vms[0], true);                                  // dies in its pause
    CHECK(scheduler.next_grants() == Grants{{vms[1], GrantKind::pause}});
}

TEST_CASE("after enough failures no further VM is touched", "[upgrade][scheduler]") {
    Scheduler scheduler({8, 1});
    const BatchId batch = scheduler.add_batch({3, 2});
    const auto vms = add_vms(scheduler, batch, 5);
    (void)scheduler.next_grants();
    scheduler.on_prepared(vms[2]);
    scheduler.on_prepared(vms[1]);
    CHECK(scheduler.next_grants() == Grants{{vms[1], GrantKind::pause}});
    scheduler.on_finished(vms[0], true);
    CHECK_FALSE(scheduler.is_stopped(batch));
    CHECK(scheduler.next_grants() == Grants{{vms[3], GrantKind::start}});
    scheduler.on_finished(vms[3], true);
    CHECK(scheduler.is_stopped(batch));
    // the one in its pause finishes; the one that waits and the one in the queue do not go on
    CHECK(scheduler.next_grants() == Grants{{vms[2], GrantKind::stop}, {vms[4], GrantKind::stop}});
    scheduler.on_pause_over(vms[1]);
    scheduler.on_finished(vms[1], false);
    CHECK(scheduler.next_grants().empty());
}

TEST_CASE("a stopped batch leaves other batches alone", "[upgrade][scheduler]") {
    Scheduler scheduler({1, 1});
    const BatchId first = scheduler.add_batch({8, 0});
    const BatchId second = scheduler.add_batch({8, 0});
    const auto a = add_vms(scheduler, first, 1);
    const auto b = add_vms(scheduler, second, 1);
    scheduler.on_stop(first);
    CHECK(scheduler.next_grants() == Grants{{a[0], GrantKind::stop}, {b[0], GrantKind::start}});
    CHECK_FALSE(scheduler.is_stopped(second));
}

TEST_CASE("finishing twice gives nothing back twice", "[upgrade][scheduler]") {
    Scheduler scheduler({8, 8});
    const BatchId batch = scheduler.add_batch({1, 2});
    const auto vms = add_vms(scheduler, batch, 3);
    (void)scheduler.next_grants();
    scheduler.on_finished(vms[0], true);
    scheduler.on_finished(vms[0], true);
    CHECK_FALSE(scheduler.is_stopped(batch));
    CHECK(scheduler.next_grants() == Grants{{vms[1], GrantKind::start}});
}

TEST_CASE("limits of zero let one VM through", "[upgrade][scheduler]") {
    Scheduler scheduler({0, 0});
    const auto vms = add_vms(scheduler, scheduler.add_batch({0, 0}), 1);
    CHECK(scheduler.next_grants() == Grants{{vms[0], GrantKind::start}});
    scheduler.on_prepared(vms[0]);
    CHECK(scheduler.next_grants() == Grants{{vms[0], GrantKind::pause}});
}

TEST_CASE("whatever happens, the limits hold and every VM is served", "[upgrade][scheduler]") {
    std::mt19937 random(7); // fixed: the run is the same each time
    for (int round = 0; round < 50; ++round) {
        const auto pick = [&](unsigned most) {
            return 1U + static_cast<unsigned>(random()) % most;
        };
        const SchedulerLimits limits{pick(4), pick(3)};
        const BatchLimits batch_limits{pick(6), 0};
        Scheduler scheduler(limits);
        const auto vms = add_vms(scheduler, scheduler.add_batch(batch_limits), 20);
        std::vector<Ticket> preparing;
        std::vector<Ticket> waiting;
        std::vector<Ticket> pausing;
        std::vector<Ticket> after;
        std::size_t done = 0;
        const auto take = [&](std::vector<Ticket>& from) {
            const auto at = from.begin() + static_cast<std::ptrdiff_t>(random() % from.size());
            const Ticket ticket = *at;
            from.erase(at);
            return ticket;
        };
        while (done < vms.size()) {
            for (const Grant& grant : scheduler.next_grants()) {
                if (grant.kind == GrantKind::start) {
                    preparing.push_back(grant.ticket);
                } else {
                    REQUIRE(grant.kind == GrantKind::pause);
                    waiting.erase(std::find(waiting.begin(), waiting.end(), grant.ticket));
                    pausing.push_back(grant.ticket);
                }
            }
            REQUIRE(preparing.size() <= limits.prepare_slots);
            REQUIRE(pausing.size() <= limits.pause_slots);
            REQUIRE(
                preparing.size() + waiting.size() + pausing.size() + after.size() <=
                batch_limits.parallel
            );
            REQUIRE(preparing.size() + pausing.size() + after.size() > 0); // nobody starves
            const unsigned what = static_cast<unsigned>(random()) % 4U;
            if (what == 0 && !preparing.empty()) {
                waiting.push_back(take(preparing));
                scheduler.on_prepared(waiting.back());
            } else if (what == 1 && !pausing.empty()) {
                after.push_back(take(pausing));
                scheduler.on_pause_over(after.back());
            } else if (what == 2 && !after.empty()) {
                scheduler.on_finished(take(after), false);
                ++done;
            } else if (what == 3 && !preparing.empty() && random() % 3 == 0) {
                scheduler.on_finished(take(preparing), true);
                ++done;
            }
        }
    }
}
