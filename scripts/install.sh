#!/bin/sh
# Installs nightwatt from a binary on Debian or Raspberry Pi OS; run again with a newer binary, it upgrades.
set -eu

program=/usr/local/bin/nightwatt
unit=/etc/systemd/system/nightwatt.service
users=/etc/sysusers.d/nightwatt.conf
folders=/etc/tmpfiles.d/nightwatt.conf
config=/etc/nightwatt/nightwatt.toml

usage() {
    echo "usage: install.sh [BINARY]           install or upgrade [default: the one in dist/ for this machine]
       install.sh --uninstall        remove all but readings, models and configuration
       install.sh --uninstall --purge  remove these too"
}

die() {
    printf 'install.sh: %s\n' "$@" >&2
    exit 1
}

source=$(dirname "$0")/..
binary=
uninstall=no
purge=no
for word in "$@"; do
    case $word in
    -h | --help) usage && exit ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    -*) usage >&2 && exit 2 ;;
    *) binary=$word ;;
    esac
done
[ "$purge" = no ] || [ "$uninstall" = yes ] || { usage >&2 && exit 2; }
[ "$(id -u)" = 0 ] || die "needs root: sudo $0 $*"
[ -d /run/systemd/system ] || die "this machine does not run systemd"

if [ "$uninstall" = yes ]; then
    systemctl disable --now nightwatt.service 2>/dev/null || true
    rm -f "$program" "$unit" "$users" "$folders"
    systemctl daemon-reload
    if [ "$purge" = yes ]; then
        rm -rf /var/lib/nightwatt /var/lib/private/nightwatt /etc/nightwatt
    else
        echo "kept: /var/lib/nightwatt, /etc/nightwatt"
    fi
    echo "removed; the user nightwatt stays"
    exit
fi

# Two of them would take turns at shadowing each other.
! dpkg-query --show --showformat '${db:Status-Abbrev}' nightwatt 2>/dev/null | grep -q '^ii' ||
    die "the Debian package is installed: upgrade it with apt, or apt remove nightwatt first"
if [ -z "$binary" ]; then
    for binary in "$source"/dist/nightwatt-*-"$(uname -m)"-unknown-linux-musl; do :; done
fi
[ -f "$binary" ] || die "there is no $binary: give the binary as argument"
said=$("$binary" --version) || die "$binary does not run here ($(uname -m))"

# Beside the old one and then over it: a running binary cannot be written to, and a cut in power
# leaves one of the two.
install -D -m 755 "$binary" "$program.new"
sync "$program.new"
mv "$program.new" "$program"
install -d /etc/sysusers.d /etc/tmpfiles.d
install -m 644 "$source/systemd/nightwatt.sysusers" "$users"
install -m 644 "$source/systemd/nightwatt.tmpfiles" "$folders"
sed "s|=/usr/bin/nightwatt |=$program |" "$source/systemd/nightwatt.service" >"$unit"
chmod 644 "$unit"
[ -e "$config" ] || install -D -m 640 "$source/config/nightwatt.toml" "$config"
systemd-sysusers "$users"
systemd-tmpfiles --create "$folders"
"$program" check-config -c "$config" >/dev/null || die "installed, not started: mend $config, run this again"
systemctl daemon-reload
systemctl enable --quiet nightwatt.service
systemctl restart nightwatt.service
echo "$said runs; configuration: $config, then: systemctl reload nightwatt"
