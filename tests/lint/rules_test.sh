#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Shows that each rule of rules.sh finds what it is for, and leaves good code alone.
set -u
rules=$(dirname "$(readlink -f "$0")")/rules.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
spdx='// SPDX-License-Identifier: GPL-2.0-or-later'

# expect NUMBER FILE LINE: a tree with this line has a finding of this rule ("none": no finding)
expect() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/$(dirname "$2")"
    printf '%s\n%s\n' "${FIRST-$spdx}" "$3" >"$work/tree/$2"
    local output status
    output=$("$rules" "$work/tree" 2>&1)
    status=$?
    if [ "$1" = none ]; then
        [ $status -eq 0 ] && [ "$output" = "no findings" ] && return
    else
        [ $status -eq 1 ] && grep -q "^pitfall $1: " <<<"$output" && return
    fi
    failed=1
    echo "expected $1 in $2 for: $3"
    echo "$output"
}

expect 1 daemon/a.cpp 'co_spawn(io, run(), asio::detached);'
expect 1 daemon/a.cpp 'co_spawn(io, run(), detached);'
expect none daemon/a.cpp 'return Errc::detached;'
expect none daemon/a.cpp 'CHECK(detached.status == 130);'
expect 2 daemon/a.cpp 'auto f = [&] { co_await x; };'
expect 2 daemon/a.cpp 'auto f = [this](int a) -> awaitable<void> { co_return; };'
expect none daemon/a.cpp 'auto f = [](int a) -> awaitable<void> { co_return; };'
expect none daemon/a.cpp 'std::sort(a, b, [&](int x) { return x; });'
expect 3 daemon/a.cpp 'std::this_thread::sleep_for(1s);'
expect 4 daemon/a.cpp 'auto j = nlohmann::json::parse(text);'
expect none daemon/api_types.cpp 'auto j = nlohmann::json::parse(text);'
expect T daemon/a.cpp '#include <toml++/toml.h>'
expect none common/toml.hpp '#include <toml++/toml.h>'
expect 5 ctl/a.cpp 'int n = std::stoi(text);'
expect 6 upgrade-engine/a.cpp 'if (failure.peer_text.find(word) != npos) {}'
expect 7 common/a.hpp 'using namespace std;'
expect none common/a.cpp 'using namespace std;'
expect 8 daemon/a.hpp 'bool load_config(std::string path);'
expect 9 daemon/a.hpp 'int timeout = 5;'
expect none daemon/a.hpp 'std::chrono::seconds timeout{5};'
expect none daemon/a.hpp 'int timeout_ms = 5;'
expect none daemon/a.hpp 'int release();'
expect 11 daemon/a.cpp '    ::close(fd);'
expect none daemon/a.cpp '    ::close(fd); // lint: allow 11, the number is not ours'
expect none daemon/a.cpp '    other::close(fd);'
expect 12 tests/unit/a.cpp 'usleep(10);'
expect 13 daemon/a.cpp '// TODO: later'
expect none daemon/a.cpp '// TODO(#12): later, when X is there'
expect 14 qmp-client/session.cpp '#include <boost/asio/awaitable.hpp>'
expect 14 upgrade-engine/recovery.cpp 'auto t = std::chrono::steady_clock::now();'
expect none daemon/a.cpp '// detached, std::stoi( and ::close( in a comment'
expect none daemon/a.cpp 'log().info("detached std::stoi(");'
expect L common/a.hpp '#include "daemon/config.hpp"'
expect L ctl/a.cpp '#include "qmp-client/client.hpp"'
expect none ctl/a.cpp '#include "daemon/api_types.hpp"'
expect none daemon/a.cpp '#include "upgrade-engine/plan.hpp"'
FIRST='#pragma once' expect S daemon/a.hpp 'int x;'

[ $failed -eq 0 ] && echo "every rule finds what it is for"
exit $failed
