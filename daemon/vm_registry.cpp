// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_registry.hpp"

#include "common/as_user.hpp"
#include "common/log.hpp"
#include "common/unique_fd.hpp"
#include "daemon/probe.hpp"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

namespace qhup::daemon {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kGrace{150};       // for VMs that did not answer the last time
constexpr milliseconds kFreshEnough{200}; // an answer so young is not asked for again
constexpr milliseconds kTurn{10};         // who looks waits so long for VMs that are not asked yet
constexpr milliseconds kRest{250};        // and they wait so long for the answer to go out
constexpr milliseconds kAllAreAsked{30'000};
constexpr std::size_t kMaxSockets = 10'000;
constexpr std::size_t kProbesAtOnce = 64; // in each lane
constexpr std::size_t kMaxLabelBytes = 4096;

/// Whether who made a symbolic link may name the socket that it leads to: root, we, and the
/// socket's owner. A VM's QEMU may own the folder, and could have another VM found under a path of
/// its own, without its labels.
bool is_fair_link(const std::string& path) {
    struct stat link {};
    struct stat target {};
    return ::lstat(path.c_str(), &link) != 0 || !S_ISLNK(link.st_mode) || is_ours(link.st_uid) ||
           (::stat(path.c_str(), &target) == 0 && target.st_uid == link.st_uid);
}

/// The paths that match, sorted, each once. A pattern that cannot be read matches nothing.
std::vector<std::string> find_sockets(const std::vector<std::string>& patterns) {
    std::set<std::string> paths;
    for (const std::string& pattern : patterns) {
        ::glob_t found{};
        if (::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found) == 0) {
            for (std::size_t i = 0; i < found.gl_pathc && paths.size() < kMaxSockets; ++i) {
                if (is_fair_link(found.gl_pathv[i])) {
                    paths.insert(found.gl_pathv[i]);
                }
            }
        }
        ::globfree(&found);
    }
    return {paths.begin(), paths.end()};
}

/// The labels in the file beside a socket; none if there is no file. Only root and we say what a VM
/// is for: its QEMU may own the folder.
Result<VmLabels> read_labels(const std::string& socket) {
    const std::string path = socket + ".labels";
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat info {};
    if (!fd && errno == ENOENT) {
        return VmLabels();
    }
    const bool is_ours = fd && ::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
                         (info.st_uid == 0 || info.st_uid == ::geteuid()) &&
                         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    if (!is_ours) {
        return make_failure(
            Errc::invalid_argument,
            path + " is not used: it must be a file of root's that nobody else may write"
        );
    }
    std::string text(kMaxLabelBytes, '\0');
    const ssize_t size = ::pread(fd.get(), text.data(), text.size(), 0);
    if (size < 0 || static_cast<std::size_t>(size) == text.size()) {
        return make_failure(Errc::invalid_argument, path + " is not used: it is too long");
    }
    text.resize(static_cast<std::size_t>(size));
    return with_context(parse_labels(text), path + " is not used");
}

/// One socket that was found.
struct FoundSocket {
    std::string path;
    Result<VmLabels> labels;
};

} // namespace

/// What is known of one socket.
struct VmRegistry::Entry {
    Entry(std::string path, Strand own) : socket(std::move(path)), strand(std::move(own)) {}

    std::string socket;                  ///< path
    Strand strand;                       ///< of the VM
    std::string name;                    ///< of the VM; "" while it has none
    std::optional<std::string> claim;    ///< what QEMU said when it got that name
    std::shared_ptr<const VmProbe> last; ///< the last answer
    Clock::time_point asked;             ///< when it came
    bool is_probing = false;             ///< a probe is under way, or waits for its turn
    bool is_begun = false;               ///< it is under way
    bool is_listed = true;               ///< the socket is still there
    std::string run;                     ///< the run that has it
    VmLabels labels;                     ///< of its file
    std::string label_mistake;           ///< why they are not used; "": they are
    bool is_wanted = false;              ///< it is asked although a run has it
    std::optional<VmView> told;          ///< what followers know
};

/// Who is being asked.
struct VmRegistry::Asked {
    std::vector<std::shared_ptr<Entry>> expected; ///< answered the last time, or are new
    std::vector<std::shared_ptr<Entry>> silent;   ///< did not
};

VmRegistry::VmRegistry(
    asio::io_context& context,
    Strand home,
    asio::thread_pool& disk,
    TaskGroup& tasks,
    const Config& config
)
    : context_(context),
      home_(std::move(home)),
      disk_(disk),
      tasks_(tasks),
      discovery_(config.discovery),
      selftest_guests_(config.state_dir + "/selftest/*/qmp"),
      label_rules_(config.labels),
      probe_deadline_(config.deadlines.probe) {}

VmRegistry::~VmRegistry() = default;

void VmRegistry::use(const Config& config) {
    discovery_ = config.discovery;
    probe_deadline_ = config.deadlines.probe;
    label_rules_ = config.labels;
}

awaitable<void> VmRegistry::rescan() {
    std::vector<std::string> patterns = discovery_.qmp;
    patterns.push_back(selftest_guests_);
    auto search = [patterns] {
        std::vector<FoundSocket> found;
        for (std::string& path : find_sockets(patterns)) {
            Result<VmLabels> labels = read_labels(path);
            found.push_back({std::move(path), std::move(labels)});
        }
        return found;
    };
    const std::vector<FoundSocket> sockets = co_await blocking(disk_, std::move(search));
    std::set<std::string> present;
    for (const FoundSocket& socket : sockets) {
        auto& entry = entries_[socket.path];
        if (!entry) {
            entry = std::make_shared<Entry>(socket.path, asio::make_strand(context_));
        }
        take_labels(*entry, socket.labels);
        present.insert(socket.path);
    }
    for (auto it = entries_.begin(); it != entries_.end();) {
        it->second->is_listed = present.count(it->first) != 0;
        const bool is_in_use = !it->second->run.empty() || it->second->is_probing;
        const bool is_gone = !it->second->is_listed && !is_in_use;
        if (is_gone) {
            tell_gone(*it->second);
        }
        it = is_gone ? entries_.erase(it) : std::next(it);
    }
    rename_all();
}

void VmRegistry::take_labels(Entry& entry, const Result<VmLabels>& read) const {
    const std::string mistake = read.has_error() ? to_text(read.error()) : std::string();
    if (mistake != entry.label_mistake && !mistake.empty()) {
        log().warn("{}", mistake);
    }
    entry.label_mistake = mistake;
    entry.labels = read.has_value() ? *read : VmLabels();
}

void VmRegistry::rename_all() {
    is_renaming_due_ = false;
    std::vector<ProbedSocket> sockets;
    std::vector<std::shared_ptr<Entry>> order;
    for (const auto& [path, entry] : entries_) {
        sockets.push_back(
            {.path = path,
             .last = entry->last,
             .name = entry->name,
             .claim = entry->claim,
             .is_in_run = !entry->run.empty()}
        );
        order.push_back(entry);
    }
    const std::vector<std::string> names = choose_names(sockets);
    names_.clear();
    for (std::size_t i = 0; i < order.size(); ++i) {
        const std::optional<std::string> claim = claim_of(sockets[i]);
        if (claim && !sockets[i].is_in_run) {
            order[i]->claim = claim;
        }
        order[i]->name = names[i];
        if (!names[i].empty()) {
            names_[names[i]] = order[i]->socket;
        }
        tell_change(*order[i]);
    }
}

void VmRegistry::tell_gone(Entry& entry) const {
    if (on_change_ && entry.told) {
        on_change_(EventType::vm_gone, *entry.told);
    }
    entry.told.reset();
}

void VmRegistry::set_attention(FindAttention find, OnLook on_look) {
    find_attention_ = std::move(find);
    on_look_ = std::move(on_look);
}

void VmRegistry::tell_look(const Entry& entry) const {
    // why: since a run gave it back it must have been asked once more.
    const bool is_asked = entry.last && entry.last->answers && entry.asked != Clock::time_point();
    if (on_look_ && is_asked && entry.run.empty() && !entry.name.empty()) {
        on_look_(entry.name, *entry.last);
    }
}

void VmRegistry::tell_looks() const {
    for (const auto& [path, entry] : entries_) {
        tell_look(*entry);
    }
}

void VmRegistry::tell_change(Entry& entry) const {
    tell_look(entry);
    // why: what is known of a VM in a run is old; the run tells of it.
    if (!on_change_ || !entry.last || !entry.run.empty()) {
        return;
    }
    VmView now = view_of(entry);
    now.age_ms = 0;
    if (now.name.empty() || (entry.told && entry.told->name != now.name)) {
        tell_gone(entry);
    }
    if (now.name.empty() || entry.told == now) {
        return;
    }
    on_change_(entry.told ? EventType::vm_changed : EventType::vm_found, now);
    entry.told = std::move(now);
}

void VmRegistry::start_probe(const std::shared_ptr<Entry>& entry) {
    if (!entry->is_probing && entry->run.empty()) {
        queue_probe(entry);
    }
}

void VmRegistry::queue_probe(const std::shared_ptr<Entry>& entry) {
    entry->is_probing = true;
    const bool is_silent = entry->last && !entry->last->answers;
    (is_silent ? silent_ : answering_).waiting.push_back(entry);
    start_waiting_probes();
}

void VmRegistry::start_waiting_probes() {
    if (Clock::now() < rest_until_) {
        return;
    }
    for (Lane* lane : {&answering_, &silent_}) {
        while (!lane->waiting.empty() && lane->under_way < kProbesAtOnce) {
            const auto entry = lane->waiting.front();
            lane->waiting.pop_front();
            ++lane->under_way;
            entry->is_begun = true;
            tasks_.spawn("probe of " + entry->socket, run_probe(entry, lane == &silent_));
        }
    }
}

awaitable<void> VmRegistry::rest_from_probes() {
    rest_until_ = Clock::now() + kRest;
    (void)co_await sleep_until(Deadline::in(kRest));
    start_waiting_probes();
}

void VmRegistry::end_rest() {
    rest_until_ = {};
    start_waiting_probes();
}

/// Whether another socket of this process has a name: of two monitors one gets what the new QEMU
/// says before the other does, and passes for another VM until then.
bool VmRegistry::is_named_elsewhere(const Entry& entry, const VmProbe& probe) const {
    return std::any_of(entries_.begin(), entries_.end(), [&entry, &probe](const auto& each) {
        const Entry& other = *each.second;
        return &other != &entry && !other.name.empty() && other.last &&
               other.last->facts.claimed_pid == probe.facts.claimed_pid;
    });
}

awaitable<void> VmRegistry::run_probe(std::shared_ptr<Entry> entry, bool is_silent) {
    const bool is_wanted = std::exchange(entry->is_wanted, false);
    if (entry->run.empty() || is_wanted) {
        auto look = probe_vm(entry->strand, entry->socket, probe_deadline_);
        VmProbe probe = co_await on_executor(entry->strand, std::move(look));
        const bool answered_before = !entry->last || entry->last->answers;
        if (!probe.answers && answered_before && probe.why) {
            log().info("{}: {}", entry->socket, reason_of(*probe.why, entry->socket));
        }
        if (!probe.answers && entry->last) {
            // why: a VM that falls silent keeps its name.
            probe.facts.name = entry->last->facts.name;
        }
        is_renaming_due_ = is_renaming_due_ || !entry->last ||
                           entry->last->facts.name != probe.facts.name ||
                           entry->last->answers != probe.answers ||
                           (entry->last->facts.claimed_pid != probe.facts.claimed_pid &&
                            is_named_elsewhere(*entry, probe));
        entry->last = std::make_shared<const VmProbe>(std::move(probe));
        entry->asked = Clock::now();
    }
    entry->is_probing = false;
    entry->is_begun = false;
    --(is_silent ? silent_ : answering_).under_way;
    start_waiting_probes();
    // why: names are chosen for all VMs together; once, when the last answer of many is here.
    if (is_renaming_due_ && answering_.under_way == 0) {
        rename_all();
    } else if (!is_renaming_due_) {
        tell_change(*entry);
    }
    for (const auto& waiter : waiters_) {
        waiter->notify();
    }
}

awaitable<void>
VmRegistry::wait_for_probes(std::vector<std::shared_ptr<Entry>> entries, milliseconds patience) {
    // why: each is looked at until its probe is over once, not again at every answer of many.
    const auto is_quiet = [&entries] {
        while (!entries.empty() && !entries.back()->is_probing) {
            entries.pop_back();
        }
        return entries.empty();
    };
    const auto waiter = std::make_shared<Notifier>(home_);
    waiters_.push_back(waiter);
    const Deadline deadline = Deadline::in(patience);
    bool is_over = false;
    while (!is_quiet() && !is_over) {
        const auto waited = co_await waiter->wait(deadline);
        is_over = waited.has_error();
    }
    waiters_.erase(std::remove(waiters_.begin(), waiters_.end(), waiter), waiters_.end());
    if (is_renaming_due_) {
        rename_all();
    }
}

VmRegistry::Asked VmRegistry::ask_all() {
    end_rest();
    std::vector<std::shared_ptr<Entry>> order;
    for (const auto& [path, entry] : entries_) {
        const bool is_fresh =
            entry->last && entry->last->answers && Clock::now() - entry->asked < kFreshEnough;
        if (!is_fresh) {
            order.push_back(entry);
        }
    }
    // why: newcomers first, then who was asked longest ago.
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a->asked < b->asked;
    });
    Asked asked;
    for (const auto& entry : order) {
        start_probe(entry);
        const bool answers = !entry->last || entry->last->answers;
        (answers ? asked.expected : asked.silent).push_back(entry);
    }
    return asked;
}

awaitable<void> VmRegistry::refresh() {
    co_await rescan();
    Asked asked = ask_all();
    const Clock::time_point begin = Clock::now();
    co_await wait_for_probes(std::move(asked.expected), probe_deadline_ + kGrace);
    const auto used = std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
    if (used < kGrace) {
        co_await wait_for_probes(std::move(asked.silent), kGrace - used);
    }
}

awaitable<void> VmRegistry::refresh_some() {
    co_await rescan();
    Asked asked = ask_all();
    const Clock::time_point begin = Clock::now();
    co_await wait_for_probes(asked.expected, kTurn);
    // why: who is being asked answers within milliseconds, and few are at a time. Who is not would
    // take the processors from the answer.
    if (!answering_.waiting.empty()) {
        tasks_.spawn("rest from probes", rest_from_probes());
    }
    std::vector<std::shared_ptr<Entry>>& left = asked.expected;
    const auto waits = [](const auto& entry) { return !entry->is_begun; };
    left.erase(std::remove_if(left.begin(), left.end(), waits), left.end());
    co_await wait_for_probes(std::move(left), probe_deadline_ + kGrace);
    const auto used = std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
    if (used < kGrace) {
        co_await wait_for_probes(std::move(asked.silent), kGrace - used);
    }
}

awaitable<void> VmRegistry::refresh_vm(std::string name) {
    if (!entry_of(name)) {
        co_await refresh();
        co_return;
    }
    const auto entry = entry_of(name);
    const bool is_fresh =
        entry->last && entry->last->answers && Clock::now() - entry->asked < kFreshEnough;
    if (!is_fresh) {
        start_probe(entry);
        end_rest();
        std::vector<std::shared_ptr<Entry>> entries;
        entries.push_back(entry);
        co_await wait_for_probes(std::move(entries), probe_deadline_ + kGrace);
    }
}

awaitable<void> VmRegistry::wait_quiet(std::string name) {
    const auto entry = entry_of(name);
    if (entry) {
        end_rest();
        std::vector<std::shared_ptr<Entry>> entries;
        entries.push_back(entry);
        co_await wait_for_probes(std::move(entries), 2 * probe_deadline_ + kGrace);
    }
}

awaitable<void> VmRegistry::look_at_acquired(std::string name) {
    std::shared_ptr<Entry> entry = entry_of(name);
    if (!entry) {
        // why: a VM that has not been asked yet does not have its own name.
        end_rest();
        std::vector<std::shared_ptr<Entry>> all;
        for (const auto& [path, each] : entries_) {
            all.push_back(each);
        }
        co_await wait_for_probes(std::move(all), kAllAreAsked);
        entry = entry_of(name);
    }
    if (!entry) {
        co_return;
    }
    entry->is_wanted = true;
    bool is_given_up = false;
    // A probe that waits for its turn will do; one that is under way may have asked before.
    while ((entry->is_wanted || entry->is_probing) && !is_given_up) {
        if (!entry->is_probing) {
            queue_probe(entry);
        }
        end_rest();
        std::vector<std::shared_ptr<Entry>> entries;
        entries.push_back(entry);
        co_await wait_for_probes(std::move(entries), probe_deadline_ + kGrace);
        is_given_up = co_await was_cancelled();
    }
}

std::shared_ptr<VmRegistry::Entry> VmRegistry::entry_of(std::string_view name) const {
    const auto path = names_.find(std::string(name));
    if (path == names_.end()) {
        return nullptr;
    }
    const auto entry = entries_.find(path->second);
    return entry == entries_.end() ? nullptr : entry->second;
}

VmView VmRegistry::view_of(const Entry& entry) const {
    VmView view = make_vm_view(entry.name, entry.socket, entry.last.get());
    view.run = entry.run;
    view.labels = labels_of(label_rules_, entry.name, entry.labels);
    view.attention = find_attention_ ? find_attention_(entry.name) : std::nullopt;
    view.upgradable = view.upgradable && view.run.empty();
    if (entry.last) {
        const auto age = std::chrono::duration_cast<milliseconds>(Clock::now() - entry.asked);
        view.age_ms = static_cast<std::uint64_t>(age.count());
    }
    return view;
}

std::vector<VmView> VmRegistry::list() const {
    std::vector<VmView> views;
    for (const auto& [name, path] : names_) {
        views.push_back(view_of(*entries_.find(path)->second));
    }
    return views;
}

std::optional<VmView> VmRegistry::find(std::string_view name) const {
    const auto entry = entry_of(name);
    return entry ? std::optional<VmView>(view_of(*entry)) : std::nullopt;
}

std::vector<std::string> VmRegistry::names() const {
    std::vector<std::string> names;
    for (const auto& [name, path] : names_) {
        names.push_back(name);
    }
    return names;
}

VmLabels VmRegistry::labels_of_vm(std::string_view name) const {
    const auto entry = entry_of(name);
    return labels_of(label_rules_, name, entry ? entry->labels : VmLabels());
}

std::optional<VmHandle> VmRegistry::handle_of(std::string_view name) const {
    const auto entry = entry_of(name);
    if (!entry) {
        return std::nullopt;
    }
    const bool is_in_upgrade = entry->last && entry->last->answers && entry->last->is_patched &&
                               entry->last->facts.state != upgrade::PairState::none;
    return VmHandle{
        .name = entry->name,
        .socket = entry->socket,
        .strand = entry->strand,
        .listener_pid = entry->last ? entry->last->listener_pid : 0,
        .listener_uid = entry->last ? entry->last->listener_uid : 0,
        .claimed_pid = entry->last ? entry->last->facts.claimed_pid : 0,
        .unfinished = is_in_upgrade ? entry->last->facts.upgrade.text() : std::string(),
    };
}

bool VmRegistry::acquire(std::string_view name, const std::string& run) {
    const auto entry = entry_of(name);
    if (!entry || !entry->run.empty()) {
        return false;
    }
    entry->run = run;
    return true;
}

void VmRegistry::release(std::string_view name) {
    const auto entry = entry_of(name);
    if (entry) {
        entry->run.clear();
        entry->asked = {};
        start_probe(entry);
    }
}

std::string VmRegistry::run_of(std::string_view name) const {
    const auto entry = entry_of(name);
    return entry ? entry->run : std::string();
}

awaitable<void> VmRegistry::run_rescans() {
    for (bool is_stopped = false; !is_stopped;) {
        co_await rescan();
        // why: only newcomers are asked; an idle daemon keeps its hands off everybody's monitor.
        for (const auto& [path, entry] : entries_) {
            if (!entry->last) {
                start_probe(entry);
            }
        }
        const auto slept = co_await sleep_until(Deadline::in(discovery_.interval));
        is_stopped = slept.has_error();
    }
}

} // namespace qhup::daemon
