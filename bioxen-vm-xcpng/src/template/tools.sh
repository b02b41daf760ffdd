# Installs guest tools by the system's own package manager, where that has them, and starts them now and
# at each boot. It ends with 0 when they are there then, and says `installed` when they were not before.

set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
have() { command -v "$1" >/dev/null 2>&1; }
quietly() { "$@" >/dev/null 2>&1 </dev/null; }
has_tools() { have xe-daemon || have xen-guest-agent; }

install() {
    if have apt-get; then
        quietly env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "$1"
    elif have apk; then
        quietly apk add "$1"
    elif have dnf; then
        quietly dnf install --assumeyes "$1"
    else
        return 1
    fi
}

# Those that are there may only not have reported yet.
has_tools && exit 0
# Each system calls them otherwise, and Debian 12 has none.
for package in xe-guest-utilities xen-guest-agent xe-guest-utilities-latest; do
    has_tools || install "$package"
done
has_tools || exit 1
echo installed

for service in xe-linux-distribution xe-daemon xe-guest-utilities xen-guest-agent; do
    if have systemctl; then
        quietly systemctl enable --now "$service"
    elif have rc-update; then
        quietly rc-update add "$service" default && quietly rc-service "$service" start
    fi
done
exit 0
