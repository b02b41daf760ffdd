#!/bin/sh
# Builds the file system of a guest inside fresh mount, PID, UTS and IPC
# namespaces, moves into it for good and becomes the guest's first process.
#
# usage: overlay.sh ROOT FSTAB HOSTNAME INIT-ARGUMENT...

set -eu
root=$1 fstab=$2 hostname=$3
shift 3

mount --all --fstab "$fstab"
cd "$root"
# Unlike after a chroot, nothing is left from which the machine can be reached.
pivot_root . boot/machine
umount --lazy /boot/machine
cd /

printf '%s\n' "$hostname" >/proc/sys/kernel/hostname
printf '%s\n' "$hostname" >/etc/hostname

# What an ordinary container may do: no mounts, no devices, no kernel settings.
caps=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap
caps=$caps,+net_bind_service,+net_raw,+sys_chroot,+audit_write,+setfcap
# The supervisor is its parent.
exec setpriv --pdeathsig=KILL --inh-caps=-all --bounding-set="$caps" /bin/sh /boot/init.sh "$@"
