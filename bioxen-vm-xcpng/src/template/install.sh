# Installs what a template needs by the system's own package manager, and only what is not there.
#
# Each line of the output is a word and what it is about: `manager`, `installed`, `missing`. It ends
# with 0 when nothing is missing; otherwise the last lines of the package manager's own output follow,
# each begun by `said`.

set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
have() { command -v "$1" >/dev/null 2>&1; }
log=$(mktemp) || exit 3
trap 'rm -f "$log"' EXIT

is_lua54() { have "$1" && [ "$("$1" -e 'io.write(_VERSION)' 2>/dev/null)" = "Lua 5.4" ]; }
has_lua() { is_lua54 lua5.4; }
has_headers() {
    for dir in /usr/include /usr/local/include; do
        for name in lua5.4 lua-5.4 lua54 .; do
            if grep -q 'LUA_VERSION_NUM[[:space:]]*504' "$dir/$name/lua.h" 2>/dev/null; then return 0; fi
        done
    done
    return 1
}
has_luarocks() { have luarocks && luarocks --version >/dev/null 2>&1; }
has_compiler() { { have cc || have gcc; } && have make; }
has_sshd() { have sshd; }
has_unzip() { have unzip; }
PARTS="lua headers luarocks compiler sshd unzip"

missing() {
    for part in $PARTS; do "has_$part" || printf '%s ' "$part"; done
}

# The packages of a part, by package manager.
packages() {
    case $manager-$1 in
        apt-lua) echo lua5.4 ;;
        apt-headers) echo liblua5.4-dev ;;
        apt-compiler) echo build-essential ;;
        apk-lua) echo lua5.4 ;;
        apk-headers) echo lua5.4-dev ;;
        apk-luarocks) echo luarocks5.4 ;;
        apk-compiler) echo build-base ;;
        dnf-lua) echo lua ;;
        dnf-headers) echo lua-devel ;;
        dnf-compiler) echo gcc make ;;
        apk-sshd) echo openssh ;;
        *-sshd) echo openssh-server ;;
        *) echo "$1" ;;
    esac
}

install() {
    case $manager in
        apt)
            export DEBIAN_FRONTEND=noninteractive
            apt-get update && apt-get install --yes --no-install-recommends "$@"
            ;;
        apk) apk add "$@" ;;
        dnf) dnf install --assumeyes "$@" ;;
    esac
}

manager=none
for name in apt-get apk dnf; do
    if have "$name"; then manager=${name%-get}; break; fi
done
echo "manager $manager"

wanted=$(missing)
if [ -n "$wanted" ] && [ "$manager" != none ]; then
    # Each part may be several words.
    set --
    for part in $wanted; do
        for package in $(packages "$part"); do set -- "$@" "$package"; done
    done
    install "$@" >"$log" 2>&1 </dev/null
fi

# Some systems name the programs of Lua 5.4 otherwise.
has_lua || { is_lua54 lua && ln -sf "$(command -v lua)" /usr/local/bin/lua5.4; }
has_luarocks || { have luarocks-5.4 && ln -sf "$(command -v luarocks-5.4)" /usr/local/bin/luarocks; }

still=$(missing)
for part in $wanted; do
    case " $still" in
        *" $part "*) ;;
        *) echo "installed $part" ;;
    esac
done
[ -n "$still" ] || exit 0
for part in $still; do echo "missing $part"; done
tail -n 5 "$log" | sed 's/^/said /'
exit 1
