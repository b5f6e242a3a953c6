// SPDX-License-Identifier: GPL-2.0-or-later
//
// For LD_PRELOAD: fsync of files whose name ends in $SLOW_FSYNC_FILE takes $SLOW_FSYNC_MS longer.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *end = getenv("SLOW_FSYNC_FILE"), *delay = getenv("SLOW_FSYNC_MS");
    char link[32], name[4096];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, name, sizeof(name) - 1);
    if (end && delay && length >= (ssize_t)strlen(end) && !strncmp(name + length - strlen(end), end, strlen(end))) {
        usleep((unsigned)atoi(delay) * 1000u);
    }
    return real(fd);
}
