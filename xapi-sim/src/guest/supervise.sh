#!/bin/sh
# Ties a guest with a PID namespace of its own to the owner of the guest.
#
# usage: supervise.sh INFO COMMAND...
#
# COMMAND becomes the guest's first process, unless INFO names a file: then it
# starts that and writes its number to descriptor 5, as bubblewrap does.
#
# Standard input is a pipe from the owner. A line in it asks for a shutdown, its
# end for an end at once; the kernel closes it when the owner dies, however. The
# log is left to the guest, so that its end tells the owner of the guest's.
#
# It stays outside of the namespace, where no process of the guest can reach it.

set -u
info=$1
shift

# Sends signal $1 to the first process.
signal() {
    first=$guest
    if [ -n "$info" ]; then
        # While the command lives, it has not reaped the first process, and the
        # number is still that of the first process.
        read -r stat <"/proc/$guest/stat"
        case ${stat##*) } in Z*) return ;; esac
        while read -r name value; do
            if [ "$name" = '"child-pid":' ]; then first=${value%,}; fi
        done <"$info"
    fi
    kill -s "$1" "$first"
}

exec 3<&0 </dev/null
if [ -n "$info" ]; then exec 5>"$info"; fi
"$@" 3<&- &
guest=$!
exec 2>/dev/null 5>&-

if read -r _ <&3; then
    signal TERM
    read -r _ <&3
fi
signal KILL
# The first process can be waited for once all others have ended.
wait
