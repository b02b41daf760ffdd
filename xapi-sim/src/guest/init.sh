#!/bin/sh
# The first process of a guest. It starts the guest's sshd, and ends the guest
# when sshd ends, when the owner asks for it and when the owner is gone.
#
# usage: init.sh SSHD CONFIG GRACE [MARK]
#
# Standard input is a pipe from the owner: a line in it asks for a shutdown, its
# end for an end at once. The kernel closes it when the owner dies, however.
#
# As process 1 of a PID namespace it takes every process of the guest with it
# when it exits: the kernel sees to that. Otherwise it looks for the processes
# itself: the descendants of sshd and, wherever they have moved to, those that
# carry MARK in their environment, as every login session does.

# Traps reach what seems to be out of reach.
# shellcheck disable=SC2317

set -u
sshd=$1 config=$2 grace=$3 mark=${4-}

# Prints the processes that descend from sshd, but for those that are dead and
# only wait for a parent that has been stopped.
descendants() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$listener" '
        {
            pid = $1
            sub(/.*\) /, "")  # The name of the program may hold anything.
            parent[pid] = $2
            if ($1 == "Z") dead[pid]
        }
        END {
            known[root]
            do {
                grown = 0
                for (pid in parent) {
                    if (!(pid in known) && parent[pid] in known) {
                        known[pid]
                        grown = 1
                    }
                }
            } while (grown)
            for (pid in known) if (pid != root && !(pid in dead)) print pid
        }'
}

# Prints the processes that carry the mark.
marked() {
    # shellcheck disable=SC2013
    for file in $(grep -l -s -a -F -e "$mark" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        echo "${pid%/environ}"
    done
}

members() {
    descendants
    marked
}

# Asks every process to end and waits until they have, at most $grace seconds.
settle_namespace() {
    kill -s TERM -- -1
    steps=$((grace * 50))
    while [ "$steps" -gt 0 ]; do
        steps=$((steps - 1))
        sleep 0.02 &
        tick=$!
        # Orphans become children of process 1, so each end in the guest raises
        # SIGCHLD and interrupts the wait. The tick is for one that comes just
        # before it. Only this process and the tick remain in the end.
        while kill -0 "$tick" 2>/dev/null; do
            set -- /proc/[0-9]*
            [ $# -gt 2 ] || return
            wait "$tick"
        done
    done
}

settle_tree() {
    # A listener that is stopped accepts nobody new.
    kill -s STOP "$listener" 2>/dev/null
    # shellcheck disable=SC2046
    kill -s TERM $(members) 2>/dev/null
    # They are not our children, so there is no event to wait for.
    steps=$((grace * 20))
    while [ "$steps" -gt 0 ]; do
        left=$(members)
        [ -n "$left" ] || return
        sleep 0.05
        steps=$((steps - 1))
    done
}

kill_tree() {
    kill -s STOP "$listener" 2>/dev/null
    # Each round finds what was started during the one before. What has become
    # another user does not end, and must not keep the rest from it.
    rounds=100
    while left=$(members) && [ -n "$left" ] && [ "$rounds" -gt 0 ]; do
        # shellcheck disable=SC2086
        kill -s KILL $left 2>/dev/null
        rounds=$((rounds - 1))
    done
    # shellcheck disable=SC2086
    kill -s KILL "$listener" $watcher 2>/dev/null
}

# Whether process $1 is there and not a zombie.
is_alive() {
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return
    case ${line##*) } in Z*) return 1 ;; esac
}

# Ends the guest if sshd or the watcher has ended.
check() {
    if ! is_alive "$listener" || ! is_alive "$watcher"; then
        power_off
    fi
}

shut_down() {
    trap power_off HUP
    trap '' TERM
    trap : CHLD
    if [ "$$" -eq 1 ]; then settle_namespace; else settle_tree; fi
    power_off
}

power_off() {
    trap '' HUP TERM
    trap - CHLD
    if [ "$$" -ne 1 ]; then kill_tree; fi
    exit 0
}

exec 3<&0 </dev/null
"$sshd" -D -e -f "$config" 3<&- &
listener=$! watcher=

# Traps act by themselves: a mark that a loop looks at could be set just after
# the look and before the wait, and the wait would go on. They are there before
# anybody sends a signal, for process 1 is spared those that it has no trap for.
trap power_off HUP INT
trap shut_down TERM
(
    if read -r _; then
        kill -s TERM "$$"
        read -r _
    fi
    kill -s HUP "$$"
) <&3 3<&- &
watcher=$!
exec 3<&-

trap check CHLD
check
while is_alive "$listener"; do
    wait "$listener"
done
power_off
