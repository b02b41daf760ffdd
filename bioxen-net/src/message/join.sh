# Gives a program the FIFOs and the Lua module by which it reaches a hub, and connects the FIFOs with
# standard input and output for as long as these last.
#
# usage: sh -c THIS sh WHAT NAME MODULE
#
# Prints `ready` and the folder once the program can use it. WHAT is `make`: it is connected by
# others; `link`: this connects it; `relink`: the same after a connection was lost, which prints `gone`
# when the folder is no more; or `remove`. The variable BIOXEN_LINK of its environment is the name and the
# number of the connection.
umask 077
folder=${TMPDIR:-/tmp}/$2

# Ends what an earlier connection has left on this machine, which does not know yet that it was lost:
# it would take questions out of the FIFO for nobody. The search itself is not to be found.
end_earlier() {
  for found in $(BIOXEN_LINK='' grep -ls "BIOXEN_LINK=$1[.]" /proc/[0-9]*/environ); do
    grep -qs "BIOXEN_LINK=$BIOXEN_LINK" "$found" && continue
    found=${found#/proc/}
    kill -s KILL "${found%/environ}"
  done 2>/dev/null
}

# Removes the folders of programs and connections that are no more: their owner was killed.
sweep() {
  for old in "${TMPDIR:-/tmp}"/bioxen-net-*; do
    [ ! -d "$old" ] || grep -qs "${old##*/}" /proc/[0-9]*/environ || rm -rf -- "$old"
  done
}

case $1 in
  # By another name first: a connection that is being made meanwhile puts nothing into it.
  remove) mv -- "$folder" "$folder.gone" 2>/dev/null; exec rm -rf -- "$folder.gone" ;;
  link | relink) end_earlier "$2"; sweep ;;
esac
if [ "$1" = relink ]; then
  # It is not made anew: the program may have left since this was asked for.
  [ -p "$folder/answers" ] || { echo gone; exit; }
else
  mkdir -p -m 700 -- "$folder/bioxen" || exit
  printf '%s' "$3" >"$folder/bioxen/net.lua" || exit
  for fifo in questions answers; do
    [ -p "$folder/$fifo" ] || mkfifo -- "$folder/$fifo" || exit
  done
fi
if [ "$1" = make ]; then
  printf 'ready %s\n' "$folder"
  exit
fi
# Open for both, they wait for no program, and outlive it.
exec 3<>"$folder/questions" 4<>"$folder/answers"
printf 'ready %s\n' "$folder"
{ cat <&3; kill -s KILL "$$"; } 4>&- &
exec cat >&4 3>&-
