// SPDX-License-Identifier: GPL-2.0-or-later
//
// For LD_PRELOAD: fsync of FILE, whose name ends in $HELD_FSYNC_FILE, waits while there is a FILE.hold, and makes a
// FILE.held as it begins to.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_while_held(const char *file) {
    char hold[4128], held[4128];

    snprintf(hold, sizeof(hold), "%s.hold", file);
    snprintf(held, sizeof(held), "%s.held", file);
    if (access(hold, F_OK)) {
        return;
    }
    close(open(held, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    while (!access(hold, F_OK)) {
        usleep(1000);
    }
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *end = getenv("HELD_FSYNC_FILE");
    char link[32], name[4096];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, name, sizeof(name) - 1);
    if (end && length >= (ssize_t)strlen(end)) {
        name[length] = '\0';
        if (!strcmp(name + length - strlen(end), end)) {
            wait_while_held(name);
        }
    }
    return real(fd);
}
