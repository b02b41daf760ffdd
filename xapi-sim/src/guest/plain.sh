#!/bin/sh
# Runs the sshd of a guest that has no namespaces, and ends all that it started.
#
# usage: plain.sh SSHD CONFIG GRACE MARK
#
# Standard input is a pipe from the owner. A line in it asks for a shutdown, its
# end for an end at once; the kernel closes it when the owner dies, however. The
# log is left to sshd, so that its end tells the owner of the guest's.
#
# What belongs to the guest descends from sshd or, wherever it has moved to,
# carries MARK in its environment, as every login session does.

set -u
sshd=$1 config=$2 grace=$3 mark=$4

# Prints the processes that descend from sshd, but for those that are dead and
# only wait for a parent that has been stopped.
descendants() {
    cat /proc/[0-9]*/stat | awk -v root="$listener" '
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
shut_down() {
    # shellcheck disable=SC2046
    kill -s TERM $(members)
    # They are not our children, so there is no event to wait for.
    steps=$((grace * 20))
    while [ "$steps" -gt 0 ] && [ -n "$(members)" ]; do
        sleep 0.05
        steps=$((steps - 1))
    done
}

power_off() {
    trap '' HUP
    # Each round finds what was started during the one before. What has become
    # another user does not end, and must not keep the rest from it.
    rounds=100
    while left=$(members) && [ -n "$left" ] && [ "$rounds" -gt 0 ]; do
        # shellcheck disable=SC2086
        kill -s KILL $left
        rounds=$((rounds - 1))
    done
    kill -s KILL "$listener"
    wait
    exit 0
}

exec 3<&0 </dev/null
"$sshd" -D -e -f "$config" 3<&- &
listener=$!
exec 2>/dev/null
trap power_off HUP

if read -r _ <&3; then
    # A listener that is stopped accepts nobody new.
    kill -s STOP "$listener"
    shut_down
fi
kill -s STOP "$listener"
power_off
