# What the curator does on the machine that holds a tree. Runs as
#
#   sh -c THIS bioxen-curator ACTION TREE LUA SERVERS HASHES [ARGUMENT...]
#
# and tells what it found in lines of tab-separated fields on standard output, the last of which is
# "end". What LuaRocks says goes to standard error, so that no rock can forge a line; only "ask"
# gives its output between the lines "output" and "exit".
#
# A change of the tree is kept in a journal, TREE/.bioxen/before: a copy of what was there. While it
# exists the change is not complete, and whoever comes next puts the copy back. Each step can be
# repeated after being killed in the middle.
set -u
LC_ALL=C
export LC_ALL

action=$1 tree=$2 lua=$3 servers=$4 hashes=$5
shift 5
own=$tree/.bioxen
scratch=$own/scratch
before=$own/before
cache=$own/servers
rocks=$tree/lib/luarocks/rocks-$lua
# All that LuaRocks writes in a tree for one version of Lua. None of these words has a blank.
parts="bin lib/lua/$lua lib/luarocks/rocks-$lua share/lua/$lua"

tell() {
    record=$1
    shift
    for field; do record="$record	$field"; done
    printf '%s\n' "$record"
}

stop() {
    tell problem "$@"
    exit 0
}

# Opens the tree for this process alone and repairs what an earlier one left half done.
open_tree() {
    mkdir -p "$own" && (: >>"$own/lock") || stop unwritable
    if command -v flock >/dev/null; then
        exec 9>>"$own/lock"
        flock -n 9 || {
            echo "waiting for another change of this tree to end" >&2
            flock 9
        }
    fi
    if [ -d "$before" ]; then
        restore || stop journal
        tell repaired
    fi
    rm -rf "$before.partial" "$before.done" "$own/incoming" "$scratch"
}

save() {
    mkdir "$before.partial" || return
    n=0
    for part in $parts; do
        n=$((n + 1))
        [ -e "$tree/$part" ] || continue
        cp -RPp "$tree/$part" "$before.partial/$n" || return
    done
    mv "$before.partial" "$before"
}

restore() {
    mkdir -p "$tree/lib/lua" "$tree/lib/luarocks" "$tree/share/lua" || return
    n=0
    for part in $parts; do
        n=$((n + 1))
        rm -rf "${tree:?}/$part" || return
        [ -e "$before/$n" ] || continue
        cp -RPp "$before/$n" "$tree/$part" || return
    done
    for dir in lib/lua lib/luarocks lib share/lua share; do
        rmdir "$tree/$dir" 2>/dev/null
    done
    forget
}

forget() {
    mv "$before" "$before.done" && rm -rf "$before.done"
}

# Takes the servers that come as a tar on standard input, each a directory named by its hash, and
# checks that all that are needed are here.
receive() {
    if [ "$1" = upload ]; then
        command -v tar >/dev/null || stop missing tar
        mkdir -p "$own/incoming" "$cache" || stop unwritable
        tar -xf - -C "$own/incoming" || stop upload
        for dir in "$own/incoming"/*/; do
            dir=${dir%/}
            [ -d "$cache/${dir##*/}" ] || mv "$dir" "$cache/" || stop upload
        done
        rm -rf "$own/incoming"
    fi
    for hash in $hashes; do
        [ -d "$cache/$hash" ] || stop absent "$hash"
    done
}

# Removes the servers that are not in use any more.
prune() {
    for dir in "$cache"/*/; do
        dir=${dir%/}
        case " $hashes " in
            *" ${dir##*/} "*) ;;
            *) rm -rf "$dir" ;;
        esac
    done
}

prepare() {
    luarocks=$(command -v luarocks || command -v "luarocks-$lua") || stop missing luarocks
    mkdir -p "$scratch/cwd" "$scratch/tmp" || stop unwritable
    cat >"$scratch/config.lua" <<'CONFIG' || stop unwritable
-- The defaults remember for a day that a server was down.
cache_timeout = 0
cache_fail_timeout = 0
local list = os_getenv("BIOXEN_SERVERS")
if list ~= "" then
   rocks_servers = {}
   for server in list:gmatch("[^\n]+") do
      if server:sub(1, 6) == "cache:" then
         server = os_getenv("BIOXEN_CACHE") .. "/" .. server:sub(7)
      end
      rocks_servers[#rocks_servers + 1] = server
   end
end
CONFIG
}

# Runs LuaRocks away from every file and variable that could change what it does: the home with its
# cache, the lock file that it would obey in its working directory, and USER, since for root it
# keeps its cache elsewhere.
run_luarocks() {
    (
        unset USER XDG_CACHE_HOME XDG_CONFIG_HOME LUA_INIT LUA_PATH LUA_CPATH
        unset LUA_INIT_5_2 LUA_INIT_5_3 LUA_INIT_5_4 LUA_INIT_5_5
        unset LUA_PATH_5_2 LUA_PATH_5_3 LUA_PATH_5_4 LUA_PATH_5_5
        unset LUA_CPATH_5_2 LUA_CPATH_5_3 LUA_CPATH_5_4 LUA_CPATH_5_5
        unset LUAROCKS_CONFIG_5_1 LUAROCKS_CONFIG_5_2 LUAROCKS_CONFIG_5_3
        unset LUAROCKS_CONFIG_5_4 LUAROCKS_CONFIG_5_5
        cd "$scratch/cwd" && exec env HOME="$scratch" TMPDIR="$scratch/tmp" \
            LUAROCKS_CONFIG="$scratch/config.lua" \
            BIOXEN_SERVERS="$servers" BIOXEN_CACHE="$cache" \
            "$luarocks" --lua-version "$lua" --tree "$tree" "$@"
    ) </dev/null 9>&-
}

# Runs LuaRocks and passes on what it says line by line, so that nothing is lost when it is killed,
# and keeps it in $said too. No file: the disk may be full.
listen_to_luarocks() {
    said=$({ run_luarocks "$@" 2>&1; echo "luarocks ended with exit code $?"; } |
        while IFS= read -r line || [ -n "$line" ]; do
            printf '%s\n' "$line"
            printf '%s\n' "$line" >&2
        done)
    return "${said##*luarocks ended with exit code }"
}

# Installs a rock. LuaRocks wants the headers of Lua before it builds anything, even rocks of Lua
# alone; where there are none it gets some that only a compiler would notice.
install() {
    listen_to_luarocks install --deps-mode one "$@"
    code=$?
    case $code$said in
        0*) ;;
        *"Lua header"*)
            mkdir -p "$scratch/include"
            printf '#define LUA_VERSION_NUM %s0%s\n#error no headers of Lua %s are installed\n' \
                "${lua%.*}" "${lua#*.}" "$lua" >"$scratch/include/lua.h"
            listen_to_luarocks install --deps-mode one "$@" LUA_INCDIR="$scratch/include"
            code=$?
            ;;
    esac
    return $code
}

# The rocks of the tree, from its directories: a manifest may lag behind.
list() {
    for dir in "$rocks"/*/*/; do
        [ -f "${dir}rock_manifest" ] || continue
        dir=${dir%/}
        name=${dir%/*}
        tell rock "${name##*/}" "${dir##*/}"
    done
}

# The manifests of the rocks that the journal does not have, and the files that they should name.
list_new() {
    any=
    for dir in "$rocks"/*/*/; do
        [ -f "${dir}rock_manifest" ] || continue
        dir=${dir%/}
        version=${dir##*/}
        name=${dir%/*}
        name=${name##*/}
        [ ! -d "$before/3/$name/$version" ] || continue
        any=1
        tell new "$name" "$version"
        while IFS= read -r line || [ -n "$line" ]; do
            tell manifest "$line"
        done <"$dir/rock_manifest"
    done
    [ -n "$any" ] || return 0
    for dir in "share/lua/$lua" "lib/lua/$lua"; do
        [ ! -d "$tree/$dir" ] || (cd "$tree" && find "$dir" ! -type d -exec printf 'file\t%s\n' {} +)
    done
}

undo() {
    restore || stop journal
    rm -rf "$scratch"
    tell end
    exit 0
}

# Arguments: the upload, then VERB NAME VERSION for each step. VERSION may be empty.
change() {
    open_tree
    receive "$1"
    shift
    prepare
    save || stop journal
    step=0
    while [ $# -gt 0 ]; do
        verb=$1 name=$2 version=$3
        shift 3
        case $verb in
            install) install "$name" ${version:+"$version"} ;;
            remove) run_luarocks remove --deps-mode one "$name" >&2 ;;
            force-remove) run_luarocks remove --deps-mode one --force "$name" >&2 ;;
        esac
        code=$?
        if [ $code -ne 0 ]; then
            tell failed $step $code
            # LuaRocks does not always say that the disk is full.
            tell free "$(df -Pk "$tree" | awk 'NR == 2 { print $4 }')"
            undo
        fi
        if [ "$verb" = install ]; then
            found=
            for file in "$rocks/$name"/*/rock_manifest; do
                [ ! -f "$file" ] || found=1
            done
            if [ -z "$found" ]; then
                tell misplaced $step
                undo
            fi
        fi
        step=$((step + 1))
    done
    list_new
    forget || stop journal
    rm -rf "$scratch"
    prune
    list
}

# Arguments: the upload, then those of LuaRocks, whose output follows the line "output".
ask() {
    open_tree
    receive "$1"
    shift
    prepare
    tell output
    run_luarocks "$@"
    tell exit $?
    rm -rf "$scratch"
}

# What the machine has. Changes nothing.
inspect() {
    for tool in luarocks "luarocks-$lua" tar unzip flock cc gcc make curl wget; do
        path=$(command -v "$tool") && tell tool "$tool" "$path"
    done
    for tool in "lua$lua" "lua${lua%.*}${lua#*.}" lua luajit; do
        path=$(command -v "$tool") || continue
        tell lua "$path" "$("$path" -e 'print((_VERSION:gsub("Lua ", "")))' </dev/null 2>&1 | head -n 1)"
    done
    for dir in "/usr/include/lua$lua" "/usr/local/include/lua$lua" \
        "/usr/include/lua${lua%.*}${lua#*.}" "/usr/local/include/lua-$lua" \
        "/usr/include/lua-$lua" /usr/include /usr/local/include /usr/include/luajit-2.1; do
        [ -f "$dir/lua.h" ] || continue
        number=$(sed -n 's/^#define[[:blank:]]*LUA_VERSION_NUM[[:blank:]]*\([0-9]*\).*/\1/p' "$dir/lua.h")
        minor=$(sed -n 's/^#define[[:blank:]]*LUA_VERSION_MINOR[_N]*[[:blank:]]*"*\([0-9]*\)"*.*/\1/p' "$dir/lua.h" | head -n 1)
        tell header "$dir/lua.h" "5.${minor:-${number#50}}"
    done
    dir=$tree
    while [ ! -e "$dir" ]; do dir=$(dirname "$dir"); done
    [ -d "$dir" ] && [ -w "$dir" ] && tell writable "$dir"
    luarocks=$(command -v luarocks || command -v "luarocks-$lua") &&
        tell version "$("$luarocks" --version </dev/null 2>/dev/null | head -n 1)"
}

# The rocks of the tree and the servers that were sent. Does not make a tree.
look() {
    if [ -w "$own" ]; then open_tree; fi
    for dir in "$cache"/*/; do
        dir=${dir%/}
        [ ! -d "$dir" ] || tell server "${dir##*/}"
    done
    list
}

"$action" "$@"
tell end
