// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/selftests.hpp"

#include "common/log.hpp"
#include "daemon/problems.hpp"
#include "daemon/selftest_host.hpp"
#include "daemon/selftest_judge.hpp"
#include "daemon/wall_clock.hpp"
#include "upgrade-engine/service_manager.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>
#include <set>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{100};        // between two looks at a guest or a run
constexpr milliseconds kPatience{60'000}; // with a guest's QMP socket
constexpr std::uint64_t kNumbersBefore = 5;
constexpr std::uint64_t kNumbersAfter = 20;
constexpr std::size_t kMostKept = 200;
constexpr std::size_t kMostLog = 16'384;
// why: a process that becomes another program has no command line for a moment.
constexpr int kLooksUntilGone = 3;
constexpr std::uint64_t kUnwritten = 1; // numbers that are said and not on the disk yet

std::string folder_of_guests(const Config& config) {
    return config.state_dir + "/selftest";
}

std::string path_of_results(const Config& config) {
    return config.state_dir + "/selftests.json";
}

} // namespace

Selftests::Selftests(
    asio::thread_pool& disk,
    TaskGroup& tasks,
    VmRegistry& registry,
    ReleaseShelf& shelf,
    UpgradeRuns& runs,
    const Config& config
)
    : disk_(disk),
      tasks_(tasks),
      registry_(registry),
      shelf_(shelf),
      runs_(runs),
      config_(config),
      kernel_(kernel_release()) {}

awaitable<void> Selftests::open() {
    auto load = [path = path_of_results(config_)] { return load_selftests(path); };
    const std::string text = co_await blocking(disk_, std::move(load));
    const auto parsed = parse_json(text);
    if (parsed.has_value()) {
        finished_ = selftests_from_json(*parsed);
    } else if (!text.empty()) {
        log().warn("{} cannot be read; selftests count as not made", path_of_results(config_));
    }
    auto search = [folder = folder_of_guests(config_)] { return find_selftest_guests(folder); };
    const std::vector<std::string> left = co_await blocking(disk_, std::move(search));
    for (const std::string& folder : left) {
        const std::string name = std::filesystem::path(folder).filename().string();
        tasks_.spawn("end of " + name, end_leftover({.name = name, .folder = folder}));
    }
}

/// A guest of a daemon that was killed. What recovery does with it comes first.
awaitable<void> Selftests::end_leftover(Guest guest) {
    bool is_stopped = false;
    while (!is_stopped && !registry_.run_of(guest.name).empty()) {
        const auto slept = co_await sleep_until(Deadline::in(kLook));
        is_stopped = slept.has_error();
    }
    log().info("{}: a guest of a selftest that was not finished is ended", guest.name);
    auto end = [folder = guest.folder] {
        end_selftest_guest(folder);
        return 0;
    };
    (void)co_await blocking(disk_, std::move(end));
}

std::vector<SelftestView> Selftests::list() const {
    std::vector<SelftestView> views(finished_.rbegin(), finished_.rend());
    if (running_) {
        views.insert(views.begin(), running_->view);
    }
    return views;
}

std::optional<SelftestView> Selftests::find(const std::string& id) const {
    for (const SelftestView& view : list()) {
        if (view.id == id) {
            return view;
        }
    }
    return std::nullopt;
}

std::optional<SelftestView>
Selftests::find_passed(const std::string& from_build_id, const std::string& to_build_id) const {
    const SelftestView* const found =
        daemon::find_passed(finished_, from_build_id, to_build_id, kernel_);
    return found != nullptr ? std::optional(*found) : std::nullopt;
}

/// The release that the VMs of this host run, if it is one; else the only other one.
awaitable<std::variant<std::string, Problem>> Selftests::choose_from(SelftestRequest request) {
    if (!request.from.empty()) {
        co_return request.from;
    }
    const std::vector<ReleaseView> releases = co_await shelf_.list();
    co_await registry_.refresh();
    std::set<std::string> running;
    for (const VmView& vm : registry_.list()) {
        running.insert(vm.build_id);
    }
    std::vector<std::string> others;
    std::vector<std::string> used;
    for (const ReleaseView& release : releases) {
        if (release.usable && release.name != request.to) {
            others.push_back(release.name);
            if (running.contains(release.build_id)) {
                used.push_back(release.name);
            }
        }
    }
    if (used.size() == 1) {
        co_return used.front();
    }
    if (used.empty() && others.size() == 1) {
        co_return others.front();
    }
    co_return make_problem(
        ProblemCode::bad_request,
        used.size() > 1 ? "VMs of this host run several releases, so say which one to begin with."
                        : "No VM says which release to begin with.",
        "Name it: --from RELEASE; 'qhupd-ctl releases' shows all. A QEMU becomes a release by a "
        "file in /etc/qhupd/releases.d."
    );
}

awaitable<std::variant<SelftestView, Problem>>
Selftests::start(SelftestRequest request, uid_t uid) {
    if (running_ || is_starting_) {
        co_return make_problem(
            ProblemCode::too_many_runs,
            "A selftest goes on already.",
            "Wait until it has finished; 'qhupd-ctl status' shows its run."
        );
    }
    is_starting_ = true;
    ReleaseShelf::Answer to = co_await shelf_.pick(request.to);
    auto chosen = co_await choose_from(request);
    const auto* name = std::get_if<std::string>(&chosen);
    ReleaseShelf::Answer from;
    if (name != nullptr && !to.problem) {
        from = co_await shelf_.pick(*name);
    }
    is_starting_ = false;
    if (to.problem || name == nullptr || from.problem) {
        co_return to.problem ? std::move(*to.problem)
        : name == nullptr    ? std::move(std::get<Problem>(chosen))
                             : std::move(*from.problem);
    }
    const auto test = std::make_shared<Test>();
    std::random_device chance;
    SelftestView& view = test->view;
    view.id = "s" + std::to_string(10'000'000 + chance() % 90'000'000);
    view.state = "starting";
    view.from = *name;
    view.to = request.to;
    view.from_build_id = from.picked->binary->build_id;
    view.to_build_id = to.picked->binary->build_id;
    view.kernel = kernel_;
    view.guests = request.guests;
    view.started_unix_ms = unix_ms_now();
    view.by_uid = static_cast<std::int64_t>(uid);
    if (test->view.from_build_id == test->view.to_build_id) {
        co_return make_problem(
            ProblemCode::bad_request,
            "The releases '" + *name + "' and '" + request.to + "' are the same binary.",
            "Name two that differ: 'qhupd-ctl releases' shows all."
        );
    }
    test->binary = upgrade::release_tail(from.picked->binary->release);
    test->binary.insert(test->binary.begin(), from.picked->binary->release.path);
    for (std::uint32_t i = 1; i <= request.guests; ++i) {
        const std::string guest =
            std::string(kSelftestGuests) + test->view.id + "-" + std::to_string(i);
        test->guests.push_back({.name = guest, .folder = folder_of_guests(config_) + "/" + guest});
    }
    running_ = test;
    log().info(
        "selftest {}: {} guests from {} to {}, asked for by uid {}",
        test->view.id,
        request.guests,
        test->view.from,
        test->view.to,
        uid
    );
    tasks_.spawn("selftest " + test->view.id, run(test));
    co_return test->view;
}

awaitable<void> Selftests::run(TestPtr test) {
    auto working = work(test);
    std::string problem = co_await std::move(working);
    const bool is_stopped = co_await was_cancelled();
    for (const Guest& guest : test->guests) {
        auto end = [folder = guest.folder] {
            end_selftest_guest(folder);
            return 0;
        };
        (void)co_await blocking(disk_, std::move(end));
    }
    SelftestView& view = test->view;
    view.state = "finished";
    view.finished_unix_ms = unix_ms_now();
    view.passed = problem.empty() && !is_stopped;
    view.message = is_stopped ? "qhupd was stopped before the selftest had finished" : problem;
    if (!view.passed) {
        view.next_step = view.run.empty()
                             ? "See the log of qhupd, mend what the message names, and try again."
                             : "'qhupd-ctl status " + view.run +
                                   "' shows the run; upgrade no VM to this release before it is "
                                   "understood.";
    }
    running_.reset();
    if (is_stopped) {
        co_return; // why: it says nothing about the pair, and must not hide what is known
    }
    log().log(
        view.passed ? spdlog::level::info : spdlog::level::err,
        "selftest {} from {} to {}: {}",
        view.id,
        view.from,
        view.to,
        view.passed ? "passed" : view.message
    );
    finished_.push_back(view);
    if (finished_.size() > kMostKept) {
        finished_.erase(finished_.begin());
    }
    co_await store();
}

awaitable<void> Selftests::store() {
    auto write = [path = path_of_results(config_), text = format_json(to_json(finished_)) + "\n"] {
        return store_selftests(path, text);
    };
    const Result<void> stored = co_await blocking(disk_, std::move(write));
    if (stored.has_error()) {
        log_failure("keeping the results of selftests", stored.error());
    }
}

/// @return  why it has not passed; "": it has
awaitable<std::string> Selftests::work(TestPtr test) {
    auto starting = start_guests(test);
    std::string problem = co_await std::move(starting);
    if (problem.empty()) {
        auto upgrading = upgrade_guests(test);
        problem = co_await std::move(upgrading);
    }
    if (problem.empty()) {
        auto judging = judge_guests(test);
        problem = co_await std::move(judging);
    }
    co_return problem;
}

awaitable<std::string> Selftests::start_guests(TestPtr test) {
    constexpr std::size_t kHugePageMib = 2;
    HostLimits& limits = test->limits;
    co_await look_at_vms(test);
    auto trying = try_vhost(test);
    limits.vhost = co_await std::move(trying);
    if (co_await was_cancelled()) {
        co_return "qhupd was stopped";
    }
    auto count = [] { return free_huge_pages(); };
    limits.huge_pages = co_await blocking(disk_, std::move(count));
    limits.wanted_pages = test->guests.size() * (kSelftestGuestMib / kHugePageMib);
    const bool has_hugepages = limits.huge_pages >= limits.wanted_pages;
    for (const Guest& guest : test->guests) {
        const auto arguments =
            selftest_arguments(test->binary, guest.name, guest.folder, has_hugepages);
        auto beginning = begin_guest(
            guest, selftest_command(arguments, guest.name, guest.folder, upgrade::has_systemd())
        );
        const std::string problem = co_await std::move(beginning);
        if (!problem.empty()) {
            co_return "guest " + guest.name + " was not started: " + problem;
        }
    }
    for (const Guest& guest : test->guests) {
        auto waiting = wait_until_it_counts(guest, kNumbersBefore);
        std::string problem = co_await std::move(waiting);
        if (!problem.empty()) {
            co_return problem;
        }
    }
    auto read = [folder = test->guests.front().folder] {
        return read_selftest_log(folder, kMostLog);
    };
    limits.log = co_await blocking(disk_, std::move(read));
    for (const Guest& guest : test->guests) {
        auto waiting = wait_until_it_answers(guest);
        std::string problem = co_await std::move(waiting);
        if (!problem.empty()) {
            co_return problem;
        }
        co_await look_at_guest(test, guest);
    }
    test->view.confinement = test->seen.back().label;
    co_return std::string();
}

/// What the VMs of this host use, so that the result can say what of it was not tried.
awaitable<void> Selftests::look_at_vms(TestPtr test) {
    auto look = [] { return has_libvirt(); };
    test->limits.has_libvirt = co_await blocking(disk_, std::move(look));
    co_await registry_.refresh();
    for (const VmView& vm : registry_.list()) {
        if (vm.pid != 0 && !is_selftest_guest(vm.name)) {
            auto observe = [pid = static_cast<pid_t>(vm.pid)] { return observe_host_use(pid); };
            test->vms.push_back(co_await blocking(disk_, std::move(observe)));
        }
    }
}

/// Starts a guest with vhost beside the others, asks it whether it could be upgraded, and ends it.
///
/// @return  why vhost cannot be tried
awaitable<std::string> Selftests::try_vhost(TestPtr test) {
    const std::string name = std::string(kSelftestGuests) + test->view.id + "-vhost";
    const Guest guest{.name = name, .folder = folder_of_guests(config_) + "/" + name};
    auto arguments = selftest_arguments(test->binary, name, guest.folder, false);
    const auto more = vhost_arguments();
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto beginning = begin_guest(
        guest, selftest_command(arguments, name, guest.folder, upgrade::has_systemd(), true)
    );
    std::string problem = co_await std::move(beginning);
    if (problem.empty()) {
        auto waiting = wait_until_it_answers(guest);
        problem = co_await std::move(waiting);
    }
    const auto seen = registry_.find(name);
    auto look = [folder = guest.folder, pid = seen ? static_cast<pid_t>(seen->pid) : 0] {
        const HostUse use = observe_host_use(pid);
        const std::string log = read_selftest_log(folder, kMostLog);
        end_selftest_guest(folder);
        return std::pair(use.has_vhost, log);
    };
    const auto [has_vhost, log] = co_await blocking(disk_, std::move(look));
    if (!problem.empty()) {
        co_return explain_no_vhost(log.empty() ? problem : log);
    }
    co_return explain_vhost(seen->blockers, has_vhost);
}

/// @return  why it was not started; "": it was
awaitable<std::string> Selftests::begin_guest(Guest guest, std::vector<std::string> command) {
    auto begin = [guest, command]() -> Result<void> {
        auto made = make_selftest_folder(guest.folder);
        if (made.has_error()) {
            return made;
        }
        auto begun = start_selftest_guest(command);
        if (begun.has_error()) {
            Failure failure = begun.error();
            failure.peer_text += read_selftest_log(guest.folder);
            return failure;
        }
        return begun;
    };
    const Result<void> begun = co_await blocking(disk_, std::move(begin));
    co_return begun.has_error() ? to_text(begun.error()) : std::string();
}

/// @return  why it cannot be asked; "": it answers
awaitable<std::string> Selftests::wait_until_it_answers(Guest guest) {
    const Deadline deadline = Deadline::in(kPatience);
    auto seen = registry_.find(guest.name);
    bool is_stopped = false;
    int absent = 0;
    while ((!seen || !seen->reachable) && absent < kLooksUntilGone && !is_stopped &&
           !deadline.is_over()) {
        auto ask = [folder = guest.folder] { return is_selftest_guest_running(folder); };
        const bool is_running = co_await blocking(disk_, std::move(ask));
        absent = is_running ? 0 : absent + 1;
        co_await registry_.refresh();
        seen = registry_.find(guest.name);
        const auto slept = co_await sleep_until(Deadline::in(kLook));
        is_stopped = slept.has_error();
    }
    co_return seen && seen->reachable ? std::string()
                                      : "guest " + guest.name + " did not answer at its QMP socket";
}

/// Takes down what the process uses that runs the guest now.
awaitable<void> Selftests::look_at_guest(TestPtr test, Guest guest) {
    const auto seen = registry_.find(guest.name);
    if (seen && seen->pid != 0) {
        auto look = [pid = static_cast<pid_t>(seen->pid)] { return observe_host_use(pid); };
        test->seen.push_back(co_await blocking(disk_, std::move(look)));
    } else {
        test->seen.emplace_back();
    }
    SelftestView& view = test->view;
    view.tried = make_tried(test->seen, test->vms, test->limits);
    view.accelerator = has_tried(view, "kvm") ? "kvm" : "tcg";
    view.hugepages = has_tried(view, "huge_pages");
}

awaitable<std::string> Selftests::upgrade_guests(TestPtr test) {
    test->view.state = "upgrading";
    RunRequest request;
    for (const Guest& guest : test->guests) {
        request.vms.push_back(guest.name);
    }
    request.to = test->view.to;
    request.rehearse = "first";
    auto started = co_await runs_.start(request, static_cast<uid_t>(test->view.by_uid));
    if (const auto* problem = std::get_if<Problem>(&started)) {
        co_return problem->detail;
    }
    test->view.run = std::get<UpgradeRuns::Started>(started).run.id;
    std::optional<RunView> run = runs_.find(test->view.run);
    bool is_stopped = false;
    while (run && run->state != "finished" && !is_stopped) {
        const auto slept = co_await sleep_until(Deadline::in(kLook));
        is_stopped = slept.has_error();
        run = runs_.find(test->view.run);
    }
    if (!run || is_stopped) {
        co_return "the run is not known any more";
    }
    for (const RunVmView& vm : run->vms) {
        if (vm.pause_ms) {
            test->view.pause_ms = std::max(test->view.pause_ms.value_or(0.0), *vm.pause_ms);
        }
    }
    co_return judge_run(*run);
}

/// Every guest goes on, and lost nothing on the way.
awaitable<std::string> Selftests::judge_guests(TestPtr test) {
    test->view.state = "checking";
    for (const Guest& guest : test->guests) {
        auto look = [folder = guest.folder] { return read_selftest_guest(folder); };
        const auto before = co_await blocking(disk_, look);
        const std::uint64_t known =
            before.has_value() ? read_count(before->serial).numbers : std::uint64_t{0};
        auto waiting = wait_until_it_counts(guest, known + kNumbersAfter);
        std::string problem = co_await std::move(waiting);
        const auto said = co_await blocking(disk_, look);
        if (!problem.empty() || said.has_error()) {
            co_return problem.empty() ? to_text(said.error()) : problem;
        }
        const SelftestCount count = read_count(said->serial);
        const auto on_disk = number_of_sector(said->sector, said->number_at);
        if (!on_disk || *on_disk + kUnwritten < count.last) {
            co_return "guest " + guest.name + " has said " + std::to_string(count.last) +
                ", but its disk does not have it";
        }
        co_await registry_.refresh_vm(guest.name);
        co_await look_at_guest(test, guest);
        test->view.counted += count.numbers;
    }
    co_return std::string();
}

awaitable<std::string> Selftests::wait_until_it_counts(Guest guest, std::uint64_t numbers) {
    CountWatch watch(std::chrono::steady_clock::now());
    int absent = 0;
    for (;;) {
        auto look = [folder = guest.folder] { return read_selftest_guest(folder); };
        const auto said = co_await blocking(disk_, std::move(look));
        const SelftestCount count = said.has_value() ? read_count(said->serial) : SelftestCount();
        if (!count.problem.empty()) {
            co_return "guest " + guest.name + " lost its count: " + count.problem;
        }
        if (count.numbers >= numbers) {
            co_return std::string();
        }
        auto ask = [folder = guest.folder] { return is_selftest_guest_running(folder); };
        const bool is_running = co_await blocking(disk_, std::move(ask));
        absent = is_running ? 0 : absent + 1;
        const auto slept = co_await sleep_until(Deadline::in(kLook));
        const bool is_stuck = watch.is_stuck(count.numbers, std::chrono::steady_clock::now());
        if (slept.has_error() || is_stuck || absent == kLooksUntilGone) {
            auto words = [folder = guest.folder] { return read_selftest_log(folder); };
            const std::string log = co_await blocking(disk_, std::move(words));
            co_return "guest " + guest.name + " does not count: it has said " +
                std::to_string(count.last) + (log.empty() ? "" : "; QEMU said: " + log);
        }
    }
}

} // namespace qhup::daemon
