# Gives a program the FIFOs and the Lua module by which it reaches a hub, and connects the FIFOs with
# standard input and output for as long as these last.
#
# usage: sh -c THIS sh WHAT NAME MODULE
#
# Prints `ready` and the folder once the program can use it. WHAT is `make`: it is connected by
# others; `link`: this connects it, for the first time or after a connection was lost; or `remove`. Where
# commands can be lost, the variable BIOXEN_LINK of their environment is the name and a number.
umask 077
folder=${TMPDIR:-/tmp}/$2

# Ends what an earlier command has left on this machine, which does not know yet that it was lost: it
# would take questions out of the FIFO for nobody, or make what is being removed. The search itself is not
# to be found.
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

[ -z "$BIOXEN_LINK" ] || end_earlier "$2"
case $1 in
  remove) exec rm -rf -- "$folder" ;;
  link) sweep ;;
esac
mkdir -p -m 700 -- "$folder/bioxen" || exit
printf '%s' "$3" >"$folder/bioxen/net.lua" || exit
for fifo in questions answers; do
  [ -p "$folder/$fifo" ] || mkfifo -- "$folder/$fifo" || exit
done
if [ "$1" = make ]; then
  printf 'ready %s\n' "$folder"
  exit
fi
# Open for both, they wait for no program, and outlive it.
exec 3<>"$folder/questions" 4<>"$folder/answers"
printf 'ready %s\n' "$folder"
{ cat <&3; kill -s KILL "$$"; } 4>&- &
exec cat >&4 3>&-
