# What all scripts begin with. Names come as text in which \0ooo stands for any byte that is not
# plain, and always have a slash, so that none is taken for an option. Exit codes tell what is wrong.
export LC_ALL=C
umask 077
decode() { text=$(printf '%b.' "$1"); text=${text%.}; }
