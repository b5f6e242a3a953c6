// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sends a numbered UDP packet every millisecond to an echo server in a guest and says what came
// back and when not (with --sink yes, to one that only counts: what was sent): lost, duplicated,
// reordered, round-trip times, and the gaps between two answers. With --window N it holds back
// while the newest answer is N packets behind: where a guest answers slower than we send, the queue
// in front of it overflows, and that would look like a loss. One thread, no allocation while it
// runs; asks for real-time priority so that a busy host does not look like a busy guest. Prints one
// JSON object when its time is over or at SIGTERM or SIGINT. Times are CLOCK_MONOTONIC, as in
// QEMU's own timings.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::uint32_t kMagic = 0x71687570;
constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::int64_t kFullWindowIntervalNs = 100 * kNsPerMs; // all that is in it may be lost
constexpr std::size_t kMaxGaps = 1000;
constexpr std::size_t kMaxPacketBytes = 1400;

struct Options {
    sockaddr_in to{};
    std::int64_t interval_ns = kNsPerMs;
    std::int64_t duration_ns = 0; // 0: until a signal
    std::int64_t drain_ns = 1000 * kNsPerMs;
    std::int64_t gap_ns = 20 * kNsPerMs; // gaps from here on are listed
    std::size_t packet_bytes = 64;
    std::uint64_t window_packets = 0; // how many may be newer than the newest answer; 0: any number
    bool sink = false;                // nothing is answered
};

struct Packet {
    std::uint32_t magic = kMagic;
    std::uint32_t run = 0;
    std::uint64_t sequence = 0;
    std::int64_t sent_ns = 0;
};

struct Gap {
    std::int64_t start_ns = 0; // the last answer before it
    std::int64_t end_ns = 0;   // the first answer after it
};

/// What was sent and what came back; no I/O.
class Statistics {
public:
    explicit Statistics(std::int64_t gap_ns) : gap_ns_(gap_ns) {
        received_.reserve(1'000'000);
        round_trips_ns_.reserve(1'000'000);
        gaps_.reserve(kMaxGaps);
    }

    void on_sent() { received_.push_back(0); }
    void on_send_error() { ++send_errors_; }
    void on_held_back() { ++held_back_; }
    void on_late(std::int64_t late_ns) { max_late_ns_ = std::max(max_late_ns_, late_ns); }
    void on_foreign() { ++corrupted_; }

    void on_received(const Packet& packet, std::int64_t now_ns) {
        if (packet.sequence >= received_.size()) {
            ++corrupted_;
            return;
        }
        if (std::uint8_t& times = received_[packet.sequence]; times++ > 0) {
            times = std::min<std::uint8_t>(times, 200);
            ++duplicated_;
            return;
        }
        ++distinct_;
        if (packet.sequence + 1 < next_expected_) {
            ++reordered_;
        }
        next_expected_ = std::max(next_expected_, packet.sequence + 1);
        round_trips_ns_.push_back(now_ns - packet.sent_ns);
        if (last_ns_ != 0) {
            on_gap({last_ns_, now_ns});
        } else {
            first_ns_ = now_ns;
        }
        last_ns_ = now_ns;
    }

    /// Packets that are newer than the newest answer.
    [[nodiscard]] std::uint64_t unanswered() const { return received_.size() - next_expected_; }
    [[nodiscard]] bool all_received() const { return distinct_ == received_.size(); }

    void print() {
        std::sort(round_trips_ns_.begin(), round_trips_ns_.end());
        std::printf(
            "{\"sent\": %zu, \"received\": %" PRIu64 ", \"lost\": %" PRIu64,
            received_.size(),
            distinct_,
            lost()
        );
        std::printf(
            ", \"duplicated\": %" PRIu64 ", \"reordered\": %" PRIu64, duplicated_, reordered_
        );
        std::printf(
            ", \"corrupted\": %" PRIu64 ", \"send_errors\": %" PRIu64, corrupted_, send_errors_
        );
        std::printf(", \"held_back\": %" PRIu64, held_back_);
        std::printf(
            ", \"first_answer_ns\": %" PRId64 ", \"last_answer_ns\": %" PRId64, first_ns_, last_ns_
        );
        std::printf(
            ", \"rtt_ms\": {\"min\": %.3f, \"median\": %.3f, \"p99\": %.3f, \"max\": %.3f}",
            round_trip_ms(0),
            round_trip_ms(50),
            round_trip_ms(99),
            round_trip_ms(100)
        );
        std::printf(", \"max_late_send_ms\": %.3f, \"longest_gap\": ", in_ms(max_late_ns_));
        print_gap(longest_);
        std::printf(", \"gaps\": [");
        for (std::size_t i = 0; i < gaps_.size(); ++i) {
            std::printf("%s", i == 0 ? "" : ", ");
            print_gap(gaps_[i]);
        }
        // The first 50 that are missing, to tell a hole from a sprinkle.
        std::printf("], \"lost_sequences\": [");
        std::size_t shown = 0;
        for (std::size_t i = 0; i < received_.size() && shown < 50; ++i) {
            if (received_[i] == 0) {
                std::printf("%s%zu", shown++ == 0 ? "" : ", ", i);
            }
        }
        std::printf("]}\n");
    }

private:
    static double in_ms(std::int64_t ns) {
        return static_cast<double>(ns) / static_cast<double>(kNsPerMs);
    }

    static void print_gap(const Gap& gap) {
        std::printf(
            "{\"ms\": %.3f, \"start_ns\": %" PRId64 ", \"end_ns\": %" PRId64 "}",
            in_ms(gap.end_ns - gap.start_ns),
            gap.start_ns,
            gap.end_ns
        );
    }

    [[nodiscard]] std::uint64_t lost() const { return received_.size() - distinct_; }

    [[nodiscard]] double round_trip_ms(std::size_t percent) const {
        if (round_trips_ns_.empty()) {
            return 0;
        }
        return in_ms(round_trips_ns_[(round_trips_ns_.size() - 1) * percent / 100]);
    }

    void on_gap(const Gap& gap) {
        const std::int64_t length_ns = gap.end_ns - gap.start_ns;
        if (length_ns > longest_.end_ns - longest_.start_ns) {
            longest_ = gap;
        }
        if (length_ns >= gap_ns_ && gaps_.size() < kMaxGaps) {
            gaps_.push_back(gap);
        }
    }

    std::int64_t gap_ns_;
    std::vector<std::uint8_t> received_; // by sequence number: how often
    std::vector<std::int64_t> round_trips_ns_;
    std::vector<Gap> gaps_;
    Gap longest_;
    std::uint64_t distinct_ = 0;
    std::uint64_t duplicated_ = 0;
    std::uint64_t reordered_ = 0;
    std::uint64_t corrupted_ = 0;
    std::uint64_t send_errors_ = 0;
    std::uint64_t held_back_ = 0;
    std::uint64_t next_expected_ = 0;
    std::int64_t first_ns_ = 0;
    std::int64_t last_ns_ = 0;
    std::int64_t max_late_ns_ = 0;
};

volatile std::sig_atomic_t stop_requested = 0;

extern "C" void on_signal(int /*number*/) {
    stop_requested = 1;
}

std::int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

[[noreturn]] void usage() {
    std::fputs(
        "usage: udp-prober --to ADDRESS:PORT [--interval-us 1000] [--duration-s 0] [--drain-ms "
        "1000] [--gap-ms 20]\n"
        "                  [--size 64] [--window 0] [--sink yes]\n",
        stderr
    );
    std::exit(2);
}

Options parse_options(const std::vector<std::string>& words) {
    Options options;
    for (std::size_t i = 0; i + 1 < words.size(); i += 2) {
        const std::string& name = words[i];
        const std::string& value = words[i + 1];
        const double number = std::strtod(value.c_str(), nullptr);
        if (name == "--to") {
            const std::size_t colon = value.rfind(':');
            options.to.sin_family = AF_INET;
            if (colon == std::string::npos ||
                inet_pton(AF_INET, value.substr(0, colon).c_str(), &options.to.sin_addr) != 1) {
                usage();
            }
            options.to.sin_port = htons(
                static_cast<std::uint16_t>(std::strtoul(value.c_str() + colon + 1, nullptr, 10))
            );
        } else if (name == "--interval-us") {
            options.interval_ns = static_cast<std::int64_t>(number * 1e3);
        } else if (name == "--duration-s") {
            options.duration_ns = static_cast<std::int64_t>(number * 1e9);
        } else if (name == "--drain-ms") {
            options.drain_ns = static_cast<std::int64_t>(number * 1e6);
        } else if (name == "--gap-ms") {
            options.gap_ns = static_cast<std::int64_t>(number * 1e6);
        } else if (name == "--window") {
            options.window_packets = static_cast<std::uint64_t>(number);
        } else if (name == "--sink") {
            options.sink = value == "yes";
        } else if (name == "--size") {
            options.packet_bytes =
                std::clamp(static_cast<std::size_t>(number), sizeof(Packet), kMaxPacketBytes);
        } else {
            usage();
        }
    }
    if (words.size() % 2 != 0 || options.to.sin_port == 0 || options.interval_ns <= 0) {
        usage();
    }
    return options;
}

void receive_all(int fd, std::uint32_t run, Statistics& statistics) {
    char bytes[2048];
    for (;;) {
        const ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == ECONNREFUSED || errno == EHOSTUNREACH)) {
            continue; // an ICMP answer to an earlier packet; that one will count as lost
        }
        if (n < 0) {
            return;
        }
        const std::int64_t now = now_ns();
        Packet packet;
        if (static_cast<std::size_t>(n) >= sizeof packet) {
            std::memcpy(&packet, bytes, sizeof packet);
        }
        if (static_cast<std::size_t>(n) < sizeof packet || packet.magic != kMagic ||
            packet.run != run) {
            statistics.on_foreign();
        } else {
            statistics.on_received(packet, now);
        }
    }
}

/// Receives until `deadline_ns` or a signal.
void receive_until(
    int fd,
    std::int64_t deadline_ns,
    std::uint32_t run,
    const sigset_t& open_mask,
    Statistics& statistics
) {
    for (std::int64_t left = deadline_ns - now_ns(); left > 0 && stop_requested == 0;
         left = deadline_ns - now_ns()) {
        const timespec wait{left / 1'000'000'000, left % 1'000'000'000};
        pollfd readable{fd, POLLIN, 0};
        if (ppoll(&readable, 1, &wait, &open_mask) > 0) {
            receive_all(fd, run, statistics);
        }
    }
}

int run_prober(const Options& options) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int buffer_bytes = 8 * 1024 * 1024;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer_bytes, sizeof buffer_bytes);
    sockaddr_in to = options.to;
    if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) {
        std::perror("udp-prober: connect");
        return 1;
    }
    sched_param priority{};
    priority.sched_priority = 10;
    sched_setscheduler(
        0, SCHED_FIFO, &priority
    ); // without it (not root) the figures are only less sharp

    // Signals are taken only while we wait.
    sigset_t blocked;
    sigset_t open_mask;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);

    Statistics statistics(options.gap_ns);
    Packet packet;
    packet.run = static_cast<std::uint32_t>(getpid());
    std::vector<char> bytes(options.packet_bytes);
    const std::int64_t started = now_ns();
    const std::int64_t end = options.duration_ns == 0 ? INT64_MAX : started + options.duration_ns;
    for (std::int64_t due = started; due < end && stop_requested == 0; due += options.interval_ns) {
        receive_until(fd, due, packet.run, open_mask, statistics);
        if (stop_requested != 0) {
            break;
        }
        const std::int64_t now = now_ns();
        if (options.window_packets != 0 && statistics.unanswered() >= options.window_packets &&
            now - packet.sent_ns < kFullWindowIntervalNs) {
            statistics.on_held_back();
            continue;
        }
        packet.sent_ns = now;
        statistics.on_late(packet.sent_ns - due);
        std::memcpy(bytes.data(), &packet, sizeof packet);
        for (std::size_t i = sizeof packet; i < bytes.size(); ++i) {
            bytes[i] = static_cast<char>((packet.sequence + i - sizeof packet) & 255U);
        }
        ssize_t sent = send(fd, bytes.data(), bytes.size(), 0);
        if (sent < 0 && errno == ECONNREFUSED) {
            sent = send(
                fd, bytes.data(), bytes.size(), 0
            ); // the first call only fetched an older error
        }
        if (sent < 0) {
            statistics.on_send_error();
        } else {
            statistics.on_sent();
            ++packet.sequence;
        }
        receive_all(fd, packet.run, statistics);
    }
    // What is under way may still arrive; a second signal ends that wait.
    stop_requested = 0;
    const std::int64_t drained = now_ns() + options.drain_ns;
    while (!options.sink && !statistics.all_received() && stop_requested == 0 && now_ns() < drained
    ) {
        receive_until(
            fd, std::min(now_ns() + 10 * kNsPerMs, drained), packet.run, open_mask, statistics
        );
    }
    statistics.print();
    close(fd);
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    return run_prober(parse_options(std::vector<std::string>(argv + 1, argv + argc)));
}
