#!/bin/sh
# Installs the servers and clients that tests use from Debian's packages, where this is Debian and we are root.
# Never fails: a test whose counterpart is missing says so in the summary.
wanted="mosquitto mosquitto-clients"
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "NOTE: not installed:$missing. Tests that need them will be skipped and named in the summary." >&2
    exit 0
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# The packages' services must not start: tests bring their own on free ports.
policy=/usr/sbin/policy-rc.d
made_policy=no
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made_policy=yes
fi
(apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1; }) ||
    echo "NOTE: installing$missing failed. Tests that need them will be skipped and named in the summary." >&2
[ "$made_policy" = yes ] && rm -f "$policy"
exit 0
