# Removes from a system what every copy of it would share: who it is, and what has happened in it.
# Whatever could not be removed is told, a line each, begun by `left`.

set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
have() { command -v "$1" >/dev/null 2>&1; }

# Package lists and archives.
if have apt-get; then apt-get clean; rm -rf /var/lib/apt/lists/*; fi
if have apk; then rm -rf /var/cache/apk/*; fi
if have dnf; then dnf clean all; fi

if have cloud-init; then cloud-init clean --logs; fi
if have journalctl; then journalctl --rotate --vacuum-size=1; fi
find /var/log -xdev -type f -exec sh -c 'for file; do : >"$file"; done' sh {} +

rm -f /var/lib/dhcp/* /var/lib/dhclient/* /var/lib/NetworkManager/*.lease \
    /var/lib/systemd/random-seed /var/lib/dbus/machine-id
# One that is absent would not be made again where the root is read-only at first.
: >/etc/machine-id
rm -f /etc/ssh/ssh_host_*
for home in /root /home/*; do
    rm -f "$home/.ssh/authorized_keys" "$home/.bash_history" "$home/.ash_history" "$home/.lua_history"
done
sync

if [ -s /etc/machine-id ]; then echo "left /etc/machine-id"; fi
for file in /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; do
    if [ -e "$file" ]; then echo "left $file"; fi
done
if [ -d /var/lib/cloud/instance ]; then echo "left /var/lib/cloud/instance"; fi
exit 0
