# Runs `ssh` as the holder of one connection, in a private directory that goes when it ends.
#
# usage: sh -c THIS sh PARENT KNOWN_HOSTS_SIZE KEY_SIZE SSH_ARGUMENT...
#
# Standard input brings the two files and then stays open for as long as the owner wants the
# connection. The kernel closes it when the owner dies, however, and then everything ends. Standard
# output gets the directory, and a line from ssh once the login has succeeded.

# An owner that gives up does not read what we say, and that must not end us before we clean up.
trap '' PIPE
umask 077
dir=$(mktemp -d "$1/bioxen-ssh.XXXXXX") || exit
cd "$dir" || exit
head -c "$2" >known_hosts
head -c "$3" >key
shift 3
exec 3<&0 </dev/null
pwd

ssh "$@" 3<&- &
ssh=$!
{ cat >/dev/null; kill "$ssh"; } <&3 2>/dev/null &
exec 3<&-
wait "$ssh"
cd / && rm -rf -- "$dir"
# The whole process group, which is ours alone.
kill -s KILL 0
