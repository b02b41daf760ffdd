#!/bin/sh
# The first process of a guest with a PID namespace of its own. It buries the
# orphans of the guest, and when it ends the kernel ends all others.
#
# usage: init.sh SSHD CONFIG GRACE MACHINE-ID [new]
#
# It ends with sshd. SIGTERM makes it ask all processes to end, and end when they
# have or when GRACE seconds are over. A system without a machine id takes MACHINE-ID,
# and one that has become another, as `new` says, too.

set -u
sshd=$1 config=$2 grace=$3 id=$4 new=$5

# Traps reach it.
# shellcheck disable=SC2317
shut_down() {
    trap '' TERM
    trap : CHLD
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
            [ $# -gt 2 ] || exit 0
            wait "$tick"
        done
    done
    exit 0
}

# As systemd does under Xen: what the firmware has is the uuid of the VM.
set_machine_id() {
    read -r known </etc/machine-id
    case $new$known in
        '' | uninitialized | new*)
            printf '%s\n' "$id" >/etc/machine-id
            ;;
    esac
}

trap shut_down TERM
known=
set_machine_id 2>/dev/null
if [ -d /run/cloud-init/seed ]; then
    # Whoever waits for cloud-init waits for this lock.
    exec 8>/run/cloud-init/lock
    flock 8
    /bin/sh /boot/cloud-init.sh init 8>&-
    "$sshd" -D -e -f "$config" 8>&- &
    listener=$!
    # Not inherited, as what the commands start may stay; the shell around them holds it.
    {
        /bin/sh /boot/cloud-init.sh final 8>&-
        exec 8>&-
    } &
    exec 8>&-
else
    "$sshd" -D -e -f "$config" &
    listener=$!
fi
# An interrupted wait comes back.
wait "$listener"
