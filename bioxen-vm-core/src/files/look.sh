# Tells the size, the permissions and the SHA-256 sum of a file.
#
# usage: sh -c THIS sh PATH
decode "$1"; path=$text
[ -e "$path" ] || exit 10
[ ! -d "$path" ] || exit 11
[ -f "$path" ] || exit 16
command -v sha256sum >/dev/null || exit 12
sum=$(sha256sum <"$path") && stat -L -c "%s %a ${sum%% *}" -- "$path"
