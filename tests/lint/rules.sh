#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Checks the text of the repository against docs/pitfalls.md. Each finding is printed with the
# number of its pitfall; rules without a number there have a letter.
#   rules.sh [folder]     the repository by default
# A line that must break a rule says so: "// lint: allow 11, <reason>".
set -u
shopt -s lastpipe # why: report() at the end of a pipe sets `failed`
cd "${1:-$(dirname "$0")/../..}" || exit 2

failed=0
production=$(find common qmp-client upgrade-engine daemon ctl -name '*.[ch]pp' 2>/dev/null | sort)
headers=$(grep -E '\.hpp$' <<<"$production")
test_code=$(find tests bench -name '*.[ch]pp' 2>/dev/null | sort)
coroutines=$(grep -lE 'co_await|co_return' $production /dev/null)

# report NUMBER WHY < findings ("file:line: text")
report() {
    local findings
    findings=$(grep -v "lint: allow $1," || true)
    if [ -n "$findings" ]; then
        failed=1
        sed "s/^/pitfall $1: $2\n    /" <<<"$findings"
    fi
}

# search REGEX FILE...: code only; what follows // and what stands in string literals is not code
search() {
    local regex=$1
    shift
    [ $# -eq 0 ] && return
    perl -ne '
        BEGIN { $regex = shift }
        $code = $_;
        $keeps = $code =~ m{// lint: allow} ? " $&$'"'"'" : "";
        $code =~ s{"(?:[^"\\]|\\.)*"}{""}g unless /^#include/;
        $code =~ s{//.*}{};
        print "$ARGV:$.: $_" if $code =~ $regex;
        close ARGV if eof;
    ' "$regex" "$@"
}

except() { # except NAME-REGEX: of the files on standard input
    grep -vE "$1" || true
}

search '\basio::detached\b|,\s*detached\s*\)|asio/detached' $production $test_code |
    report 1 "start roots with TaskGroup::spawn(), nothing else counts and joins them"

search '\[[&=]\]' $coroutines |
    report 2 "say what a lambda captures in a file with coroutines; captures die with the lambda"
search '\[\s*[^\]\s][^\]]*\]\s*\([^)]*\)\s*(mutable\s*)?->\s*(boost::)?(asio::)?awaitable' $coroutines |
    report 2 "no capturing lambda coroutine: use a member function or parameters"

search 'this_thread::sleep|\busleep\(|\bnanosleep\(|\bpopen\(|::system\(|std::system\(' $(except '^ctl/' <<<"$production") |
    report 3 "nothing blocks the reactor: await a timer, or use blocking()"

search '\b[Jj]son::parse\(' $(except '/(message|api_types|config|journal|record)[a-z_]*\.cpp$' <<<"$production") |
    report 4 "JSON comes in at the border files only, through their bounded parse"

search '\bstd::sto(i|l|ll|ul|ull|f|d|ld)\(|\batoi\(|\batol\(' $production |
    report 5 "conversions that throw or cannot fail: use std::from_chars"

search '\b(desc|peer_text)\b[^;]*(==|!=|\.find\(|starts_with\(|contains\(|regex)' $production |
    report 6 "text for people decides nothing: branch on codes"

search '^\s*using namespace' $headers |
    report 7 "no using namespace in a header"

search '^\s*(\[\[nodiscard\]\] )?(static |virtual )*bool (load|store|parse|connect|send|write|read|start|undo)_\w*\(' $headers |
    report 8 "a function that can fail returns a Result"

search '\b(unsigned|int|long|size_t|u?int(32|64)_t)\s+(\w+_)?(timeout|delay|interval|duration|deadline|lease)\b' $headers |
    report 9 "time has a unit in its type (std::chrono), or in its name at a border"

search '(^|[^:\w])::close\(' $(except '^common/unique_fd.cpp$' <<<"$production") |
    report 11 "descriptors have an owner: UniqueFd"

search 'this_thread::sleep|\busleep\(|[^_\w]sleep\(' $test_code |
    report 12 "no sleeps in tests: wait for what is meant, with a deadline"

grep -nE '\b(TODO|FIXME|XXX)\b' $production $test_code /dev/null | grep -vE 'TODO\(#[0-9]+\): ' |
    report 13 "TODO(#issue): with an issue and a reason"

pure='^(common/(result|text|deadline|id)|qmp-client/(errors|message|framer|session|read_budget)|upgrade-engine/(phase|plan|vm_facts|blockers|argv_plan|recovery|scheduler)|daemon/(config|api_types|authorization|event_log|api_types_events|api_types_history|api_types_selftest|selftest_judge|routes|problems|journal_rows|fault_points|holds|vm_policy|vm_labels|way_back_trials|run_stages|run_view|run_ids|pause_history|way_back|rehearsal_choice|engine_config)|ctl/render)\.[ch]pp$'
pure_files=$(grep -E "$pure" <<<"$production")
search '#include\s+(<boost/asio|"common/(async|task_group|log)\.hpp"|<spdlog|<fstream>|<unistd\.h>)' $pure_files |
    report 14 "a pure file has no Asio, files or logging"
search '(system_clock|steady_clock|Clock)::now\(' $(except '^common/deadline' <<<"$pure_files") |
    report 14 "a pure file gets the time as an input"

# ---- rules without a pitfall

for file in $production $test_code; do
    case $(head -1 "$file") in
        *SPDX-License-Identifier:*) ;;
        *) echo "$file:1: no SPDX line" ;;
    esac
done | report S "the first line is SPDX-License-Identifier"

search '#include\s+<toml\+\+' $(except '^common/toml\.hpp$' <<<"$production") |
    report T "toml++ aborts on some texts: include toml.hpp of common, which takes its assertions away"

search 'istreambuf_iterator|\.rdbuf\(\)' $(except '^ctl/' <<<"$production") |
    report R "throws where a read fails, and the daemon stops: read_file() of common"

# Dependencies run one way: daemon -> upgrade-engine -> qmp-client -> common. ctl shares the types
# of the API with the daemon and the codes with the engine, and nothing else.
layer() { # layer FOLDER FORBIDDEN-FOLDERS
    search "#include \"($2)" $(grep "^$1/" <<<"$production") |
        report L "dependencies run one way: $1 must not include this"
}
layer common '(qmp-client|upgrade-engine|daemon|ctl|tests)/'
layer qmp-client '(upgrade-engine|daemon|ctl|tests)/'
layer upgrade-engine '(daemon|ctl|tests)/'
layer daemon '(ctl|tests)/'
layer ctl '(daemon/(?!api_types|nearest_name)|upgrade-engine/(?!errors)|qmp-client/|tests/)'

if command -v clang-format >/dev/null && [ -f .clang-format ]; then
    clang-format --dry-run $production $test_code 2>&1 | grep -E 'warning: code should be clang-formatted' |
        awk -F: '!seen[$1]++ { print $1 ":" $2 ": run clang-format -i" }' | report F "formatting"
fi

if [ -d .git ] && [ -f tests/lint/commit_areas.txt ]; then
    areas=$(paste -sd'|' tests/lint/commit_areas.txt)
    git log --no-merges --format='%h %s' | grep -vE "^[0-9a-f]+ ($areas): [^ ]" |
        report C "the subject is 'area: summary' with an area of commit_areas.txt"
    git log --no-merges --format='%h %s' | awk '{ hash = $1; $1 = ""; if (length($0) - 1 > 72) print hash $0 }' |
        report C "the subject has at most 72 characters"
    for hash in $(git log --no-merges --format=%h); do
        git log -1 --format=%b "$hash" | grep -q '^Tested: ' || git log -1 --format='%h %s' "$hash"
    done | report C "the body has a line 'Tested: ...'"
fi

[ $failed -eq 0 ] && echo "no findings"
exit $failed
