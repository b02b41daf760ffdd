# Takes a file into its folder under a name of its own, and gives it its real name when it is whole.
#
# usage: sh -c THIS sh PATH NAME ID PART MODE SIZE SHA256 FROM
#
# PART is what is there already from a transfer that broke off. With `ask` for FROM its size is
# printed; otherwise standard input brings what comes from there on. PATH may be a folder to put NAME
# into. ID is what the parts of this file begin with.
decode "$2"; name=$text
decode "$1"; path=$text
id=$3 part=$4 mode=$5 size=$6 sum=$7 from=$8

[ ! -d "$path" ] || path=$path/$name
[ ! -d "$path" ] || exit 11
folder=${path%/*}/
[ -d "$folder" ] || exit 10
command -v sha256sum >/dev/null || exit 12
part=$folder$part
[ "$from" != 0 ] || rm -f -- "$part" || exit 1
have=0
[ ! -f "$part" ] || have=$(($(wc -c <"$part"))) || exit 1
[ "$have" -le "$size" ] || { rm -f -- "$part"; have=0; }
[ "$from" != ask ] || { echo "$have"; exit 0; }
[ "$have" = "$from" ] || exit 14

# Nothing is gained by a part that fills the disk.
cat >>"$part" || { rm -f -- "$part"; exit 1; }
[ "$(($(wc -c <"$part")))" = "$size" ] || exit 15
got=$(sha256sum <"$part") || exit 1
[ "${got%% *}" = "$sum" ] || { rm -f -- "$part"; exit 13; }
chmod "$mode" "$part" && mv -f -- "$part" "$path" || exit 1
rm -f -- "$folder$id"*.part
