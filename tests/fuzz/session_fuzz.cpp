// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole connection: commands are submitted, written, given up, and the peer says what it likes.
// Each command is completed exactly once, and nothing follows the end.
//
// The input is a list of lines. The first character of each says what happens; "$" in what the peer
// says stands for the id of the oldest command that was written.
#include "qmp-client/session.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <map>
#include <utility>

using namespace qhup;
using fuzz::require;

namespace {

class Run {
public:
    void submit(std::string_view name) {
        const auto id = session_.submit({.name = std::string(name)});
        if (id.has_value()) {
            require(open_.emplace(*id, 0).second, "an id is new");
        }
        require(session_.pending() <= qmp::Session::kMaxPending + 1, "pending is bounded");
    }

    void write() {
        if (std::optional<qmp::Outgoing> line = session_.take_outgoing()) {
            require(line->line.ends_with('\n'), "a line has its end");
            require(line->line.find('\n') == line->line.size() - 1, "a command is one line");
            written_.push_back(line->id);
        }
    }

    void hear(std::string_view text) {
        std::string line(text);
        if (const std::size_t at = line.find('$'); at != std::string::npos && !written_.empty()) {
            line.replace(at, 1, qmp::format_id(written_.front()));
            written_.erase(written_.begin());
        }
        obey(session_.on_line(line));
    }

    void give_up(std::size_t index, qmp::Session::Why why) {
        if (open_.empty()) {
            return;
        }
        auto victim = open_.begin();
        std::advance(victim, static_cast<std::ptrdiff_t>(index % open_.size()));
        obey(session_.abandon(victim->first, why));
    }

    void close() { obey(session_.on_closed(make_failure(qmp::Errc::closed_by_peer, "the end"))); }
    void greeting_times_out() { obey(session_.on_greeting_timeout()); }

    void finish() {
        close();
        require(session_.state() == qmp::Session::State::closed, "it is closed");
        for (const auto& [id, completions] : open_) {
            require(completions == 1, "each command is completed exactly once");
        }
        require(ends_ <= 1, "there is one end");
        require(notes_ <= qmp::Session::kMaxNotes, "notes are bounded");
    }

private:
    void obey(const qmp::Actions& actions) {
        for (const qmp::Action& action : actions) {
            require(ends_ == 0, "nothing follows the end");
            if (const auto* const done = std::get_if<qmp::CompleteCommand>(&action)) {
                const auto found = open_.find(done->id);
                require(found != open_.end(), "only what was submitted is completed");
                require(++found->second == 1, "it is completed once");
            }
            ends_ += std::holds_alternative<qmp::EndSession>(action) ? 1U : 0U;
            notes_ += std::holds_alternative<qmp::Note>(action) ? 1U : 0U;
            const bool is_ready = std::holds_alternative<qmp::BecomeReady>(action);
            require(!is_ready || !std::exchange(was_ready_, true), "it becomes ready once");
        }
    }

    qmp::Session session_{7};
    std::map<qmp::CommandId, int> open_;
    std::vector<qmp::CommandId> written_;
    std::size_t ends_ = 0;
    std::size_t notes_ = 0;
    bool was_ready_ = false;
};

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    Run run;
    while (!input.is_empty()) {
        const std::string_view line = input.until('\n');
        const std::string_view rest = line.empty() ? line : line.substr(1);
        switch (line.empty() ? ' ' : line.front()) {
        case 's': run.submit(rest); break;
        case 'w': run.write(); break;
        case 'a': run.give_up(rest.size(), qmp::Session::Why::timed_out); break;
        case 'c': run.give_up(rest.size(), qmp::Session::Why::cancelled); break;
        case 'g': run.greeting_times_out(); break;
        case 'x': run.close(); break;
        default: run.hear(line); break;
        }
    }
    run.finish();
    return 0;
}
