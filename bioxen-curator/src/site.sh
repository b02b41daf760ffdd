# What the curator does on the machine that holds a tree. Runs as
#
#   sh -c THIS bioxen-curator ACTION TREE LUA [ARGUMENT...]
#
# and tells what it found in lines of tab-separated fields on standard output, the last of which is
# "end". What LuaRocks says goes to standard error, so that no rock can forge a line; "ask" gives its
# output between the lines "output" and "exit", and "pack" writes a tar and nothing else.
#
# A change of the tree is kept in a journal, TREE/.bioxen/before: a copy of what was there. While it
# exists the change is not complete, and whoever comes next puts the copy back. Each step can be
# repeated after being killed in the middle. A change that is complete leaves the journal as
# TREE/.bioxen/previous-LUA, to which "back" returns.
#
# Rocks that were sent are in TREE/.bioxen/rocks, each file in a folder that is named by its SHA-256.
set -u
LC_ALL=C
export LC_ALL

action=$1 tree=$2 lua=$3
shift 3
own=$tree/.bioxen
scratch=$own/scratch
before=$own/before
previous=$own/previous-$lua
store=$own/rocks
sums=$own/sums-$lua
rocks=$tree/lib/luarocks/rocks-$lua

# All that LuaRocks writes in a tree for one version of Lua. None of these words has a blank.
parts_of() {
    echo "bin lib/lua/$1 lib/luarocks/rocks-$1 share/lua/$1"
}
parts=$(parts_of "$lua")

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

# Ends a change of this tree whose caller was killed on this machine; it would go on for as long as its
# build takes. What is over a connection ends with that.
end_orphan() {
    read -r holder caller <"$own/holder" || return
    tr '\0' '\n' <"/proc/$holder/cmdline" | grep -qxF -e "$tree" || return
    parent=$(sed -n 's/^PPid:[[:blank:]]*//p' "/proc/$holder/status")
    [ "$parent" = "$caller" ] || kill -s KILL -- "-$holder"
}

# Opens the tree for this process alone and repairs what an earlier one left half done.
open_tree() {
    mkdir -p "$own" && (: >>"$own/lock") || stop unwritable
    if command -v flock >/dev/null; then
        exec 9>>"$own/lock"
        flock -n 9 || {
            { end_orphan; } 2>/dev/null
            tell waiting
            echo "waiting for another change of this tree to end" >&2
            flock 9
        }
        echo "$$ $PPID" >"$own/holder"
    fi
    if [ -d "$before" ]; then
        restore || stop journal
        tell repaired
    fi
    rm -rf "$before.partial" "$before.done" "$previous.gone" "$own/incoming" "$scratch"
}

save() {
    mkdir "$before.partial" && echo "$lua" >"$before.partial/lua" || return
    n=0
    for part in $parts; do
        n=$((n + 1))
        [ -e "$tree/$part" ] || continue
        cp -RPp "$tree/$part" "$before.partial/$n" || return
    done
    if [ -e "$sums" ]; then
        cp -p "$sums" "$before.partial/sums" || return
        (cd "$tree" && sum_all) >"$before.partial/were" || return
    fi
    mv "$before.partial" "$before"
}

# Makes the tree what a journal says it was. Argument: the journal.
put() {
    of=$(cat "$1/lua" 2>/dev/null) || of=$lua
    mkdir -p "$tree/lib/lua" "$tree/lib/luarocks" "$tree/share/lua" || return
    n=0
    for part in $(parts_of "$of"); do
        n=$((n + 1))
        rm -rf "${tree:?}/$part" || return
        [ -e "$1/$n" ] || continue
        cp -RPp "$1/$n" "$tree/$part" || return
    done
    rm -f "$own/sums-$of" || return
    [ ! -e "$1/sums" ] || cp -p "$1/sums" "$own/sums-$of" || return
    for dir in lib/lua lib/luarocks lib share/lua share; do
        rmdir "$tree/$dir" 2>/dev/null
    done
    return 0
}

restore() {
    put "$before" && mv "$before" "$before.done" && rm -rf "$before.done"
}

# Writes down what the files are that this change wrote. The others keep what was written down of them,
# so that what somebody else has changed, added or removed never passes for installed; a file that is
# missing does so as long as the rock is there whose it was.
note_sums() {
    (cd "$tree" && sum_all) >"$sums.all" || return
    if [ -e "$sums" ]; then
        cat "$rocks"/*/*/rock_manifest 2>/dev/null | awk -v lua="$lua" '
            function has_rock(path,   part) {
                split(path, part, "/")
                return (part[1] "/" part[2] "/" part[3] "/" part[4] "/" part[5] "/rock_manifest") in are
            }
            BEGIN {
                place["bin"] = "bin"
                place["lib"] = "lib/lua/" lua
                place["lua"] = "share/lua/" lua
            }
            FILENAME == ARGV[1] || FILENAME == ARGV[2] || FILENAME == ARGV[3] {
                path = substr($0, index($0, "  ") + 2)
            }
            FILENAME == ARGV[1] { were[path] = $1; next }
            FILENAME == ARGV[2] { are[path] = $1; if (were[path] != $1) print; next }
            FILENAME == ARGV[3] {
                if (!(path in are)) { if (!(path in were)) missing[path] = $0 }
                else if (were[path] == are[path]) print
                next
            }
            # A manifest: tables in tables by names, one to a line, of which the files are the leaves.
            /^[ \t]*[}]/ { depth--; next }
            {
                name = $0
                sub(/^[ \t]*/, "", name)
                if (!sub(/^[[]"/, "", name) || !sub(/"[]].*/, "", name)) sub(/[ \t]*=.*/, "", name)
                if ($0 ~ /[{][ \t]*$/) { above[++depth] = name; next }
                path = place[above[2]]
                for (level = 3; level <= depth; level++) path = path "/" above[level]
                if (depth >= 2) named[path "/" name] = 1
            }
            END {
                for (path in missing) {
                    if (path in named || path ~ /^lib\/luarocks\// && has_rock(path)) print missing[path]
                }
            }
        ' "$before/were" "$sums.all" "$sums" - >"$sums.new" || return
        rm -f "$sums.all"
    else
        mv "$sums.all" "$sums.new" || return
    fi
    mv "$sums.new" "$sums"
}

# The change is complete: what was there before is now the previous set.
commit() {
    if [ -d "$previous" ]; then
        mv "$previous" "$previous.gone" || return
    fi
    mv "$before" "$previous" && rm -rf "$previous.gone"
}

if command -v sha256sum >/dev/null; then
    sha256() { sha256sum "$@"; }
else
    sha256() { shasum -a 256 "$@"; }
fi

# The SHA-256 of each file of the parts that are there. Runs in the tree.
sum_all() {
    for part in $parts; do
        [ ! -e "$part" ] || find "$part" -type f -exec sh -c 'if command -v sha256sum >/dev/null; then
            exec sha256sum "$@"; else exec shasum -a 256 "$@"; fi' sh {} +
    done
}

# Whether a file has this SHA-256.
is_whole() {
    [ -f "$2" ] || return 1
    found=$(sha256 <"$2")
    [ "${found%% *}" = "$1" ]
}

# Takes the files that come as a tar on standard input, each in a folder named by its SHA-256.
receive() {
    [ "$1" = upload ] || return 0
    command -v tar >/dev/null || stop missing tar
    mkdir -p "$own/incoming" "$store" || stop unwritable
    tar -xf - -C "$own/incoming" || stop upload
    for file in "$own/incoming"/*/*; do
        dir=${file%/*}
        is_whole "${dir##*/}" "$file" || stop upload
        rm -rf "$store/${dir##*/}"
        mv "$dir" "$store/" || stop upload
    done
    rm -rf "$own/incoming"
}

# Removes the files of rocks that are not in the tree any more.
prune() {
    there=' '
    for dir in "$rocks"/*/*/; do
        dir=${dir%/}
        name=${dir%/*}
        there="$there${name##*/}-${dir##*/} "
    done
    for file in "$store"/*/*; do
        stem=${file##*/}
        stem=${stem%.rockspec}
        stem=${stem%.rock}
        case "$there" in
            *" $stem "* | *" ${stem%.*} "*) ;;
            *) rm -rf "${file%/*}" ;;
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

# Installs the file of a rock. What it needs is there already, which LuaRocks checks once more; it
# asks no server. An older version of the rock goes, whoever may need it: the plan has seen to that.
#
# LuaRocks wants the headers of Lua before it builds anything, even rocks of Lua alone; where
# there are none it gets some that only a compiler would notice.
install() {
    listen_to_luarocks install --deps-mode one --force --only-server "$scratch" "$@"
    code=$?
    case $code$said in
        0*) ;;
        *"Lua header"*)
            mkdir -p "$scratch/include"
            printf '#define LUA_VERSION_NUM %s0%s\n#error no headers of Lua %s are installed\n' \
                "${lua%.*}" "${lua#*.}" "$lua" >"$scratch/include/lua.h"
            listen_to_luarocks install --deps-mode one --force --only-server "$scratch" "$@" LUA_INCDIR="$scratch/include"
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

fail() {
    restore || stop journal
    rm -rf "$scratch"
    tell end
    exit 0
}

# Arguments: the upload, the rocks that the plan was made for, then VERB NAME VERSION SHA256 FILE for
# each step.
change() {
    open_tree
    receive "$1"
    [ "$(list)" = "$2" ] || stop moved
    shift 2
    expect=$#
    while [ $expect -gt 0 ]; do
        verb=$1 name=$2 version=$3 hash=$4 file=$5
        shift 5
        expect=$((expect - 5))
        if [ "$verb" = install ] && ! is_whole "$hash" "$store/$hash/$file"; then
            rm -rf "${store:?}/$hash"
            stop absent "$hash"
        fi
        set -- "$@" "$verb" "$name" "$version" "$hash" "$file"
    done
    prepare
    save || stop journal
    step=0
    while [ $# -gt 0 ]; do
        verb=$1 name=$2 version=$3 hash=$4 file=$5
        shift 5
        tell step $step
        case $verb in
            install) install "$store/$hash/$file" ;;
            remove) run_luarocks remove --deps-mode one "$name" >&2 ;;
            force-remove) run_luarocks remove --deps-mode one --force "$name" >&2 ;;
        esac
        code=$?
        if [ $code -ne 0 ]; then
            tell failed $step $code
            # LuaRocks does not always say that the disk is full.
            tell free "$(df -Pk "$tree" | awk 'NR == 2 { print $4 }')"
            fail
        fi
        if [ "$verb" = install ] && [ ! -f "$rocks/$name/$version/rock_manifest" ]; then
            tell misplaced $step
            fail
        fi
        tell done $step
        step=$((step + 1))
    done
    list_new
    note_sums && commit || fail
    rm -rf "$scratch"
    prune
    list
}

# Returns to the set that was there before the last change, which is then the previous one.
back() {
    open_tree
    [ -d "$previous" ] || stop nothing
    tell was
    list
    save || stop journal
    put "$previous" || fail
    commit || fail
    tell now
    list
}

# What the files of the tree were after the last change, and what they are.
sums() {
    [ ! -w "$own" ] || open_tree
    [ ! -f "$sums" ] || sed 's/^/was	/' "$sums"
    [ ! -d "$tree" ] || (cd "$tree" && sum_all | sed 's/^/is	/')
    list
}

# Writes a tar of the whole tree.
pack() {
    open_tree >&2
    present=
    for part in $parts; do
        [ ! -e "$tree/$part" ] || present="$present $part"
    done
    # shellcheck disable=SC2086 # no part has a blank
    exec tar -cf - -C "$tree" ".bioxen/${sums##*/}" $present
}

# Makes the tree what a tar on standard input says. Argument: the rocks that the plan was made for.
place() {
    open_tree
    [ "$(list)" = "$1" ] || stop moved
    command -v tar >/dev/null || stop missing tar
    mkdir -p "$own/incoming" && tar -xf - -C "$own/incoming" || stop upload
    came=$own/incoming/.bioxen/${sums##*/}
    [ -f "$came" ] && [ "$(cd "$own/incoming" && sum_all | sort)" = "$(sort "$came")" ] || stop upload
    save || stop journal
    for part in $parts; do
        rm -rf "${tree:?}/$part" || fail
        [ -e "$own/incoming/$part" ] || continue
        mkdir -p "$tree/${part%/*}" && mv "$own/incoming/$part" "$tree/$part" || fail
    done
    mv "$came" "$sums" || fail
    rm -rf "$own/incoming"
    list_new
    commit || fail
    list
}

# Arguments: those of LuaRocks, whose output follows the line "output".
ask() {
    open_tree
    prepare
    tell output
    run_luarocks "$@"
    tell exit $?
    rm -rf "$scratch"
}

# What the machine has. Changes nothing. Arguments: headers and libraries to look for.
inspect() {
    triple=$(uname -m)-linux-gnu
    for wanted; do
        for dir in /usr/include /usr/local/include "/usr/include/$triple" \
            /usr/lib /usr/lib64 /usr/local/lib "/usr/lib/$triple"; do
            for file in "$dir/$wanted" "$dir/lib$wanted.so" "$dir/lib$wanted.a"; do
                [ ! -e "$file" ] || tell external "$wanted" "$file"
            done
        done
    done
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

# The names of the environments: trees below this one, or the one given.
environments() {
    for dir in "${1:-$tree}"/envs/*/; do
        dir=${dir%/}
        [ ! -d "$dir" ] || tell environment "${dir##*/}"
    done
}

# Removes this tree, which has to be an environment. Names those that are there when it is not.
drop() {
    case $tree in */envs/*) ;; *) stop foreign ;; esac
    if [ ! -d "$tree" ]; then
        environments "${tree%/envs/*}"
        return
    fi
    open_tree
    rm -rf "$tree" || stop unwritable
    tell dropped
}

# The rocks of the tree. Does not make a tree. With "specs" also what a plan needs to know: their
# rockspecs, the files that were sent, the kind of machine.
look() {
    if [ -w "$own" ]; then open_tree; fi
    list
    [ "${1:-}" = specs ] || return 0
    system=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")
    tell machine "$(uname -s)" "$(uname -m)" "$system"
    for dir in "$store"/*/; do
        dir=${dir%/}
        [ ! -d "$dir" ] || tell stored "${dir##*/}"
    done
    for file in "$rocks"/*/*/*.rockspec; do
        [ -f "$file" ] || continue
        dir=${file%/*}
        name=${dir%/*}
        tell spec "${name##*/}" "${dir##*/}"
        sed 's/^/line	/' "$file"
        echo
    done
}

"$action" "$@"
tell end
