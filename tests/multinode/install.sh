#!/bin/sh
# Installs what tests/multinode needs on Debian and Ubuntu, where we are root and a package server answers. Otherwise
# says so and ends well: those tests then skip. The machine's own sshd is neither started nor enabled.
for program in ip sshd pdsh; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/multinode will skip: no$missing, and no root with apt-get to install them"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
policy=/usr/sbin/policy-rc.d # asked by the package before it starts a service
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=1; }
if ! { timeout 120 apt-get -qq update &&
    timeout 240 apt-get -qq install --no-install-recommends iproute2 openssh-server openssh-client pdsh; } \
    >/tmp/multinode-install.$$ 2>&1; then
    echo "tests/multinode will skip: apt-get could not install$missing"
    tail -2 /tmp/multinode-install.$$
fi
rm -f /tmp/multinode-install.$$
[ -z "$ours" ] || rm -f "$policy"
exit 0
