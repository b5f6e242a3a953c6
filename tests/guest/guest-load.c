// SPDX-License-Identifier: GPL-2.0-or-later
//
// The only program of the test guest: counts on the serial line, echoes on the network, fills and
// checks RAM, writes and verifies a disk, and obeys a few words. The first error that each part
// sees is printed and kept; nothing is retried, so that a byte lost in a hot upgrade is seen.
// README.md has the lines it prints and the parameters it takes.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define PAGE 4096u
#define BLOCK 4096u
#define MAX_BATCH_BLOCKS 32u
#define ECHO_PORT 7
#define SINK_PORT 9
#define SINK_PACKETS (1u << 22)
#define MAX_DISK_THREADS 4
#define MAX_DISKS 32

static char cmdline[4096];
static int serial_fd = -1;
static pthread_mutex_t serial_lock = PTHREAD_MUTEX_INITIALIZER;

static atomic_ulong ram_passes, disk_passes, errors, udp_echoes, tcp_bytes, max_tick_gap_us;
static atomic_ulong ram_rate_kib, disk_rate_kib; // KiB per second; 0 means as fast as it goes
static atomic_bool first_error_seen[8];
enum who { who_ram, who_disk, who_udp, who_tcp, who_clock, who_main };
static const char* const who_name[] = {"ram", "disk", "udp", "tcp", "clock", "main"};

// ---- small helpers

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

// One line, in one piece: lines of several threads never mix.
__attribute__((format(printf, 1, 2))) static void say(const char* format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) {
        length = (int)sizeof line - 2;
    }
    line[length++] = '\n';
    pthread_mutex_lock(&serial_lock);
    for (int done = 0; done < length;) {
        ssize_t n = write(serial_fd, line + done, (size_t)(length - done));
        if (n > 0) {
            done += (int)n;
        } else if (errno != EINTR && errno != EAGAIN) {
            break;
        }
    }
    pthread_mutex_unlock(&serial_lock);
}

__attribute__((format(printf, 2, 3))) static void
report_error(enum who who, const char* format, ...) {
    char what[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    atomic_fetch_add(&errors, 1);
    if (!atomic_exchange(&first_error_seen[who], true)) {
        say("error: %s: %s", who_name[who], what);
    }
}

static const char* parameter(const char* name, const char* otherwise) {
    static char values[32][128];
    static int used;
    size_t length = strlen(name);
    for (const char* at = cmdline; (at = strstr(at, name)) != NULL; at += length) {
        if ((at == cmdline || at[-1] == ' ') && at[length] == '=') {
            char* value = values[used++ % 32];
            snprintf(value, 128, "%.*s", (int)strcspn(at + length + 1, " \n"), at + length + 1);
            return value;
        }
    }
    return otherwise;
}

static unsigned long number(const char* name, unsigned long otherwise) {
    const char* text = parameter(name, NULL);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void start(void* (*run)(void*), void* argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * KIB);
    int error = pthread_create(&thread, &attributes, run, argument);
    if (error) {
        report_error(who_main, "cannot start a thread: %s", strerror(error));
    }
}

// For the parts that answer: the load of the others is not to slow them down.
static void go_first(void) {
    setpriority(PRIO_PROCESS, 0, -15); // of this thread alone, on Linux
}

// Keeps a worker at its rate: waits until `bytes` done since `since` are due.
static void pace(atomic_ulong* rate_kib, uint64_t bytes, uint64_t* since) {
    unsigned long rate = atomic_load(rate_kib);
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    if (rate == 0) {
        *since = now;
        return;
    }
    uint64_t due = *since + bytes * 1000000000u / (rate * KIB);
    if (due > now) {
        sleep_ns(due - now);
        *since = due;
    } else {
        *since = now;
    }
}

// ---- clock: the counter

static void* run_counter(void* unused) {
    (void)unused;
    unsigned long period_ms = number("qhup.count_ms", 10);
    go_first();
    uint64_t before = now_ns(CLOCK_MONOTONIC);
    int64_t wall_before = (int64_t)now_ns(CLOCK_REALTIME);
    for (unsigned long count = 1;; count++) {
        say("count %lu", count);
        sleep_ns(period_ms * 1000000u);
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        int64_t wall = (int64_t)now_ns(CLOCK_REALTIME);
        if (now < before) {
            report_error(
                who_clock, "the monotonic clock went back by %lu ns", (unsigned long)(before - now)
            );
        }
        if (wall < wall_before - 1000000) {
            report_error(
                who_clock, "the wall clock went back by %ld ns", (long)(wall_before - wall)
            );
        }
        unsigned long gap = (unsigned long)((now - before) / 1000u);
        if (gap > atomic_load(&max_tick_gap_us)) {
            atomic_store(&max_tick_gap_us, gap);
        }
        before = now;
        wall_before = wall;
    }
    return NULL;
}

// ---- ram

// Every word tells its page and the pass that wrote it: a page that is old, lost or from elsewhere
// shows.
static void fill_page(uint64_t* page, uint64_t index, uint64_t pass) {
    uint64_t seed = mix(index * 2 + 1) ^ mix(pass);
    for (unsigned i = 0; i < PAGE / 8; i++) {
        page[i] = seed + i * 0x9e3779b97f4a7c15u;
    }
}

static bool check_page(const uint64_t* page, uint64_t index, uint64_t pass) {
    uint64_t seed = mix(index * 2 + 1) ^ mix(pass);
    uint64_t difference = 0;
    for (unsigned i = 0; i < PAGE / 8; i++) {
        difference |= page[i] ^ (seed + i * 0x9e3779b97f4a7c15u);
    }
    return difference == 0;
}

static uint64_t ram_bytes;

static void* run_ram(void* unused) {
    (void)unused;
    uint64_t pages = ram_bytes / PAGE;
    uint8_t* memory =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        report_error(who_ram, "cannot map %lu MiB", (unsigned long)(ram_bytes / MIB));
        return NULL;
    }
    uint64_t since = now_ns(CLOCK_MONOTONIC);
    for (uint64_t pass = 1;; pass++) {
        for (uint64_t i = 0; i < pages; i++) {
            uint64_t* page = (uint64_t*)(memory + i * PAGE);
            if (pass > 1 && !check_page(page, i, pass - 1)) {
                report_error(
                    who_ram,
                    "page %lu of %lu is not what pass %lu wrote",
                    (unsigned long)i,
                    (unsigned long)pages,
                    (unsigned long)(pass - 1)
                );
            }
            fill_page(page, i, pass);
            if (i % 16 == 15) {
                pace(&ram_rate_kib, 16 * PAGE, &since);
            }
        }
        atomic_fetch_add(&ram_passes, 1);
    }
    return NULL;
}

// ---- disk

struct disk_block {
    uint64_t magic, block, generation, sum;
    uint64_t payload[(BLOCK - 32) / 8];
};
#define DISK_MAGIC 0x7168757064697363u

struct disk_part {
    const char* path;
    uint64_t first, blocks; // its share of the device
    unsigned id;
    atomic_ulong batches; // written and verified
};
static struct disk_part parts[MAX_DISKS * MAX_DISK_THREADS];
static unsigned parts_used;

// Held for reading while a batch is on its way; a reboot takes it for good, so that it cuts no
// batch off.
static pthread_rwlock_t disk_in_use = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

static uint64_t block_sum(const struct disk_block* b) {
    uint64_t sum = b->magic ^ mix(b->block) ^ mix(b->generation + 1);
    for (unsigned i = 0; i < sizeof b->payload / 8; i++) {
        sum = (sum ^ b->payload[i]) * 0x100000001b3u;
    }
    return sum;
}

static void make_block(struct disk_block* b, uint64_t block, uint64_t generation) {
    b->magic = DISK_MAGIC;
    b->block = block;
    b->generation = generation;
    uint64_t seed = mix(block) ^ mix(generation);
    for (unsigned i = 0; i < sizeof b->payload / 8; i++) {
        b->payload[i] = seed + i * 0x9e3779b97f4a7c15u;
    }
    b->sum = block_sum(b);
}

static bool read_blocks(int fd, struct disk_block* to, uint64_t block, unsigned count) {
    ssize_t want = (ssize_t)count * BLOCK;
    ssize_t n = pread(fd, to, (size_t)want, (off_t)(block * BLOCK));
    if (n != want) {
        report_error(
            who_disk,
            "reading %u blocks at %lu: %s",
            count,
            (unsigned long)block,
            n < 0 ? strerror(errno) : "short"
        );
        return false;
    }
    return true;
}

static void verify_blocks(
    int fd,
    struct disk_block* buffer,
    const uint32_t* generations,
    const struct disk_part* part,
    uint64_t at,
    unsigned count
) {
    if (!read_blocks(fd, buffer, part->first + at, count)) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        uint32_t wanted = generations[at + i];
        const struct disk_block* b = &buffer[i];
        if (wanted == 0) {
            continue;
        }
        if (b->magic != DISK_MAGIC || b->block != part->first + at + i || b->sum != block_sum(b)) {
            report_error(who_disk, "block %lu is damaged", (unsigned long)(part->first + at + i));
        } else if (b->generation != wanted) {
            report_error(
                who_disk,
                "block %lu has generation %lu, not %lu",
                (unsigned long)(part->first + at + i),
                (unsigned long)b->generation,
                (unsigned long)wanted
            );
        }
    }
}

static void* run_disk(void* argument) {
    struct disk_part* part = argument;
    int fd = open(part->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    uint32_t* generations = calloc(part->blocks, sizeof *generations);
    struct disk_block* buffer = NULL;
    if (fd < 0 || !generations ||
        posix_memalign((void**)&buffer, BLOCK, MAX_BATCH_BLOCKS * BLOCK)) {
        report_error(who_disk, "cannot open %s: %s", part->path, strerror(errno));
        return NULL;
    }
    // What an earlier boot left may be of any generation, but no block may be torn.
    for (uint64_t at = 0; at + MAX_BATCH_BLOCKS <= part->blocks; at += MAX_BATCH_BLOCKS) {
        if (!read_blocks(fd, buffer, part->first + at, MAX_BATCH_BLOCKS)) {
            return NULL;
        }
        for (unsigned i = 0; i < MAX_BATCH_BLOCKS; i++) {
            if (buffer[i].magic == DISK_MAGIC && (buffer[i].block != part->first + at + i ||
                                                  buffer[i].sum != block_sum(&buffer[i]))) {
                report_error(
                    who_disk,
                    "block %lu was torn before this boot",
                    (unsigned long)(part->first + at + i)
                );
            }
        }
    }
    uint64_t random = mix(part->id + 1), since = now_ns(CLOCK_MONOTONIC);
    for (uint32_t generation = 1;; generation++) {
        // A pass: random extents, as many blocks as the part has; each batch is written, flushed
        // and read again.
        for (uint64_t done = 0; done < part->blocks;) {
            pthread_rwlock_rdlock(&disk_in_use);
            random = mix(random + 1);
            unsigned count = 1u << (random % 6);
            uint64_t at = (random >> 8) % (part->blocks - count + 1);
            for (unsigned i = 0; i < count; i++) {
                make_block(&buffer[i], part->first + at + i, generation);
                generations[at + i] = generation;
            }
            ssize_t want = (ssize_t)count * BLOCK;
            ssize_t n = pwrite(fd, buffer, (size_t)want, (off_t)((part->first + at) * BLOCK));
            if (n != want) {
                report_error(
                    who_disk,
                    "writing %u blocks at %lu: %s",
                    count,
                    (unsigned long)(part->first + at),
                    n < 0 ? strerror(errno) : "short"
                );
                return NULL;
            }
            if (fsync(fd) < 0) {
                report_error(who_disk, "fsync: %s", strerror(errno));
                return NULL;
            }
            verify_blocks(fd, buffer, generations, part, at, count);
            uint64_t elsewhere = (random >> 20) % (part->blocks - count + 1);
            verify_blocks(fd, buffer, generations, part, elsewhere, count);
            pthread_rwlock_unlock(&disk_in_use);
            atomic_fetch_add(&part->batches, 1);
            done += count;
            pace(&disk_rate_kib, (uint64_t)want * 3, &since);
        }
        for (uint64_t at = 0; at + MAX_BATCH_BLOCKS <= part->blocks; at += MAX_BATCH_BLOCKS) {
            pthread_rwlock_rdlock(&disk_in_use);
            verify_blocks(fd, buffer, generations, part, at, MAX_BATCH_BLOCKS);
            pthread_rwlock_unlock(&disk_in_use);
            pace(&disk_rate_kib, MAX_BATCH_BLOCKS * BLOCK, &since);
        }
        atomic_fetch_add(&disk_passes, 1);
    }
    return NULL;
}

static void start_writers(const char* path) {
    uint64_t size = 0, span = number("qhup.disk_mib", 16) * MIB;
    struct stat status = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0 ||
        (!S_ISREG(status.st_mode) && ioctl(fd, BLKGETSIZE64, &size) < 0)) {
        report_error(who_disk, "cannot open %s: %s", path, strerror(errno));
        return;
    }
    close(fd);
    if (S_ISREG(status.st_mode)) {
        size = (uint64_t)status.st_size;
    }
    if (span > size) {
        span = size;
    }
    unsigned long threads = number("qhup.disk_threads", 1);
    if (threads < 1 || threads > MAX_DISK_THREADS) {
        threads = 1;
    }
    uint64_t blocks = span / BLOCK / threads;
    if (blocks < MAX_BATCH_BLOCKS) {
        report_error(who_disk, "%s is too small", path);
        return;
    }
    for (unsigned i = 0; i < threads; i++) {
        struct disk_part* part = &parts[parts_used];
        part->path = path;
        part->first = i * blocks;
        part->blocks = blocks;
        part->id = parts_used++;
        start(run_disk, part);
    }
}

// Starts writers on vda, vdb, ... and sda, sdb, ...; waits until `wanted` disks are there.
static const char* start_all_disks(unsigned long wanted) {
    static char paths[MAX_DISKS][16];
    static char text[24];
    unsigned found = 0;
    for (int tries = 0; tries < 200 && (tries == 0 || found < wanted); tries++) {
        if (tries) {
            sleep_ns(50000000);
        }
        found = 0;
        for (unsigned i = 0; i < 52 && found < MAX_DISKS; i++) {
            char* path = paths[found];
            snprintf(path, sizeof paths[0], "/dev/%cd%c", i < 26 ? 'v' : 's', 'a' + (char)(i % 26));
            found += access(path, F_OK) == 0;
        }
    }
    if (found < wanted) {
        report_error(who_disk, "%u disks, not %lu", found, wanted);
    }
    for (unsigned i = 0; i < found; i++) {
        start_writers(paths[i]);
    }
    snprintf(text, sizeof text, "all:%u", found);
    return text;
}

// A writer on a file: of a file system that somebody else serves.
static void start_file(void) {
    static char path[128];
    snprintf(path, sizeof path, "%s", parameter("qhup.file", ""));
    if (!path[0]) {
        return;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)(number("qhup.disk_mib", 16) * MIB)) < 0) {
        report_error(who_disk, "cannot make %s: %s", path, strerror(errno));
    } else {
        start_writers(path);
    }
    if (fd >= 0) {
        close(fd);
    }
}

// Returns the name of the disk in use, or "none", or "all:" and how many.
static const char* start_disk(void) {
    static char path[64];
    snprintf(path, sizeof path, "%s", parameter("qhup.disk", "auto"));
    if (strncmp(path, "all:", 4) == 0) {
        return start_all_disks(strtoul(path + 4, NULL, 10));
    }
    if (strcmp(path, "auto") == 0) {
        strcpy(
            path,
            access("/dev/vda", F_OK) == 0   ? "/dev/vda"
            : access("/dev/sda", F_OK) == 0 ? "/dev/sda"
                                            : "none"
        );
    } else if (strcmp(path, "none") != 0 && path[0] != '/') {
        memmove(path + 5, path, strlen(path) + 1);
        memcpy(path, "/dev/", 5);
    }
    if (strcmp(path, "none") != 0) {
        start_writers(path);
    }
    return path;
}

// ---- network: UDP and TCP echo

static int listen_on(int type, uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof address) < 0 ||
        (type == SOCK_STREAM && listen(fd, 16) < 0)) {
        report_error(type == SOCK_DGRAM ? who_udp : who_tcp, "port %d: %s", port, strerror(errno));
        return -1;
    }
    return fd;
}

static void* run_udp(void* unused) {
    (void)unused;
    static char packet[65536];
    int fd = listen_on(SOCK_DGRAM, ECHO_PORT), bytes = 8 * (int)MIB;
    // A burst after a pause is to be lost on the way here, if anywhere, not in the socket of a busy
    // guest.
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    go_first();
    while (fd >= 0) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(fd, packet, sizeof packet, 0, (struct sockaddr*)&from, &length);
        if (n >= 0) {
            sendto(fd, packet, (size_t)n, 0, (struct sockaddr*)&from, length);
            atomic_fetch_add(&udp_echoes, 1);
        }
    }
    return NULL;
}

// What udp_prober.cpp sends with --sink: it is counted, and nothing is answered.
struct sink_packet {
    uint32_t magic, run;
    uint64_t sequence;
    int64_t sent_ns;
    uint8_t payload[]; // (sequence + position) & 255
};
#define SINK_MAGIC 0x71687570u
static atomic_ulong sink_packets, sink_distinct, sink_highest, sink_bad;

static bool sink_payload_is_good(const struct sink_packet* packet, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (packet->payload[i] != (uint8_t)(packet->sequence + i)) {
            return false;
        }
    }
    return true;
}

static void* run_sink(void* unused) {
    (void)unused;
    static uint8_t seen[SINK_PACKETS / 8];
    static union {
        struct sink_packet packet;
        char bytes[65536];
    } buffer;
    uint32_t run = 0;
    int fd = listen_on(SOCK_DGRAM, SINK_PORT), bytes = 16 * (int)MIB;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    go_first();
    while (fd >= 0) {
        ssize_t n = recv(fd, &buffer, sizeof buffer, 0);
        const struct sink_packet* packet = &buffer.packet;
        if (n < (ssize_t)sizeof *packet || packet->magic != SINK_MAGIC ||
            packet->sequence >= SINK_PACKETS ||
            !sink_payload_is_good(packet, (size_t)n - sizeof *packet)) {
            atomic_fetch_add(&sink_bad, 1);
            continue;
        }
        if (packet->run != run) {
            run = packet->run;
            memset(seen, 0, sizeof seen);
            sink_packets = sink_distinct = sink_highest = sink_bad = 0;
        }
        uint8_t bit = (uint8_t)(1u << (packet->sequence % 8));
        if (!(seen[packet->sequence / 8] & bit)) {
            seen[packet->sequence / 8] |= bit;
            atomic_fetch_add(&sink_distinct, 1);
        }
        atomic_fetch_add(&sink_packets, 1);
        if (packet->sequence > atomic_load(&sink_highest)) {
            atomic_store(&sink_highest, packet->sequence);
        }
    }
    return NULL;
}

// ethtool -L: how many pairs of queues the NIC with this address uses.
static void set_channels(const char* address, unsigned long count) {
    struct ifaddrs* all = NULL;
    struct ethtool_channels channels = {
        .cmd = ETHTOOL_SCHANNELS, .combined_count = (uint32_t)count};
    struct ifreq request = {.ifr_data = (char*)&channels};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), error = ENODEV;
    getifaddrs(&all);
    for (struct ifaddrs* at = all; at; at = at->ifa_next) {
        char text[INET_ADDRSTRLEN] = "";
        if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET) {
            const struct sockaddr_in* in = (const struct sockaddr_in*)at->ifa_addr;
            inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        }
        if (strcmp(text, address) == 0) {
            snprintf(request.ifr_name, sizeof request.ifr_name, "%s", at->ifa_name);
            error = ioctl(fd, SIOCETHTOOL, &request) < 0 ? errno : 0;
        }
    }
    freeifaddrs(all);
    close(fd);
    say("channels %lu error=%d", count, error);
}

static bool echo_once(int fd) {
    char bytes[4096];
    ssize_t n = read(fd, bytes, sizeof bytes);
    for (ssize_t done = 0; done < n;) {
        ssize_t written = write(fd, bytes + done, (size_t)(n - done));
        if (written < 0) {
            return false;
        }
        done += written;
    }
    atomic_fetch_add(&tcp_bytes, n > 0 ? (unsigned long)n : 0);
    return n > 0;
}

static void* run_tcp(void* unused) {
    (void)unused;
    enum { most = 65 };
    go_first();
    struct pollfd fds[most] = {{.fd = listen_on(SOCK_STREAM, ECHO_PORT), .events = POLLIN}};
    nfds_t count = 1;
    while (fds[0].fd >= 0) {
        if (poll(fds, count, -1) < 0) {
            continue;
        }
        for (nfds_t i = count; i-- > 1;) {
            if (fds[i].revents && !echo_once(fds[i].fd)) {
                close(fds[i].fd);
                fds[i] = fds[--count];
            }
        }
        if (fds[0].revents) {
            int fd = accept4(fds[0].fd, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0 && count < most) {
                fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
            } else if (fd >= 0) {
                close(fd);
            }
        }
    }
    return NULL;
}

// ---- words from the host

// Linux breaks the queues of every virtio device before it resets them, and a NIC that sends at
// that moment waits in start_xmit() for a broken queue for ever: without any upgrade too (README.md
// beside this). So no NIC sends then.
static void take_links_down(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct if_nameindex* links = if_nameindex();
    for (struct if_nameindex* link = links; link && link->if_index; link++) {
        struct ifreq request = {0};
        snprintf(request.ifr_name, sizeof request.ifr_name, "%s", link->if_name);
        ioctl(fd, SIOCSIFFLAGS, &request);
    }
    if_freenameindex(links);
    close(fd);
}

static void end(int how) {
    pthread_rwlock_wrlock(&disk_in_use);
    say("bye");
    pthread_mutex_lock(&serial_lock); // the last line was the last
    tcdrain(serial_fd);
    sync();
    take_links_down();
    reboot(how);
}

static void print_stat(void) {
    say("stat ram_passes=%lu disk_passes=%lu udp=%lu tcp_bytes=%lu max_tick_gap_us=%lu "
        "uptime_ms=%lu errors=%lu",
        atomic_load(&ram_passes),
        atomic_load(&disk_passes),
        atomic_load(&udp_echoes),
        atomic_load(&tcp_bytes),
        atomic_load(&max_tick_gap_us),
        (unsigned long)(now_ns(CLOCK_BOOTTIME) / 1000000u),
        atomic_load(&errors));
}

static void* run_stat(void* unused) {
    (void)unused;
    unsigned long period_ms = number("qhup.stat_ms", 1000);
    for (;;) {
        sleep_ns(period_ms * 1000000u);
        print_stat();
    }
    return NULL;
}

static void* run_power_button(void* argument) {
    int fd = *(int*)argument;
    free(argument);
    struct input_event event;
    while (read(fd, &event, sizeof event) == (ssize_t)sizeof event) {
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
            say("power button");
            end(RB_POWER_OFF);
        }
    }
    return NULL;
}

static void watch_power_buttons(void) {
    char path[32];
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int* fd = malloc(sizeof *fd);
        *fd = open(path, O_RDONLY | O_CLOEXEC);
        if (*fd >= 0) {
            start(run_power_button, fd);
        } else {
            free(fd);
        }
    }
}

// Tells a disk whether it may keep in a cache what it has not been told to flush.
static void set_cache(const char* disk, const char* mode) {
    char path[64];
    snprintf(path, sizeof path, "/sys/block/%s/cache_type", disk);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    const char* text = strcmp(mode, "through") == 0 ? "write through" : "write back";
    bool done = fd >= 0 && write(fd, text, strlen(text)) > 0;
    say("cache %s %s", disk, done ? mode : strerror(errno));
    if (fd >= 0) {
        close(fd);
    }
}

// One word for each writer: its disk and what it has verified. Few enough for a line: the test
// asks.
static void print_disks(void) {
    char text[480];
    size_t used = 0;
    for (unsigned i = 0; i < parts_used && used < sizeof text - 40; i++) {
        used += (size_t)snprintf(
            text + used,
            sizeof text - used,
            " %s=%lu",
            strrchr(parts[i].path, '/') + 1,
            atomic_load(&parts[i].batches)
        );
    }
    say("disks%s", parts_used ? text : "");
}

static void obey(char* line) {
    unsigned long value;
    char what[16], mode[16], address[32];
    if (strcmp(line, "reboot") == 0) {
        end(RB_AUTOBOOT);
    } else if (strcmp(line, "poweroff") == 0) {
        end(RB_POWER_OFF);
    } else if (strcmp(line, "sink") == 0) {
        say("sink packets=%lu distinct=%lu highest=%lu bad=%lu",
            atomic_load(&sink_packets),
            atomic_load(&sink_distinct),
            atomic_load(&sink_highest),
            atomic_load(&sink_bad));
    } else if (sscanf(line, "channels %31s %lu", address, &value) == 2) {
        set_channels(address, value);
    } else if (sscanf(line, "ping %lu", &value) == 1) {
        say("pong %lu", value);
    } else if (strcmp(line, "disks") == 0) {
        print_disks();
    } else if (strcmp(line, "stat") == 0) {
        print_stat();
    } else if (strcmp(line, "time") == 0) {
        say("time wall_ns=%lu monotonic_ns=%lu",
            (unsigned long)now_ns(CLOCK_REALTIME),
            (unsigned long)now_ns(CLOCK_MONOTONIC));
    } else if (strcmp(line, "reset-gap") == 0) {
        atomic_store(&max_tick_gap_us, 0);
        say("gap reset");
    } else if (sscanf(line, "cache %15s %15s", what, mode) == 2) {
        set_cache(what, mode);
    } else if (sscanf(line, "rate %15s %lu", what, &value) == 2) {
        atomic_store(strcmp(what, "ram") == 0 ? &ram_rate_kib : &disk_rate_kib, value);
        say("rate %s %lu", what, value);
    } else if (line[0]) {
        say("unknown word: %.40s", line);
    }
}

static void obey_the_serial_line(void) {
    char line[128];
    size_t length = 0;
    for (;;) {
        char c;
        ssize_t n = read(serial_fd, &c, 1);
        if (n != 1) {
            sleep_ns(10000000);
        } else if (c == '\n' || c == '\r') {
            line[length] = 0;
            obey(line);
            length = 0;
        } else if (length < sizeof line - 1) {
            line[length++] = c;
        }
    }
}

// ---- start

static void open_serial(void) {
    serial_fd = open(parameter("qhup.serial", "/dev/ttyS0"), O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios mode;
    if (tcgetattr(serial_fd, &mode) == 0) {
        cfmakeraw(&mode);
        cfsetspeed(&mode, B115200);
        mode.c_cflag |= CLOCAL;
        tcsetattr(serial_fd, TCSANOW, &mode);
    }
}

static unsigned long available_mib(void) {
    unsigned long kib = 0;
    char line[128];
    FILE* file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %lu", &kib) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return kib / 1024;
}

int main(void) {
    FILE* file = fopen("/proc/cmdline", "re");
    if (file) {
        if (!fgets(cmdline, sizeof cmdline, file)) {
            cmdline[0] = 0;
        }
        fclose(file);
    }
    open_serial();
    // Idle: a few MiB a second, so that a guest costs an emulating host little. Load: as fast as it
    // goes.
    bool load = strcmp(parameter("qhup.mode", "idle"), "load") == 0;
    ram_rate_kib = number("qhup.ram_rate_kib", load ? 0 : 4096);
    disk_rate_kib = number("qhup.disk_rate_kib", load ? 0 : 512);
    unsigned long share = number("qhup.ram_percent", load ? 60 : 10);
    ram_bytes = available_mib() * MIB / 100 * (share > 85 ? 85 : share);

    start(run_udp, NULL);
    start(run_sink, NULL);
    start(run_tcp, NULL);
    const char* disk = start_disk();
    start_file();
    if (ram_bytes >= MIB) {
        start(run_ram, NULL);
    }
    watch_power_buttons();
    say("ready vcpus=%ld ram_mib=%lu disk=%s uptime_ms=%lu",
        sysconf(_SC_NPROCESSORS_ONLN),
        (unsigned long)(ram_bytes / MIB),
        disk,
        (unsigned long)(now_ns(CLOCK_BOOTTIME) / 1000000u));
    start(run_counter, NULL);
    start(run_stat, NULL);
    obey_the_serial_line();
}
