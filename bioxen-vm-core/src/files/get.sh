# Gives a file from an offset on.
#
# usage: sh -c THIS sh PATH FROM
decode "$1"
if [ "$2" = 0 ]; then exec cat <"$text"; fi
exec tail -c "+$(($2 + 1))" <"$text"
