// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runs a fuzz target without libFuzzer: over every file of a folder, and for some seconds over what
// small changes make of them. Always the same ones, so a failure comes again.
//   PROGRAM FOLDER [SECONDS]
#include "tests/fuzz/fuzz.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

std::string g_last; // what was tried last

void run(const std::string& input) {
    g_last = input;
    (void
    )LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(g_last.data()), g_last.size());
}

/// Leaves what ended the process where it can be tried again.
void save_last(int /*signal*/) {
    std::ofstream("fuzz-crash", std::ios::binary) << g_last;
    std::cerr << "the input is in fuzz-crash\n";
    std::_Exit(1);
}

std::string change(const std::vector<std::string>& corpus, std::mt19937_64& random) {
    std::string text = corpus[random() % corpus.size()];
    for (std::uint64_t left = 1 + random() % 6; left > 0; --left) {
        const std::size_t at = text.empty() ? 0 : random() % text.size();
        switch (random() % 6) {
        case 0: text.insert(at, 1, static_cast<char>(random())); break;
        case 1: text.erase(at, 1 + random() % 8); break;
        case 2: text.resize(at); break;
        case 3: { // a piece of another one
            const std::string& other = corpus[random() % corpus.size()];
            const std::size_t from = other.empty() ? 0 : random() % other.size();
            text.insert(at, other.substr(from, random() % 40));
            break;
        }
        case 4: text.insert(at, text.substr(at, random() % 60)); break;
        default:
            if (!text.empty()) {
                text[at] = static_cast<char>(text[at] ^ (1U << (random() % 8)));
            }
        }
    }
    return text;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::cerr << "usage: " << *argv << " FOLDER|FILE [SECONDS]\n";
        return 2;
    }
    std::vector<std::filesystem::path> files;
    if (std::filesystem::is_directory(argv[1])) {
        for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
            files.push_back(entry.path());
        }
    } else {
        files.emplace_back(argv[1]);
    }
    std::sort(files.begin(), files.end());
    std::vector<std::string> corpus;
    for (const auto& file : files) {
        std::ifstream in(file, std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    if (corpus.empty()) {
        std::cerr << "there is no corpus in " << argv[1] << "\n";
        return 2;
    }
    std::signal(SIGABRT, save_last);
    std::signal(SIGSEGV, save_last);
    run("");
    for (const std::string& input : corpus) {
        run(input);
    }
    const double seconds = argc > 2 ? std::strtod(argv[2], nullptr) : 0;
    const auto end =
        Clock::now() +
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    std::mt19937_64 random(1); // NOLINT: the same each time
    std::uint64_t changed = 0;
    while (Clock::now() < end) {
        run(change(corpus, random));
        ++changed;
    }
    std::cout << corpus.size() << " files, " << changed << " changes of them\n";
    return 0;
}
