// SPDX-License-Identifier: GPL-2.0-or-later
//
// fake-qemu: fake VMs as a process of its own, until SIGTERM or SIGINT.
//   fake-qemu --qmp SOCKET [--name N] [--count N] [--script FILE]
// With --count, "%" in SOCKET and in the name becomes 0, 1, 2 ... The script is JSON:
//   {"vm": {fields of FakeVmOptions}, "main": {fields of FaultScript}, "control": {the same}}
#include "tests/support/fake_qemu.hpp"

#include <CLI/CLI.hpp>

#include <csignal>
#include <fstream>
#include <iostream>

namespace {

using namespace qhup::test;

std::string fill_in(std::string text, std::size_t number) {
    if (const std::size_t at = text.find('%'); at != std::string::npos) {
        text.replace(at, 1, std::to_string(number));
    }
    return text;
}

void read_script(const std::string& path, FakeQemuOptions& options) {
    std::ifstream file(path);
    const auto script = nlohmann::json::parse(file);
    options.vm = parse_fake_vm_options(script.value("vm", nlohmann::json::object()));
    options.main_script = parse_fault_script(script.value("main", nlohmann::json::object()));
    options.control_script = parse_fault_script(script.value("control", nlohmann::json::object()));
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app("A QEMU without a machine: speaks QMP and plays hot upgrades.");
    std::string qmp;
    std::string name;
    std::string script;
    std::size_t count = 1;
    app.add_option("--qmp", qmp, "socket of the main monitor")->required();
    app.add_option("--name", name, "name of the VM");
    app.add_option("--script", script, "JSON file: behaviour and faults");
    app.add_option("--count", count, "number of VMs");
    CLI11_PARSE(app, argc, argv);

    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    try {
        FakeQemuOptions options;
        if (!script.empty()) {
            read_script(script, options);
        }
        std::vector<FakeQemuOptions> all(count, options);
        for (std::size_t i = 0; i < count; ++i) {
            all[i].qmp_path = fill_in(qmp, i);
            all[i].vm.name = fill_in(name.empty() ? options.vm.name : name, i);
        }
        const FakeQemu fake(std::move(all));
        std::cout << "ready" << std::endl;
        int signal = 0;
        sigwait(&signals, &signal);
    } catch (const std::exception& exception) {
        std::cerr << "fake-qemu: " << exception.what() << '\n';
        return 1;
    }
    return 0;
}
