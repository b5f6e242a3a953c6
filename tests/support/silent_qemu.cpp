// SPDX-License-Identifier: GPL-2.0-or-later
//
// silent-qemu: the binary of a release in tests with stand-in VMs. It passes for a QEMU when it is
// looked at, and answers nothing when it is asked what it can do.
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
    if (argc == 2 && std::strcmp(argv[1], "-version") == 0) {
        std::puts("QEMU emulator version of tests");
        return 0;
    }
    return 1;
}
