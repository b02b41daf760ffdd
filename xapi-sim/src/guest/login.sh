#!/bin/sh
# What a login runs in a guest that has no root directory of its own: the asked
# command, or a login shell, in the private home directory.

cd "$HOME" || exit 255
if [ -n "${SSH_ORIGINAL_COMMAND+set}" ]; then
    command=$SSH_ORIGINAL_COMMAND
    unset SSH_ORIGINAL_COMMAND
    exec /bin/sh -c "$command"
fi
exec /bin/sh -l
