// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/argv_plan.hpp"

#include <algorithm>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace qhup::upgrade;

namespace {

constexpr QemuVersion kOld{7, 2, 22};
constexpr QemuVersion kNew{10, 0, 13};

std::vector<std::string> words(const std::string& line) {
    std::istringstream stream(line);
    std::vector<std::string> result;
    for (std::string word; stream >> word;) {
        result.push_back(word);
    }
    return result;
}

std::string joined(const std::vector<std::string>& argv) {
    std::string line;
    for (const std::string& word : argv) {
        line += (line.empty() ? "" : " ") + word;
    }
    return line;
}

ArgvRequest make_request(const std::string& line, QemuVersion target) {
    return {words(line), "pc-i440fx-7.2", target, "q", {}, {}, "deb13"};
}

/// The planned line; fails the test if there is none. Planning it again must change nothing.
std::string planned(const std::string& line, QemuVersion target) {
    const ArgvPlan plan = plan_argv(make_request(line, target));
    for (const ArgvProblem& problem : plan.problems) {
        FAIL_CHECK(problem.option << ": " << problem.reason);
    }
    const ArgvPlan again = plan_argv(make_request(joined(plan.argv), target));
    CHECK(again.argv == plan.argv);
    return joined(plan.argv);
}

std::vector<std::string> refused(const std::string& line, QemuVersion target) {
    std::vector<std::string> options;
    for (const ArgvProblem& problem : plan_argv(make_request(line, target)).problems) {
        CHECK(problem.reason.ends_with("."));
        options.push_back(problem.option);
    }
    return options;
}

using Options = std::vector<std::string>;

struct Row {
    const char* source;
    const char* target;
};

} // namespace

TEST_CASE("what belongs to the start of the source is dropped", "[upgrade][argv_plan]") {
    const std::string kept = "q -machine pc-i440fx-7.2 -m 1G";
    for (const char* const option :
         {"-S",
          "--S",
          "-daemonize",
          "-loadvm snap",
          "-pidfile /run/p",
          "--pidfile /run/p",
          "-runas nobody",
          "-incoming defer",
          "-incoming {\"channel-type\":\"main\"}"}) {
        INFO(option);
        CHECK(planned(std::string("qemu -machine pc ") + option + " -m 1G", kNew) == kept);
        CHECK(planned(std::string("qemu -machine pc -m 1G ") + option, kOld) == kept);
    }
}

TEST_CASE("an argument that looks like an option stays an argument", "[upgrade][argv_plan]") {
    CHECK(planned("qemu -M pc -name -S -m 1G", kNew) == "q -M pc-i440fx-7.2 -name -S -m 1G");
    CHECK(
        planned("qemu -M pc -append -daemonize", kNew) == "q -M pc-i440fx-7.2 -append -daemonize"
    );
}

TEST_CASE("what a target cannot honour is refused", "[upgrade][argv_plan]") {
    CHECK(refused("qemu -M pc -chroot /var/empty", kOld) == Options{"-chroot"});
    CHECK(refused("qemu -M pc --snapshot", kNew) == Options{"--snapshot"});
    CHECK(refused("qemu -M pc -preconfig", kNew) == Options{"-preconfig"});
    CHECK(refused("qemu -M pc -plugin libx.so", kNew) == Options{"-plugin"});
    CHECK(refused("qemu -M pc -device AC97", kNew) == Options{"-device"});
    CHECK(refused("qemu -M pc -device AC97", kOld).empty());
    CHECK(refused("qemu -M pc -audio none -device AC97", kNew).empty());
    CHECK(refused("qemu -M pc -device AC97,audiodev=a", kNew).empty());
    const std::string memory = "qemu -M pc -object memory-backend-memfd,id=m,size=32M,prealloc=";
    CHECK(refused(memory + "on -device virtio-mem-pci,memdev=m", kNew) == Options{"-device"});
    CHECK(refused(memory + "on -device virtio-mem-pci,memdev=m", kOld).empty());
    CHECK(refused(memory + "on -device pc-dimm,memdev=m", kNew).empty());
    CHECK(refused(memory + "off -device virtio-mem-pci,memdev=m", kNew).empty());
    CHECK(refused("qemu -M pc -readconfig /dev/fd/3", kNew) == Options{"-readconfig"});
    CHECK(refused("qemu -M pc -readconfig /dev/stdin", kOld) == Options{"-readconfig"});
    CHECK(refused("qemu -M pc -readconfig more.cfg", kOld).empty());
    CHECK(
        refused("qemu -M pc -run-with chroot=/x,user=nobody", kNew) == Options{"-run-with chroot"}
    );
    CHECK(refused("qemu -M pc -snapshot -chroot /x", kNew) == Options{"-snapshot", "-chroot"});
}

TEST_CASE("a command line that nobody can read is refused", "[upgrade][argv_plan]") {
    CHECK(refused("", kNew) == Options{""});
    CHECK(refused("qemu -frobnicate", kNew) == Options{"-frobnicate"});
    CHECK(refused("qemu -m", kNew) == Options{"-m"});
    CHECK(refused("qemu -", kNew) == Options{"-"});
    CHECK(refused("qemu ---S", kNew) == Options{"---S"});
}

TEST_CASE("the machine type becomes the source's own", "[upgrade][argv_plan]") {
    for (const Row& row : {
             Row{"qemu", "q -machine pc-i440fx-7.2"},
             Row{"qemu -m 1G", "q -m 1G -machine pc-i440fx-7.2"},
             Row{"qemu -machine pc", "q -machine pc-i440fx-7.2"},
             Row{"qemu -M pc,accel=kvm", "q -M pc-i440fx-7.2,accel=kvm"},
             Row{"qemu --machine accel=kvm,type=pc", "q --machine accel=kvm,type=pc-i440fx-7.2"},
             Row{"qemu -machine accel=kvm", "q -machine accel=kvm -machine pc-i440fx-7.2"},
             Row{"qemu -M q35 -machine pc", "q -M pc-i440fx-7.2 -machine pc-i440fx-7.2"},
             Row{"qemu -M pc -readconfig f",
                 "q -M pc-i440fx-7.2 -readconfig f -machine pc-i440fx-7.2"},
             Row{"qemu -readconfig f -M pc", "q -readconfig f -M pc-i440fx-7.2"},
             Row{"qemu disk.img", "q disk.img -machine pc-i440fx-7.2"},
         }) {
        INFO(row.source);
        CHECK(planned(row.source, kNew) == row.target);
        CHECK(planned(row.source, kOld) == row.target);
    }
}

TEST_CASE("what 10.0 removed is said in its words", "[upgrade][argv_plan]") {
    for (const Row& row : {
             Row{"-no-acpi", "-machine acpi=off"},
             Row{"--no-hpet", "-machine hpet=off"},
             Row{"-async-teardown", "-run-with async-teardown=on"},
             Row{"-singlestep", "-accel tcg,one-insn-per-tb=on"},
             Row{"-singlestep -accel tcg,thread=single",
                 "-accel tcg,thread=single,one-insn-per-tb=on"},
             Row{"-chardev tty,id=a,path=/dev/ttyS0", "-chardev serial,id=a,path=/dev/ttyS0"},
             Row{"-chardev parport,id=a,path=/p", "-chardev parallel,id=a,path=/p"},
             Row{"-smp 8,sockets=0,cores=0", "-smp 8"},
             Row{"-global migration.decompress-error-check=off", ""},
             Row{"-device virtio-blk-pci,scsi=off,drive=d", "-device virtio-blk-pci,drive=d"},
             Row{"-audiodev none,id=a -device AC97", "-audiodev none,id=a -device AC97,audiodev=a"},
             Row{"-audiodev none,id=a -audiodev none,id=b -device hda-duplex,audiodev=b",
                 "-audiodev none,id=a -audiodev none,id=b -device hda-duplex,audiodev=b"},
         }) {
        INFO(row.source);
        std::string target = "q -M pc-i440fx-7.2";
        target += *row.target != '\0' ? " " + std::string(row.target) : "";
        // why: -singlestep is said at the end, wherever it stood
        CHECK(planned("qemu -M pc " + std::string(row.source), kNew) == target);
    }
}

TEST_CASE("single steps take the accelerator of the machine along", "[upgrade][argv_plan]") {
    CHECK(
        planned("qemu -M pc,accel=kvm:tcg -singlestep", kNew) ==
        "q -M pc-i440fx-7.2 -accel kvm -accel tcg,one-insn-per-tb=on"
    );
}

TEST_CASE("what 7.2 does not have is said in its words", "[upgrade][argv_plan]") {
    for (const Row& row : {
             Row{"-run-with async-teardown=on", "-async-teardown"},
             Row{"-run-with async-teardown=off", ""},
             Row{"-run-with user=nobody", ""},
             Row{"-accel tcg,one-insn-per-tb=on", "-accel tcg -singlestep"},
             Row{"-chardev socket,id=a,path=/p,reconnect-ms=1500",
                 "-chardev socket,id=a,path=/p,reconnect=2"},
             Row{"-chardev socket,id=a,path=/p,reconnect-ms=0",
                 "-chardev socket,id=a,path=/p,reconnect=0"},
             Row{"-perfmap -jitdump", ""},
         }) {
        INFO(row.source);
        std::string target = "q -M pc-i440fx-7.2";
        target += *row.target != '\0' ? " " + std::string(row.target) : "";
        CHECK(planned("qemu -M pc " + std::string(row.source), kOld) == target);
    }
}

TEST_CASE("what nothing replaces in the other release is refused", "[upgrade][argv_plan]") {
    for (const char* const option :
         {"-portrait",
          "-rotate 90",
          "-spice password=x",
          "-fsdev proxy,id=f,socket=s",
          "-virtfs proxy,mount_tag=t,socket=s",
          "-device sga",
          "-device virtio-blk,scsi=on",
          "-accel hax"}) {
        INFO(option);
        CHECK(refused("qemu -M pc " + std::string(option), kNew).size() == 1);
        CHECK(refused("qemu -M pc " + std::string(option), kOld).empty());
    }
    for (const char* const option :
         {"-shim s",
          "-machine aux-ram-share=on",
          "-netdev af-xdp,id=n,ifname=e",
          "-netdev stream,id=n,reconnect=1",
          "-audio none",
          "-object memory-backend-shm,id=m,size=1M",
          "-overcommit mem-lock=on-fault",
          "-smp 4,modules=2",
          "-chardev hub,id=h"}) {
        INFO(option);
        CHECK(refused("qemu -M pc " + std::string(option), kOld).size() == 1);
        CHECK(refused("qemu -M pc " + std::string(option), kNew).empty());
    }
}

TEST_CASE("all else is kept as it is and in its order", "[upgrade][argv_plan]") {
    const std::string rest =
        " -M pc-i440fx-7.2,accel=kvm -cpu host -smp 2 -m 1G -name a,,b "
        "-sandbox on,spawn=allow -blockdev {\"driver\":\"file\"} "
        "-device {\"driver\":\"virtio-blk-pci\",\"scsi\":false} rel/disk.img "
        "--netdev tap,id=n,fds=3:4 -drive file=rel/x,,y.img -watchdog-action reset -nographic";
    CHECK(planned("/usr/bin/qemu-system-x86_64" + rest, kNew) == "q" + rest);
    CHECK(planned("/usr/bin/qemu-system-x86_64" + rest, kOld) == "q" + rest);
}

TEST_CASE("any number of hops ends in the same two command lines", "[upgrade][argv_plan]") {
    std::string line = "qemu -no-acpi -singlestep -async-teardown -M pc,accel=tcg -S -daemonize "
                       "-pidfile /p -runas a -smp 2,cores=0 -audiodev none,id=a -device AC97 "
                       "-chardev socket,id=c,path=/p,reconnect=3";
    const std::string first_new = planned(line, kNew);
    const std::string first_old = planned(first_new, kOld);
    line = first_old;
    for (int hop = 0; hop < 5; ++hop) {
        const std::string on_new = planned(line, kNew);
        line = planned(on_new, kOld);
        CHECK(line == first_old);
    }
}

TEST_CASE("the release's own arguments come last and do not pile up", "[upgrade][argv_plan]") {
    const std::vector<std::string> old_tail{"-L", "/old", "-L", "/old/bios"};
    const std::vector<std::string> new_tail{"-L", "/new", "-no-user-config"};
    ArgvRequest request = make_request("qemu -M pc -L /mine", kNew);
    request.known_tails = {old_tail, new_tail, {}};
    request.tail = new_tail;
    const auto on_new = plan_argv(request).argv;
    CHECK(joined(on_new) == "q -M pc-i440fx-7.2 -L /mine -L /new -no-user-config");
    request.source_argv = on_new;
    request.tail = old_tail;
    request.target = kOld;
    const auto on_old = plan_argv(request).argv;
    CHECK(joined(on_old) == "q -M pc-i440fx-7.2 -L /mine -L /old -L /old/bios");
    request.source_argv = on_old;
    CHECK(plan_argv(request).argv == on_old);
}

TEST_CASE("a release cannot add what a hot upgrade must not have", "[upgrade][argv_plan]") {
    for (const char* const tail :
         {"-S",
          "-machine q35",
          "-incoming defer",
          "-snapshot",
          "disk.img",
          "-pidfile /p",
          "-wat",
          "-m"}) {
        INFO(tail);
        ArgvRequest request = make_request("qemu -M pc", kNew);
        request.tail = words(tail);
        CHECK_FALSE(plan_argv(request).is_usable());
    }
}

TEST_CASE("the option table is that of the two releases", "[upgrade][argv_plan]") {
    std::set<std::string_view> names;
    std::size_t in_old = 0;
    std::size_t in_new = 0;
    for (const QemuOption& option : qemu_options()) {
        CHECK(names.insert(option.name).second);
        in_old += is_known_to(option, kOld) ? 1U : 0U;
        in_new += is_known_to(option, kNew) ? 1U : 0U;
    }
    // qemu: the DEF()s of qemu-options.hx in 7.2.22 and 10.0.13, and -h, which is not among them
    CHECK(in_old == 121 + 1);
    CHECK(in_new == 116 + 1);
    for (const char* const name : {"m", "device", "sandbox", "L", "D", "watchdog-action", "msg"}) {
        CHECK(find_qemu_option(name)->has_argument);
    }
    for (const char* const name : {"S", "s", "snapshot", "nographic", "usb", "enable-kvm"}) {
        CHECK_FALSE(find_qemu_option(name)->has_argument);
    }
}

TEST_CASE("the pidfile is the last one that is named", "[upgrade][argv_plan]") {
    CHECK(pidfile_of(words("qemu -pidfile a -m 1 --pidfile b")) == "b");
    CHECK(pidfile_of(words("qemu -name -pidfile x")).empty());
    CHECK(pidfile_of(words("qemu -pidfile")).empty());
}

TEST_CASE("what is wrong in the options of a release is said of the release", "[upgrade][argv]") {
    for (const std::vector<std::string>& tail :
         {std::vector<std::string>{"-nosuch"}, std::vector<std::string>{"-L"}}) {
        ArgvRequest request = make_request("q -m 64", {10, 0, 13});
        request.tail = tail;
        const ArgvPlan plan = plan_argv(request);
        REQUIRE(plan.problems.size() == 1);
        INFO(plan.problems.front().reason);
        CHECK(plan.problems.front().reason.find("The release deb13 adds") == 0);
        CHECK(plan.problems.front().reason.find("start the VM") == std::string::npos);
    }
}

TEST_CASE("the options of a plan are named once, as QEMU names them", "[upgrade][argv_plan]") {
    const ArgvPlan plan = plan_argv(make_request("q -m 1 --smp 2 -m 2 -S disk.img -M pc", kNew));
    CHECK(plan.options == std::vector<std::string_view>{"m", "smp", "M"});
}
