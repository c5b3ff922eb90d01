#!/bin/sh
# Installs the servers and clients that tests use from Debian's packages, where this is Debian and we are root.
# Never fails: a test whose counterpart is missing says so in the summary. What could not be had is not tried again
# before `make clean`, so that a machine without a network does not wait each time.
wanted="mosquitto mosquitto-clients"
tried="$(dirname "$0")/../.cache/servers-tried"
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
note() {
    echo "NOTE: $1:$missing. Tests that need them are skipped and named in the summary." >&2
    exit 0
}
{ [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || note "not installed (needs root and apt)"
[ ! -e "$tried" ] || note "not installed (apt failed; make clean tries again)"

echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# The packages' services must not start: tests bring their own on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
fi
apt() {
    apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=120 "$@" >/dev/null 2>&1
}
install() {
    apt install -y --no-install-recommends $missing
}
if install || { apt update && install; }; then
    # Nor after the next boot.
    case "$missing " in
    *" mosquitto "*) command -v systemctl >/dev/null && systemctl disable --quiet mosquitto >/dev/null 2>&1 ;;
    esac
else
    mkdir -p "$(dirname "$tried")" && touch "$tried"
    note "could not be installed by apt"
fi
exit 0
