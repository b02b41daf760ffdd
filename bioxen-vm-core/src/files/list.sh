# Lists a folder with all that is in it: for each thing a record that ends in a NUL byte, which is a
# letter (d: folder, f: file, o: other), permissions, size, SHA-256 sum, and the path from the folder
# on. Without the folder there is nothing to list.
#
# usage: sh -c THIS sh PATH
decode "$1"
[ -e "$text" ] || exit 10
[ -d "$text" ] || exit 17
command -v sha256sum >/dev/null || exit 12
cd -- "$text" || exit 1
exec find . ! -name . ! -name '.bioxen-*.part' -exec sh -c '
  for file; do
    if [ -h "$file" ]; then
      printf "o 0 0 - %s\000" "$file"
    elif [ -d "$file" ]; then
      printf "d %s 0 - %s\000" "$(stat -c %a -- "$file")" "$file"
    elif [ -f "$file" ]; then
      sum=$(sha256sum <"$file") || exit 1
      printf "f %s %s %s\000" "$(stat -c "%a %s" -- "$file")" "${sum%% *}" "$file"
    else
      printf "o 0 0 - %s\000" "$file"
    fi
  done
' sh {} +
