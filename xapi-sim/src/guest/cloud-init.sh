#!/bin/sh
# Does in a guest what cloud-init does in a VM with a config drive: what the
# simulator has read from the drive is laid out below /run/cloud-init/seed, one
# value to a file.
#
# usage: cloud-init.sh init | final
#
# `init` comes before sshd starts, `final` while it runs. Each boot has both, but
# most of the work is done once for each instance.

set -u
run=/run/cloud-init seed=/run/cloud-init/seed
data=/var/lib/cloud
log=/var/log/cloud-init-output.log
# The simulator reads descriptor 9.
exec 9>&2 >>"$log" 2>&1 </dev/null

# Notes a failure of module $1.
fail() {
    echo "cloud-init: $1: $2"
    echo "cloud-init: $1: $2" >&9
    printf '%s\n' "('$1', $2)" >>"$run/errors"
}

# Prints the value $1 of the entry in $entry, or nothing.
value() {
    if [ -f "$entry/$1" ]; then cat "$entry/$1"; fi
}

write_files() {
    for entry in "$seed"/files/*; do
        [ -d "$entry" ] || continue
        path=$(value path)
        mkdir -p "$(dirname "$path")" || { fail write-files "cannot make the folder of $path"; continue; }
        decode="cat"
        case $(value encoding) in
            b64 | base64) decode="base64 -d" ;;
            gz | gzip) decode="gzip -dc" ;;
            gz+b64 | gz+base64 | gzip+b64 | gzip+base64) decode="base64 -d | gzip -dc" ;;
        esac
        if ! sh -c "$decode" <"$entry/content" >"$entry/decoded"; then
            fail write-files "cannot decode $path"
            continue
        fi
        if [ -f "$entry/append" ]; then
            cat "$entry/decoded" >>"$path"
        else
            # A link would lead elsewhere, and a file of the machine below is read-only. One that
            # is mounted stays.
            rm -f "$path" 2>/dev/null
            cat "$entry/decoded" >"$path"
        fi || { fail write-files "cannot write $path"; continue; }
        chmod "$(value permissions)" "$path" || fail write-files "cannot set the mode of $path"
        # Whoever is not root here stands for root, whom no mode keeps from writing.
        [ "$(id -u)" = 0 ] || chmod u+w "$path"
        if [ "$(id -u)" = 0 ]; then
            chown "$(value owner)" "$path" || fail write-files "cannot set the owner of $path"
        fi
    done
}

users_groups() {
    for entry in "$seed"/users/*; do
        [ -d "$entry" ] || continue
        name=$(value name)
        if ! getent passwd "$name" >/dev/null; then
            add_user || { fail users-groups "cannot make user $name"; continue; }
        fi
        sudo_rules
        if [ -s "$entry/keys" ]; then
            authorize || fail ssh "cannot install the keys of $name"
        fi
    done
}

add_user() {
    set -- --create-home
    while read -r option; do
        read -r argument
        if [ "$option" = --groups ]; then
            for group in $(printf '%s' "$argument" | tr ',' ' '); do
                getent group "$group" >/dev/null || groupadd "$group" || return
            done
        fi
        set -- "$@" "$option" "$argument"
    done <"$entry/useradd"
    # Without PAM, sshd takes an account with a locked password for closed.
    useradd "$@" --password '*' "$name"
}

sudo_rules() {
    [ -s "$entry/sudo" ] && [ -d /etc/sudoers.d ] || return 0
    while read -r rule; do
        printf '%s %s\n' "$name" "$rule"
    done <"$entry/sudo" >>/etc/sudoers.d/90-cloud-init-users
    chmod 0440 /etc/sudoers.d/90-cloud-init-users
}

authorize() {
    home=$(getent passwd "$name" | cut -d: -f6)
    keys=$home/.ssh/authorized_keys
    mkdir -p "$home/.ssh" && chmod 0700 "$home/.ssh" || return
    touch "$keys" && chmod 0600 "$keys" || return
    while read -r key; do
        grep -q -x -F -e "$key" "$keys" || printf '%s\n' "$key" >>"$keys" || return
    done <"$entry/keys"
    if [ "$(id -u)" = 0 ]; then chown -R "$name:" "$home/.ssh"; fi
}

timezone() {
    [ -f "$seed/timezone" ] || return 0
    zone=$(cat "$seed/timezone")
    if [ ! -f "/usr/share/zoneinfo/$zone" ]; then
        fail timezone "OSError('Invalid timezone $zone, no file found at /usr/share/zoneinfo/$zone')"
    elif ! { rm -f /etc/localtime && ln -s "/usr/share/zoneinfo/$zone" /etc/localtime &&
        rm -f /etc/timezone && printf '%s\n' "$zone" >/etc/timezone; }; then
        fail timezone "cannot set the time zone"
    fi
}

passwords() {
    # Options by which it asks no PAM, which guests may lack.
    for kind in "passwords --crypt-method=SHA512" "password-hashes --encrypted"; do
        file=$seed/${kind%% *}
        [ -f "$file" ] || continue
        chpasswd "${kind#* }" <"$file" ||
            fail set-passwords "ProcessExecutionError('chpasswd ${kind#* }')"
    done
    [ -f "$seed/expired" ] || return 0
    while read -r name; do
        passwd --expire "$name" >/dev/null || fail set-passwords "cannot expire the password of $name"
    done <"$seed/expired"
}

# Installs what is not there already, and tells the package manager's own outcome.
packages() {
    if [ -f "$seed/package-update" ]; then
        apt-get --quiet update || fail package-update-upgrade-install \
            "ProcessExecutionError('apt-get update')"
    fi
    [ -f "$seed/packages" ] || return 0
    set --
    while read -r package; do
        status=$(dpkg-query --show --showformat='${db:Status-Status}=${Version}' "${package%%=*}")
        case $package=$status in
            *=installed=*)
                case $package in *=*) [ "$status" = "installed=${package#*=}" ] && continue ;; *) continue ;; esac ;;
        esac
        set -- "$@" "$package"
    done <"$seed/packages"
    [ $# -gt 0 ] || return 0
    DEBIAN_FRONTEND=noninteractive apt-get --quiet --assume-yes install "$@" || fail \
        package-update-upgrade-install "ProcessExecutionError('apt-get --quiet --assume-yes install $*')"
}

# The log ends with it; $words stand for what is known at the end.
final_message() {
    message='Cloud-init v. $version finished at $timestamp. Datasource $datasource.  Up $uptime seconds'
    if [ -f "$seed/final-message" ]; then message=$(cat "$seed/final-message"); fi
    read -r uptime _ </proc/uptime
    printf '%s\n' "$message" | sed -E \
        -e 's/\$\{?(version|VERSION)\}?/22.4.2-xapi-sim/g' \
        -e "s/\\$\\{?(timestamp|TIMESTAMP)\\}?/$(date -u '+%a, %d %b %Y %H:%M:%S +0000')/g" \
        -e "s/\\$\\{?(datasource|DATASOURCE)\\}?/$source/g" \
        -e "s/\\$\\{?(uptime|UPTIME)\\}?/$uptime/g"
}

# Runs script $2 for module $1.
run_script() {
    [ -f "$seed/$2" ] || return 0
    # Its first line says what runs it.
    chmod 0700 "$seed/$2"
    "$seed/$2" 9>&- && return
    fail "$1" "RuntimeError('Runparts: 1 failures ($2) in 1 attempted commands')"
    # Whoever cannot log in does not see the log.
    tail -n 3 "$log" | head -n 2 | sed 's/^/cloud-init: | /' >&9
}

# Runs the scripts in folder $2 for module $1.
run_scripts() {
    for script in "$seed/$2"/*; do
        run_script "$1" "$2/${script##*/}"
    done
}

# Writes where cloud-init tells how far it is; $1 is the stage, or null.
tell() {
    stage=$1
    errors=
    if [ -f "$run/errors" ]; then
        errors=$(sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' "$run/errors" | paste -s -d, -)
    fi
    cat >"$run/status.json.new" <<END
{"v1": {"datasource": "$source [seed=/dev/xvd][dsmode=net]", "stage": $stage,
  "init": {"errors": [], "start": 1, "finished": 1},
  "modules-final": {"errors": [$errors], "start": 1, "finished": $(date +%s)}}}
END
    mv "$run/status.json.new" "$run/status.json"
}

end() {
    tell null
    printf '{"v1": {"datasource": "%s", "errors": [%s]}}\n' "$source" "$errors" \
        >"$run/result.json"
    mkdir -p "$data/data" "$data/instances" && date >"$instance/boot-finished"
    cp "$run/result.json" "$run/status.json" "$data/data/"
    # Keys have been in it.
    rm -rf "$seed"
}

id=$(cat "$seed/instance-id")
source=$(cat "$run/datasource")
INSTANCE_ID=$id
export INSTANCE_ID
instance=$data/instances/$(printf '%s' "$id" | tr / _)
cd /
case $1 in
    init)
        mkdir -p "$data/data" "$instance"
        rm -f "$data/instance" "$run/errors"
        ln -s "$instance" "$data/instance"
        printf '%s\n' "$id" >"$data/data/instance-id"
        if [ -f "$seed/errors" ]; then
            while read -r line; do fail init "$line"; done <"$seed/errors"
        fi
        tell '"init"'
        run_scripts boothook boothooks
        run_script bootcmd bootcmd
        if [ -f "$seed/new" ]; then
            write_files
            users_groups
            timezone
            passwords
        fi
        tell '"modules-config"'
        ;;
    final)
        if [ -f "$seed/new" ]; then
            tell '"modules-final"'
            packages
            run_script scripts-user runcmd
            run_scripts scripts-user user-scripts
        fi
        final_message
        delay=
        if [ -f "$seed/new" ] && [ -f "$seed/power-off" ]; then delay=$(cat "$seed/power-off"); fi
        end
        # The first process ends the guest, and with it this one.
        if [ -n "$delay" ]; then
            sleep "$delay"
            kill -s TERM 1
        fi
        ;;
esac
