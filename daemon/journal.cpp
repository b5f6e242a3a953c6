// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/journal.hpp"

#include "common/log.hpp"
#include "daemon/fault_points.hpp"
#include "daemon/journal_db.hpp"

#include <boost/asio/steady_timer.hpp>

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

using OnDone = std::function<void(const Result<void>&)>;

std::int64_t unix_ms_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

/// Opens the journal; what cannot be used is set aside first.
///
/// @param was_set_aside  set to true if that happened
Result<JournalDb> open_or_replace(const std::string& path, bool& was_set_aside) {
    auto opened = JournalDb::open(path);
    if (opened.has_value() || opened.error().code == make_error_code(JournalErrc::unavailable)) {
        return opened;
    }
    const auto aside = set_journal_aside(path, unix_ms_now());
    if (aside.has_error()) {
        Failure failure = opened.error();
        add_also(failure, aside.error());
        return failure;
    }
    was_set_aside = true;
    log().warn(
        "{}. It is kept as {}, and a fresh journal is made; what was unfinished is found by "
        "looking "
        "at the VMs",
        to_text(opened.error()),
        *aside
    );
    return JournalDb::open(path);
}

/// As SIGKILL from outside: nothing is cleaned up.
void die_if(bool is_due) {
    if (is_due) {
        ::kill(::getpid(), SIGKILL);
        ::pause();
    }
}

/// A coroutine that waits on the home strand for the thread.
template <class T>
struct Waiter {
    explicit Waiter(const asio::any_io_executor& executor) : changed(executor) {}
    Notifier changed;
    std::optional<T> answer;
};

} // namespace

/// Everything here belongs to the journal's thread.
struct Journal::State : std::enable_shared_from_this<Journal::State> {
    /// Changes that came together, and who waits for them.
    struct Order {
        std::vector<JournalChange> changes;
        IfNotWritten policy = IfNotWritten::keep;
        OnDone on_done;
    };

    State(asio::any_io_executor home_in, std::string path_in, OnReplaced on_replaced_in, Options o)
        : home(std::move(home_in)),
          path(std::move(path_in)),
          on_replaced(std::move(on_replaced_in)),
          options(std::move(o)) {}

    JournalContents open() {
        auto opened = open_or_replace(path, was_set_aside);
        was_set_aside = false; // nobody has put anything yet
        if (opened.has_error()) {
            say_bad(opened.error());
            return {};
        }
        db.emplace(std::move(*opened));
        return {db->take_runs(), db->take_holds(), db->take_history()};
    }

    void add(Order order) {
        orders.push_back(std::move(order));
        // why: orders that are queued on this thread already come before the flush, and share it.
        if (!is_flush_posted) {
            is_flush_posted = true;
            asio::post(timer->get_executor(), [self = shared_from_this()] { self->flush(); });
        }
    }

    void flush() {
        is_flush_posted = false;
        if (is_closed) {
            return;
        }
        std::vector<JournalChange> changes = kept;
        for (const Order& order : orders) {
            changes.insert(changes.end(), order.changes.begin(), order.changes.end());
        }
        die_if(is_fault_point(options.fault, changes, "before"));
        const Result<void> written = write(changes);
        die_if(written.has_value() && is_fault_point(options.fault, changes, "after"));
        std::vector<Order> done = std::exchange(orders, {});
        if (written.has_error()) {
            say_bad(written.error());
            keep_what_must_be(done);
            retry_later();
        } else {
            kept.clear();
            say_good();
        }
        if (std::exchange(was_set_aside, false) && on_replaced) {
            asio::post(home, on_replaced);
        }
        for (const Order& order : done) {
            if (order.on_done) {
                order.on_done(written);
            }
        }
    }

    Result<void> write(const std::vector<JournalChange>& changes) {
        if (db && db->is_gone()) {
            log().warn("the journal {} was removed or replaced; a fresh one is made", path);
            std::move(*db).leave();
            db.reset();
            was_set_aside = true;
            const auto aside = set_journal_aside(path, unix_ms_now()); // what is there now
            if (aside.has_error()) {
                return aside.error();
            }
        }
        if (!db) {
            auto opened = open_or_replace(path, was_set_aside);
            if (opened.has_error()) {
                return opened.error();
            }
            db.emplace(std::move(*opened));
        }
        if (changes.empty()) {
            return {};
        }
        Result<void> written = db->write(changes);
        const bool is_damaged =
            written.has_error() && written.error().code == make_error_code(JournalErrc::damaged);
        if (!is_damaged) {
            return written;
        }
        db.reset();
        auto opened = open_or_replace(path, was_set_aside);
        if (opened.has_error()) {
            return opened.error();
        }
        db.emplace(std::move(*opened));
        return db->write(changes);
    }

    void keep_what_must_be(const std::vector<Order>& failed) {
        for (const Order& order : failed) {
            if (order.policy == IfNotWritten::keep) {
                kept.insert(kept.end(), order.changes.begin(), order.changes.end());
            }
        }
        kept = merged(std::move(kept));
    }

    void retry_later() {
        timer->expires_after(options.retry);
        timer->async_wait([self = shared_from_this()](const error_code& error) {
            if (!error) {
                self->flush();
            }
        });
    }

    std::size_t close() {
        const bool was_used = db || !orders.empty() || !kept.empty();
        if (was_used) {
            flush();
        }
        is_closed = true;
        timer->cancel();
        db.reset();
        return kept.size();
    }

    void say_bad(const Failure& failure) {
        const std::string text = to_text(failure);
        if (text != complaint) {
            log().error(
                "{}. Until it can be written, no upgrade is begun; results wait in memory", text
            );
            complaint = text;
        }
    }

    void say_good() {
        if (!complaint.empty()) {
            log().info("the journal {} can be written again", path);
            complaint.clear();
        }
    }

    asio::any_io_executor home;
    std::string path;
    OnReplaced on_replaced;
    Options options;
    std::optional<asio::steady_timer> timer; // of the thread; set before anything is posted to it
    std::optional<JournalDb> db;
    std::vector<Order> orders;
    std::vector<JournalChange> kept; // results that could not be written yet
    bool is_flush_posted = false;
    bool was_set_aside = false;
    bool is_closed = false;
    std::string complaint; // the last thing that was wrong, said once
};

Journal::Journal(
    asio::any_io_executor home, std::string path, OnReplaced on_replaced, Options options
)
    : home_(std::move(home)),
      state_(std::make_shared<State>(
          home_, std::move(path), std::move(on_replaced), std::move(options)
      )),
      thread_(1) {
    state_->timer.emplace(thread_.get_executor());
}

Journal::~Journal() {
    asio::post(thread_, [state = state_] {
        if (!state->is_closed) {
            (void)state->close();
        }
    });
    thread_.join();
    state_->timer.reset(); // before the pool that it belongs to
}

struct Journal::Opening : Waiter<JournalContents> {
    using Waiter::Waiter;
};

awaitable<JournalContents> Journal::open(Deadline deadline) {
    const auto opening = std::make_shared<Opening>(home_);
    asio::post(thread_, [state = state_, opening] {
        auto contents = state->open();
        asio::post(state->home, [opening, contents = std::move(contents)]() mutable {
            opening->answer = std::move(contents);
            opening->changed.notify();
        });
    });
    return wait_for(opening, deadline);
}

awaitable<JournalContents> Journal::wait_for(std::shared_ptr<Opening> opening, Deadline deadline) {
    const auto waited = co_await opening->changed.wait(deadline);
    if (waited.has_error()) {
        log().error(
            "the journal takes too long to open; what was unfinished is found by looking at the VMs"
        );
        co_return JournalContents();
    }
    co_return std::move(*opening->answer);
}

awaitable<Result<void>>
Journal::write(std::vector<JournalChange> changes, IfNotWritten policy, Deadline deadline) {
    const auto waiter = std::make_shared<Waiter<Result<void>>>(home_);
    OnDone on_done = [home = home_, waiter](const Result<void>& written) {
        asio::post(home, [waiter, written] {
            waiter->answer = written;
            waiter->changed.notify();
        });
    };
    State::Order order{std::move(changes), policy, std::move(on_done)};
    asio::post(thread_, [state = state_, order = std::move(order)]() mutable {
        state->add(std::move(order));
    });
    const Result<void> waited = co_await waiter->changed.wait(deadline);
    if (waited.has_error()) {
        co_return with_context(waited.error(), "waiting for the journal's disk");
    }
    co_return std::move(*waiter->answer);
}

void Journal::put(std::vector<JournalChange> changes) {
    State::Order order{std::move(changes), IfNotWritten::keep, {}};
    asio::post(thread_, [state = state_, order = std::move(order)]() mutable {
        state->add(std::move(order));
    });
}

awaitable<std::size_t> Journal::close(Deadline deadline) {
    const auto waiter = std::make_shared<Waiter<std::size_t>>(home_);
    asio::post(thread_, [state = state_, waiter] {
        const std::size_t left = state->close();
        asio::post(state->home, [waiter, left] {
            waiter->answer = left;
            waiter->changed.notify();
        });
    });
    const auto waited = co_await waiter->changed.wait(deadline);
    if (waited.has_error()) {
        log().error("the journal's disk does not answer");
    }
    co_return waiter->answer.value_or(0);
}

} // namespace qhup::daemon
