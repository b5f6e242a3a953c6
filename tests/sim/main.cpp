// SPDX-License-Identifier: GPL-2.0-or-later
//
// The simulation: many runs, or one again.
#include "tests/sim/mutations.hpp"
#include "tests/sim/simulation.hpp"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <ctime>
#include <optional>
#include <string>
#include <utility>

using namespace qhup::sim;

namespace {

double cpu_seconds() {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

/// A run that broke a rule.
struct Failed {
    std::uint64_t seed = 0;
    std::string why;
};

/// Which seeds.
struct Range {
    std::uint64_t first = 1;
    std::uint64_t runs = 100'000;
};

/// The first run that breaks a rule.
std::optional<Failed> find_failure(Range range, Hits& hits, std::uint64_t& steps) {
    for (std::uint64_t seed = range.first; seed < range.first + range.runs; ++seed) {
        Verdict verdict = simulate(seed, hits, false);
        steps += verdict.steps;
        if (!verdict.broken.empty()) {
            return Failed{seed, std::move(verdict.broken)};
        }
    }
    return std::nullopt;
}

int replay(std::uint64_t seed) {
    Hits hits;
    set_hits(&hits);
    const Verdict verdict = simulate(seed, hits, true);
    std::cout << verdict.story
              << (verdict.broken.empty() ? "every rule holds" : verdict.broken.c_str()) << "\n";
    return verdict.broken.empty() ? 0 : 1;
}

/// A run that ended so, for who wants to see one.
int find_end(Range range, const std::string& end) {
    for (std::uint64_t seed = range.first; seed < range.first + range.runs; ++seed) {
        Hits hits;
        const Verdict verdict = simulate(seed, hits, false);
        if (hits.claims.contains(end)) {
            std::cout << "seed " << seed << "\n";
            return replay(seed);
        }
    }
    std::cout << "no run ended so\n";
    return 1;
}

int run_many(Range range) {
    Hits hits;
    set_hits(&hits);
    std::uint64_t steps = 0;
    const auto failed = find_failure(range, hits, steps);
    std::cout << hits.to_text();
    if (failed) {
        std::cout << "seed " << failed->seed << ": " << failed->why << "\n"
                  << "its story: simulation --seed " << failed->seed << "\n";
        return 1;
    }
    const auto gaps = hits.find_gaps();
    for (const std::string& gap : gaps) {
        std::cout << gap << "\n";
    }
    std::cout << range.runs << " runs from seed " << range.first << ", " << steps << " steps, "
              << cpu_seconds() << " s of processor time\n";
    return gaps.empty() ? 0 : 1;
}

/// Each mistake must be found, and its seed must fail again in the same words.
int hunt(Range range) {
    bool is_missed = false;
    for (const MutationRow& row : all_mutations()) {
        set_mutation(row.mutation);
        Hits hits;
        std::uint64_t steps = 0;
        const auto failed = find_failure(range, hits, steps);
        std::cout << row.name << ": ";
        if (!failed) {
            std::cout << "NOT FOUND in " << range.runs << " runs\n";
            is_missed = true;
            continue;
        }
        std::cout << "found by seed " << failed->seed << ": " << failed->why << "\n";
        if (simulate(failed->seed, hits, false).broken != failed->why) {
            std::cout << row.name << ": seed " << failed->seed << " does NOT fail again\n";
            is_missed = true;
        }
    }
    set_mutation(Mutation::none);
    return is_missed ? 1 : 0;
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{"Simulates upgrades of one VM in a world where everything goes wrong."};
    Range range;
    std::optional<std::uint64_t> seed;
    std::string mutation_name;
    std::string end;
    bool is_hunt = false;
    app.add_option("--first", range.first, "seed of the first run");
    app.add_option("--runs", range.runs, "how many");
    app.add_option("--seed", seed, "run this one and tell its story");
    app.add_option("--end", end, "tell the story of a run that ended so: 'refused (stale)'");
    app.add_option("--mutation", mutation_name, "make this mistake");
    app.add_flag("--hunt", is_hunt, "make each mistake, and see that it is found");
    CLI11_PARSE(app, argc, argv);
    for (const MutationRow& row : all_mutations()) {
        if (row.name == mutation_name) {
            set_mutation(row.mutation);
        }
    }
    if (!mutation_name.empty() && mutation() == Mutation::none) {
        std::cerr << "there is no mutation '" << mutation_name << "'\n";
        return 2;
    }
    if (is_hunt) {
        return hunt(range);
    }
    if (!end.empty()) {
        return find_end(range, end);
    }
    return seed ? replay(*seed) : run_many(range);
}
