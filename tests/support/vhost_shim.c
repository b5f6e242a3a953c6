// SPDX-License-Identifier: GPL-2.0-or-later
//
// Preloaded into a QEMU where the kernel has no vhost: opens of /dev/vhost-{net,vsock,scsi}
// succeed, their ioctls do nothing, and each is a line of $VHOST_SHIM_LOG: "<pid> <descriptor>
// <what> [<numbers>]". Lines of several processes are in the order in which the calls were made. No
// data flows; this is for the order of starts and stops.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { most = 4096 };
static char is_ours[most];
static unsigned bases[most][8];

static void note(int fd, const char* what, long a, long b) {
    char line[128];
    const char* path = getenv("VHOST_SHIM_LOG");
    int length = snprintf(line, sizeof line, "%d %d %s %ld %ld\n", (int)getpid(), fd, what, a, b);
    int file = path ? openat(AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (file >= 0) {
        if (write(file, line, (size_t)length) < 0) {
            abort();
        }
        close(file);
    }
}

static int open_ours(const char* path) {
    static const char* const paths[] = {"/dev/vhost-net", "/dev/vhost-vsock", "/dev/vhost-scsi"};
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (strcmp(path, paths[i]) == 0) {
            int fd = eventfd(0, EFD_CLOEXEC);
            if (fd >= most) {
                close(fd);
                errno = EMFILE;
                return -1;
            }
            if (fd >= 0) {
                is_ours[fd] = 1;
                note(fd, path + strlen("/dev/"), 0, 0);
            }
            return fd;
        }
    }
    return -2;
}

int open(const char* path, int flags, ...) {
    int (*next)(const char*, int, ...) = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open");
    int fd = open_ours(path);
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fd != -2 ? fd : next(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open(path, flags, mode);
}

int close(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (fd >= 0 && fd < most && is_ours[fd]) {
        is_ours[fd] = 0;
        note(fd, "close", 0, 0);
    }
    return next(fd);
}

static int answer(int fd, unsigned long request, void* argument) {
    struct vhost_vring_state* state = argument;
    struct vhost_vring_file* file = argument;
    switch (request) {
    case VHOST_GET_FEATURES:
        // log, vnet header, mergeable buffers, indirect descriptors, event index, virtio 1
        *(uint64_t*)argument =
            1ull << 26 | 1ull << 27 | 1ull << 15 | 1ull << 28 | 1ull << 29 | 1ull << 32;
        return 0;
    case VHOST_GET_BACKEND_FEATURES: *(uint64_t*)argument = 0; return 0;
    case VHOST_SET_OWNER: note(fd, "owner", 0, 0); return 0;
    case VHOST_SET_MEM_TABLE:
        note(fd, "memory", ((struct vhost_memory*)argument)->nregions, 0);
        return 0;
    case VHOST_SET_VRING_BASE:
        bases[fd][state->index % 8] = state->num;
        note(fd, "set-base", state->index, state->num);
        return 0;
    case VHOST_GET_VRING_BASE:
        state->num = bases[fd][state->index % 8];
        note(fd, "get-base", state->index, state->num);
        return 0;
    case VHOST_NET_SET_BACKEND:
        note(fd, file->fd < 0 ? "stop" : "start", file->index, file->fd);
        return 0;
    case VHOST_SCSI_GET_ABI_VERSION: *(int*)argument = VHOST_SCSI_ABI_VERSION; return 0;
    default: return 0;
    }
}

int ioctl(int fd, unsigned long request, ...) {
    int (*next)(int, unsigned long, ...) =
        (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list arguments;
    va_start(arguments, request);
    void* argument = va_arg(arguments, void*);
    va_end(arguments);
    return fd >= 0 && fd < most && is_ours[fd] ? answer(fd, request, argument)
                                               : next(fd, request, argument);
}
