#!/bin/sh
# Runs README's two commands in a fresh minimal Debian root, as root and as an
# ordinary user: what is found there and not here is a bug. Needs root, mmdebstrap
# and a Debian mirror. Go and its module cache are bound in read-only.
#
#   newmachine.sh [MIRROR]     SUITE=bookworm  KEEP=1 keeps the root
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
suite=${SUITE:-bookworm}
[ "$(id -u)" = 0 ] || { echo "newmachine: needs root" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "newmachine: mmdebstrap is not installed" >&2; exit 1; }
goroot=$(go env GOROOT)
modcache=$(go env GOMODCACHE)
mkdir -p "$modcache"

# Everything happens in a mount namespace of this script's own, so that the end
# of it, however it comes, leaves no mount behind.
if [ "${NEWMACHINE_INSIDE:-}" = "" ]; then
	dir=$(mktemp -d "${TMPDIR:-/var/tmp}/newmachine.XXXXXX")
	if [ -z "${KEEP:-}" ]; then
		trap 'rm -rf "$dir"' EXIT
	fi
	NEWMACHINE_INSIDE="$dir" unshare --mount --pid --fork --kill-child --propagation private sh "$0" "$@"
	exit
fi
dir=$NEWMACHINE_INSIDE
root=$dir/root

# The host's own apt sources and proxy serve the new root, too.
mirror=${1:-}
if [ -z "$mirror" ]; then
	mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\(https\{0,1\}:[^ ]*\) '"$suite"' .*/\2/p' | head -n 1)
	[ -n "$mirror" ] || mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '{print $1; exit}')
fi
echo "newmachine: $suite into $root"
mmdebstrap --quiet --variant=minbase --include=make,git,ca-certificates "$suite" "$root" $mirror

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/usr/local/go" "$root/go/mod" "$root/src"
mount --bind "$goroot" "$root/usr/local/go"
mount --bind "$modcache" "$root/go/mod"
# The machine's way to the network.
for f in /etc/resolv.conf /etc/hosts; do
	[ ! -e "$f" ] || cp -L "$f" "$root$f"
done
for f in /etc/apt/apt.conf.d/*; do
	[ ! -e "$f" ] || cp -n "$f" "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
done
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true

# The tree as git has it, with what is not committed yet.
(cd "$top" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c --ignore-failed-read 2>/dev/null) | tar -x -C "$root/src"
chroot "$root" git -C /src init -q
chroot "$root" git -C /src add -A
chroot "$root" git -C /src -c user.name=new -c user.email=new@machine commit -qm tree

goproxy=$(go env GOPROXY)
gosumdb=$(go env GOSUMDB)

# Not a chroot: the kernel forbids user namespaces to whoever is in one.
mkdir -p "$root/.old"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old

run() { # user command
	echo "newmachine: $1: $2"
	env -i \
		PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		GOMODCACHE=/go/mod GOFLAGS="-buildvcs=false -modcacherw" GOPROXY="$goproxy" GOSUMDB="$gosumdb" \
		HTTP_PROXY="${HTTP_PROXY:-${http_proxy:-}}" HTTPS_PROXY="${HTTPS_PROXY:-${https_proxy:-}}" NO_PROXY="${NO_PROXY:-${no_proxy:-}}" \
		sh -c 'if [ "$1" = root ]; then
			export HOME=/root; cd /src; eval "$2"
		else
			export HOME=/home/$1; cd "$HOME/src"
			exec setpriv --reuid "$1" --regid "$1" --init-groups sh -c "$2"
		fi' sh "$1" "$2"
}

run root 'make demo'
run root 'make test'
useradd -m newuser
cp -r /src /home/newuser/src
rm -rf /home/newuser/src/bin
chown -R newuser:newuser /home/newuser
run newuser 'make demo'
run newuser 'make test'
echo "newmachine: both commands passed, as root and as a user"
