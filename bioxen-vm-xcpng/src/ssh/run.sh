# Runs one command, reports how it ended, and ends with everything that the command started.
#
# usage: sh -c THIS sh HEADER_SIZE
#
# Standard input is a line with a word for the report, the header, then the command's own input in pieces, and then a leash: its end
# means that the caller has gone or given up. Before each piece comes a line with its size, 0 after
# the last; `rest` means all up to the end, which then ends the command too.
#
# sshd makes every command the leader of a process group, so one signal to the group ends the command,
# all that it started and this script. What has left the group is found by the variable BIOXEN_RUN
# of its environment, also where its parents have ended.
#
# The header has a line for each of: the value of BIOXEN_RUN, the seconds after which to give up
# (0: never), the working directory, the number of environment variables, each of these, the program,
# each argument. Lines that hold data start with "=", and in them newline and
# backslash are \n and \\. Nothing of it ever becomes shell text.

IFS='
'
set -f
read -r _bx_word || exit

# A frame: see bioxen_vm_core::lua::Frames.
report() { printf '\001%sR%s\n%s' "$_bx_word" "${#1}" "$1" >&2; }
refuse() { report "$1"; exit; }

# Takes so many bytes from standard input and not one more: what is behind them is for others. The
# head of busybox reads ahead.
_bx_dd=$(command -v dd) || refuse ''
take() { "$_bx_dd" "bs=$1" count=1 iflag=fullblock 2>/dev/null; }

set -- $(take "$1")
exec 3<&0 5>&1
_bx_run=$1 _bx_limit=$2 _bx_dir=$3 _bx_env=$4
shift 4

decode() {
  case $1 in
    *\\*) _bx_text=$(printf '%b.' "${1#=}"); _bx_text=${_bx_text%.} ;;
    *) _bx_text=${1#=} ;;
  esac
}

# Ends everything, this script last. What is found stands still before it ends, so that it starts
# nothing else meanwhile. What is in the group ends with this script: a shell would tell of it.
finish() {
  set +f
  for _bx_round in 1 2 3 4 5 6 7 8 9; do
    _bx_found=
    # The search itself must not be found.
    for _bx_file in $(BIOXEN_RUN='' "$_bx_grep" -ls "BIOXEN_RUN=$_bx_run" /proc/[0-9]*/environ); do
      _bx_pid=${_bx_file#/proc/} _bx_pid=${_bx_pid%/environ}
      kill -s STOP "$_bx_pid" && read -r _bx_stat <"/proc/$_bx_pid/stat" || continue
      # State, parent, group.
      _bx_stat=${_bx_stat##*) } _bx_stat=${_bx_stat#* } _bx_stat=${_bx_stat#* }
      [ "${_bx_stat%% *}" = "$$" ] || _bx_found="$_bx_found$IFS$_bx_pid"
    done
    [ -n "$_bx_found" ] || break
    kill -s KILL $_bx_found
  done 2>/dev/null
  kill -s KILL 0
}

# Signals to group 0 must reach nobody else.
if IFS=' ' read -r _ _ _ _ _bx_group _ 2>/dev/null <"/proc/$$/stat"; then
  [ "$_bx_group" = "$$" ] || refuse group
fi

# Before the command's own PATH holds.
_bx_awk=$(command -v awk) _bx_cat=$(command -v cat)
_bx_sleep=$(command -v sleep) _bx_grep=$(command -v grep)

decode "$_bx_dir"
[ -z "$_bx_text" ] || { unset CDPATH; cd -- "$_bx_text" 2>/dev/null; } || refuse directory
while [ "$_bx_env" -gt 0 ]; do
  decode "$1"
  export "$_bx_text"
  shift
  _bx_env=$((_bx_env - 1))
done
export BIOXEN_RUN="$_bx_run"
_bx_count=0
for _bx_arg; do
  _bx_count=$((_bx_count + 1))
  decode "$_bx_arg"
  eval "export _bx_arg$_bx_count=\$_bx_text"
  [ "$_bx_count" -gt 1 ] || command -v "$_bx_text" >/dev/null || refuse program
done
export _bx_count

if [ "$_bx_limit" != 0 ]; then
  { "$_bx_sleep" "$_bx_limit"; finish; } 3<&- </dev/null >/dev/null 2>&1 &
fi

export _bx_go='
  set --; _bx_i=1
  while [ "$_bx_i" -le "$_bx_count" ]; do
    eval "set -- \"\$@\" \"\$_bx_arg$_bx_i\"; unset _bx_arg$_bx_i"
    _bx_i=$((_bx_i + 1))
  done
  unset _bx_count _bx_i _bx_go
  exec "$@" >&5 5>&-
'

# A shell cannot tell exit code 137 from a death by signal 9. awk can: it adds 256 for a signal. That of
# busybox tells 0, so there codes above 128 count as signals.
{
  while read -r _bx_size; do
    case $_bx_size in
      0) break ;;
      rest) "$_bx_cat"; break ;;
      *) take "$_bx_size" || break ;;
    esac
  done
  exec >/dev/null
  "$_bx_cat"
  finish
} <&3 2>/dev/null | {
  exec 3<&-
  _bx_status=$("$_bx_awk" 'BEGIN {
    print system("kill -s KILL $$") < 256 ? "?" : system(ENVIRON["_bx_go"])
  }')
  if [ "$_bx_status" = '?' ]; then
    { ( exec 2>&6 6>&-; eval "$_bx_go" ); } 6>&2 2>/dev/null
    _bx_status=$?
    [ "$_bx_status" -le 128 ] || _bx_status=$((_bx_status + 128))
  fi
  report "$_bx_status"
  finish
}
