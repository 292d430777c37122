#!/bin/sh
# As root: installs the packages that the tests want and makes two users, one
# with subordinate ids and one without. As anybody else it does nothing: what is
# missing is skipped by name. Everything here may be repeated.
set -u
[ "$(id -u)" = 0 ] || exit 0

want=
need() { # command package
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || want="$want $2"
}
if command -v apt-get >/dev/null 2>&1; then
	dpkg -s busybox-static >/dev/null 2>&1 || want="$want busybox-static"
	need newuidmap uidmap
	need strace strace
	need docker-registry docker-registry
	need podman podman
	need crun crun
	need runc runc
	need skopeo skopeo
	need useradd passwd
	need ip iproute2
	need nft nftables
	need jq jq
	need ssh-agent openssh-client
	if [ -n "$want" ]; then
		export DEBIAN_FRONTEND=noninteractive
		# shellcheck disable=SC2086 # a list of names
		apt-get install -y -qq --no-install-recommends $want >/dev/null 2>&1 ||
			{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $want >/dev/null; } ||
			echo "setup: could not install:$want (their tests are skipped)" >&2
	fi
fi

# No distribution has crane: it is built from the module that cais links anyway.
if ! command -v crane >/dev/null 2>&1 && command -v go >/dev/null 2>&1; then
	version=$(go list -m -f '{{.Version}}' github.com/google/go-containerregistry 2>/dev/null) &&
		CGO_ENABLED=0 GOBIN=/usr/local/bin go install "github.com/google/go-containerregistry/cmd/crane@$version" 2>/dev/null ||
		echo "setup: could not build crane (what root/interop does with it is skipped)" >&2
fi

if command -v useradd >/dev/null 2>&1; then
	for u in cais-sub cais-nosub; do
		id "$u" >/dev/null 2>&1 || useradd -m -s /bin/sh "$u" || echo "setup: could not make user $u" >&2
	done
	# useradd hands out ranges by default; where it does not, take a free one.
	for f in /etc/subuid /etc/subgid; do
		[ -e "$f" ] || touch "$f"
		if ! grep -q '^cais-sub:' "$f"; then
			next=$(awk -F: 'BEGIN {n = 100000} {e = $2 + $3; if (e > n) n = e} END {print n}' "$f")
			echo "cais-sub:$next:65536" >>"$f"
		fi
		if grep -q '^cais-nosub:' "$f"; then
			sed -i '/^cais-nosub:/d' "$f"
		fi
	done
fi
exit 0
