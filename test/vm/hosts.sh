#!/bin/sh
# What only the guest can show: systemd, a pure cgroup v2, logout, NFS. It runs in the
# guest as the user tester, in the directory of the built program and busybox; root's
# parts are asked for with "root" and "nfs".
set -eu
fail() { echo "FAIL: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }
share=$PWD
PATH=/var/tmp/bin:$PATH
mkdir -p /var/tmp/bin && [ -x /var/tmp/bin/cais ] || { cp "$share/cais" "$share/busybox" /var/tmp/bin/; ln -sf cais /var/tmp/bin/cais-oci; }

image() { cais image exists busybox || cais load -q -i "$share/busybox.tar" >/dev/null; }

limits() {
	image
	cais run -d --name lim --memory 64m --pids-limit 20 busybox sleep 1000 >/dev/null
	pid=$(cais inspect -f '{{.State.Pid}}' lim)
	dir=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$pid"/cgroup)
	[ "$(cat "$dir/memory.max")" = 67108864 ] || fail "memory.max in $dir: $(cat "$dir/memory.max")"
	[ "$(cat "$dir/pids.max")" = 20 ] || fail "pids.max in $dir"
	ok "limits hold: $dir"
	cais exec lim cat /proc/self/cgroup >/dev/null || fail "exec"
	# More than it may have is killed, and said.
	code=0
	cais run --name oom --memory 32m --memory-swap 32m busybox sh -c 'a=x; while :; do a=$a$a; done' >/dev/null 2>&1 || code=$?
	[ "$code" = 137 ] || fail "exit code of an out-of-memory kill: $code"
	[ "$(cais inspect -f '{{.State.OOMKilled}}' oom)" = true ] || fail "OOMKilled is not told"
	ok "too much memory is an OOM kill"
	cais rm -f -t 0 lim oom >/dev/null
	[ ! -d "$dir" ] || fail "$dir is left"
	i=0; while systemctl --user list-units --all 2>/dev/null | grep -q cais-; do i=$((i + 1)); [ $i -lt 50 ] || fail "a scope is left"; sleep 0.1; done
	ok "no cgroup and no scope is left"
}

case ${1:-all} in
limits) limits ;;
leave) # a container for another login to find
	image
	cais run -d --name stays busybox sleep 1000 >/dev/null ;;
stays)
	[ "$(cais inspect -f '{{.State.Running}}' stays)" = true ] || fail "logout ended the container"
	cais exec stays true || fail "exec after logout"
	cais rm -f -t 0 stays >/dev/null
	ok "a container outlives the session that started it" ;;
boot)
	image
	cais run -d --name back --restart always busybox sleep 1000 >/dev/null
	cais run -d --name gone busybox sleep 1000 >/dev/null
	cais system boot enable
	[ "$(cais system boot status)" = enabled ] || fail status ;;
booted)
	i=0; until [ "$(cais inspect -f '{{.State.Running}}' back)" = true ]; do i=$((i + 1)); [ $i -lt 100 ] || fail "it did not come back: $({ systemctl --user status cais-boot; systemctl status cais-boot; } 2>&1 | tail -20)"; sleep 0.2; done
	[ "$(cais inspect -f '{{.State.Running}}' gone)" = false ] || fail "one without a policy came back"
	cais rm -f -t 0 back gone >/dev/null
	cais system boot disable
	ok "a container with a policy comes back after a reboot" ;;
scope) # cais oci with systemd's cgroups
	mkdir -p /tmp/bundle/rootfs/bin && cd /tmp/bundle && cp /var/tmp/bin/busybox rootfs/bin/ && ln -sf busybox rootfs/bin/sleep && rm -f config.json
	if [ "$(id -u)" = 0 ]; then cais-oci spec; else cais-oci spec --rootless; fi
	jq '.process.terminal=false | .process.args=["sleep","1000"] | .linux.resources={memory:{limit:50000000}} | .linux.cgroupsPath=":cais:sc"' config.json >c && mv c config.json
	cais-oci --systemd-cgroup run -d sc </dev/null >/dev/null 2>&1
	pid=$(cais-oci state sc | jq .pid)
	dir=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$pid"/cgroup)
	case $dir in */cais-sc.scope) ;; *) fail "not in its scope: $dir" ;; esac
	[ "$(cat "$dir/memory.max")" = 49999872 ] || fail "memory.max $(cat "$dir/memory.max")"
	cais-oci delete -f sc
	[ ! -d "$dir" ] || fail "$dir is left"
	ok "cais oci --systemd-cgroup: $dir" ;;
nfs) # as root: a home on NFS
	mkdir -p /srv/nfs/tester && chown tester /srv/nfs/tester
	PATH=$PATH:/usr/sbin
	systemctl start nfs-server || fail "the NFS server does not start: $(journalctl -b -n 20 -u nfs-server)"
	exportfs -o rw,no_root_squash,insecure 127.0.0.1:/srv/nfs
	mkdir -p /mnt/nfs && mount -t nfs -o vers=4.2 127.0.0.1:/srv/nfs /mnt/nfs
	su tester -c "cd $share; HOME=/mnt/nfs/tester XDG_RUNTIME_DIR=/run/user/1000 /var/tmp/bin/cais doctor" | grep -q 'lies on nfs' || fail "doctor does not see NFS"
	su tester -c "cd $share; export HOME=/mnt/nfs/tester XDG_RUNTIME_DIR=/run/user/1000 CAIS_ROOT=/var/tmp/cais-tester; /var/tmp/bin/cais load -q -i busybox.tar && /var/tmp/bin/cais run --rm busybox true" || fail "run with HOME on NFS and CAIS_ROOT elsewhere"
	ok "HOME on NFS" ;;
networks) # beside systemd-resolved
	image
	if [ "$(id -u)" = 0 ] && systemctl start systemd-resolved 2>/dev/null; then # TESTVM_PACKAGES=systemd-resolved
		ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
	fi
	[ -c /dev/net/tun ] && ok "a normal tun: $(stat -c %a /dev/net/tun), which nobody opens"
	cais network create front >/dev/null
	cais run -d --name web --network front -p 8090:80 busybox sh -c 'echo from web >/tmp/i; exec httpd -f -p 80 -h /tmp' >/dev/null
	i=0; until [ "$(busybox wget -q -O - http://127.0.0.1:8090/i)" = 'from web' ]; do i=$((i + 1)); [ $i -lt 50 ] || fail "the published port"; sleep 0.1; done
	[ "$(cais run --rm --network front busybox wget -q -O - http://web/i)" = 'from web' ] || fail "a neighbour by its name"
	ok "a user network, by name; a published port"
	grep -q '^nameserver 127.0.0.53' /etc/resolv.conf || echo "skip: systemd-resolved is not in this guest"
	# This machine's own name is known to systemd-resolved's server on the loopback alone.
	! grep -q '^nameserver 127.0.0.53' /etc/resolv.conf || cais run --rm --network front busybox nslookup "$(hostname)" | grep -q '^Name' || fail "a name of systemd-resolved's on a network"
	! grep -q '^nameserver 127.0.0.53' /etc/resolv.conf || ok "names that only 127.0.0.53 knows"
	if [ "$(id -u)" = 0 ] && grep -q '^nameserver 127.0.0.53' /etc/resolv.conf; then
		# Servers change, as a VPN comes and goes; what was there is asked no more.
		knows() { cais exec web nslookup "$(hostname)" 2>/dev/null | grep -q '^Name'; }
		rm /etc/resolv.conf && echo nameserver 127.0.0.9 >/etc/resolv.conf
		i=0; while knows; do i=$((i + 1)); [ $i -lt 50 ] || fail "resolv.conf is not followed"; done
		ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
		i=0; until knows; do i=$((i + 1)); [ $i -lt 50 ] || fail "resolv.conf is not followed back"; sleep 0.1; done
		ok "a resolv.conf that changes is followed"
	fi
	mkdir -p /tmp/www.$$ && echo from the host >/tmp/www.$$/i
	busybox httpd -f -p 8091 -h /tmp/www.$$ &
	host=$!
	sleep 0.3
	got=$(cais run --rm --network front busybox wget -q -O - http://host.docker.internal:8091/i) || true
	kill $host
	[ "$got" = 'from the host' ] || fail "the host by its name: $got"
	ok "host.docker.internal"
	cais rm -f -t 0 web >/dev/null
	cais network rm front >/dev/null
	ip link | grep -q 'br-' && fail "a bridge is left: $(ip link)"
	ok "nothing is left" ;;
doctor) cais doctor ;;
*) fail "unknown: $1" ;;
esac
