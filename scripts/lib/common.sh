# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Sourced by the scripts of this folder's parent and by tests/guest/build-guest: messages, the cache folder, and
# an apt of our own that fetches Debian packages and sources without touching the host's.
# Messages go to stderr, so that a script's stdout is only its result.

QHUP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
QHUP_CACHE=${QHUP_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/qhup}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# with_lock FILE: holds FILE's lock until this shell ends. Tells when it has to wait.
with_lock() {
    mkdir -p "$(dirname "$1")"
    exec {QHUP_LOCK_FD}>"$1"
    if ! flock -n "$QHUP_LOCK_FD"; then
        say "another process holds $1; waiting for it"
        flock "$QHUP_LOCK_FD"
    fi
}

# newest_version: the highest Debian version among the lines of stdin.
newest_version() {
    local best='' version
    while read -r version; do
        if [ -z "$best" ] || dpkg --compare-versions "$version" gt "$best"; then best=$version; fi
    done
    [ -n "$best" ] && printf '%s\n' "$best"
}

# host_mirror SUITE: the URI that the host's own apt configuration uses for SUITE (nothing if it has none).
host_mirror() {
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
        | awk -v suite="$1" '$2 == suite && $3 == "main" { print $1; exit }'
}

# host_suite: the suite of the host's Debian, e.g. bookworm.
host_suite() {
    # shellcheck disable=SC1091
    (. /etc/os-release && printf '%s\n' "${VERSION_CODENAME:-bookworm}")
}

# own_apt_conf SUITE: writes an apt configuration whose lists, cache and status live in our cache, and prints its path.
# It takes the host's Acquire settings (proxies, retries) but none of its hooks.
own_apt_conf() {
    local suite=$1 dir=$QHUP_CACHE/apt/$1 own main security options=''
    own=$(host_suite)
    main=$(host_mirror "$own")
    security=$(host_mirror "$own-security")
    [ -n "$main" ] || die "apt's configuration names no mirror for $own main; add one to /etc/apt/sources.list"
    mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial "$dir"/etc
    touch "$dir/status"
    [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] \
        && options='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
    {
        printf 'deb %s%s %s main\ndeb-src %s%s %s main\n' "$options" "$main" "$suite" "$options" "$main" "$suite"
        if [ -n "$security" ]; then
            printf 'deb %s%s %s-security main\ndeb-src %s%s %s-security main\n' \
                "$options" "$security" "$suite" "$options" "$security" "$suite"
        fi
    } >"$dir/sources.list"
    {
        apt-config dump | grep '^Acquire::' | grep -v -e '^Acquire::IndexTargets' -e '^Acquire::Changelogs' \
            -e '^Acquire::Languages' || true
        cat <<EOF
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "$dir/etc";
Dir::Etc::main "$dir/etc/none";
EOF
    } >"$dir/apt.conf"
    printf '%s\n' "$dir/apt.conf"
}

# own_apt_update SUITE [MAX-AGE-DAYS]: fetches SUITE's lists unless they are younger than that (default 7).
# After failure: older lists, if there are any, still serve.
own_apt_update() {
    local suite=$1 days=${2:-7} dir=$QHUP_CACHE/apt/$1 conf
    if [ -n "$(find "$dir/updated" -mtime "-$days" 2>/dev/null)" ]; then return 0; fi
    conf=$(own_apt_conf "$suite")
    say "fetching Debian $suite's package lists"
    if APT_CONFIG=$conf apt-get -q -o APT::Update::Error-Mode=any update >"$dir/update.log" 2>&1; then
        touch "$dir/updated"
    else
        tail -n 5 "$dir/update.log" >&2
        return 1
    fi
}
