# Makes, removes or opens up things below a folder.
#
# usage: sh -c THIS sh FOLDER [WHAT NAME]...
#
# WHAT is `make` for a folder, `remove`, or the permissions that a thing is to have.
decode "$1"; folder=$text
shift
while [ $# -gt 0 ]; do
  decode "$2"
  case $1 in
    make) mkdir -p -m 755 -- "$folder/$text" ;;
    remove) rm -rf -- "$folder/$text" ;;
    *) chmod "$1" "$folder/$text" ;;
  esac || exit 1
  shift 2
done
