package ociconf

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// look prints all that a process sees of what the runtime made, a line each with
// its topic in front.
const look = `
p() { sed "s/^/$1: /"; }
awk '{ out = ""; for (i = 4; i <= NF; i++) out = out " " $i; print out }' /proc/self/mountinfo | p mount
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Cpus_allowed_list|Umask)' /proc/self/status | p status
cat /proc/self/limits | p limit
ls -ln /dev /dev/pts 2>/dev/null | awk 'NR > 1 { print $1, $3, $4, $5, $6 * ($1 ~ /^[bc]/), $NF }' | p dev
cat /proc/self/cgroup | p cgroup
env | sort | p env
cat /proc/self/oom_score_adj | p oom
cat /proc/self/uid_map /proc/self/gid_map | p idmap
hostname | p hostname
pwd | p cwd
umask | p umask
for n in mnt pid net ipc uts user cgroup; do test "$(readlink /proc/self/ns/$n)" = "$(cat /hostns/$n)" && echo "$n is the host's"; done | p ns
cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward 2>&1 | p sysctl
for f in /proc/kcore /proc/keys /proc/timer_list /proc/sys/kernel/core_pattern /sys/firmware /proc/sysrq-trigger; do { test -r $f && echo readable; test -w $f && echo writable; test -d $f && ls $f | wc -l; head -c 1 $f 2>&1 | wc -c; } 2>&1 | tr '\n' ' '; echo $f; done | p masked
chmod 600 /tmp 2>&1 | p chmod; mkdir /tmp/x 2>&1 | p mkdir; ls / | p root
echo x 2>&1 >/proc/self/attr/exec | wc -c | p attr
unshare -U true 2>&1 | p unshare; mount -t tmpfs x /tmp 2>&1 | p mountcall; mknod /tmp/n c 1 3 2>&1 | p mknod; head -c 1 /dev/test 2>&1 | wc -c | p device
`

// cases are changes to the configuration that all runtimes begin with.
var cases = []struct {
	name   string
	change func(s *specs.Spec)
}{
	{"default", func(*specs.Spec) {}},
	{"user", func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1002}}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NET_RAW"}}
		s.Process.NoNewPrivileges = true
		s.Process.Cwd = "/tmp"
	}},
	{"limits", func(s *specs.Spec) {
		adj := 500
		s.Process.OOMScoreAdj = &adj
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_NPROC", Soft: 500, Hard: 600}}
		limit, pids, shares := int64(64<<20), int64(50), uint64(512)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: pids}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Cpus: "0"}
	}},
	{"seccomp", func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno},
				{Names: []string{"chmod", "fchmodat"}, Action: specs.ActErrno},
				{Names: []string{"unshare"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0x10000000, Op: specs.OpEqualTo}}},
			}}
	}},
	{"devices", func(s *specs.Spec) {
		mode, uid := os.FileMode(0o640), uint32(7)
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/test", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid, GID: &uid},
			{Path: "/dev/sub/fifo", Type: "p", FileMode: &mode}}
	}},
	{"namespaces", func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}, {Type: "ipc"}}
		s.Hostname = ""
		s.Mounts[6].Options = nil
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "123456"}
	}},
	{"userns", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Linux.Resources = &specs.LinuxResources{}
	}},
	{"propagation", func(s *specs.Spec) {
		s.Linux.RootfsPropagation = "slave"
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt/a", Type: "bind", Source: "/etc", Options: []string{"rbind", "ro", "nosuid", "nodev"}},
			specs.Mount{Destination: "/mnt/b", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "noexec", "mode=700"}})
		s.Root.Readonly = true
	}},
	{"host", func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil }},
}

// differ are the lines that only one of two runtimes has, with the reason.
var differ = []struct{ topic, line, why string }{
	{"cgroup", ".*", "crun and runc join systemd's named hierarchy, too"},
	{"mount", "^/sys/fs/cgroup / r[ow],.* tmpfs$", "the directory that holds the hierarchies is read-only under cais where the mount is to be"},
	{"mount", "^/sys/fs/cgroup(/.*)? (/|/cais-view) rw,.*", "without options crun adds nosuid and noexec of its own; systemd's hierarchy is not ours"},
	{"dev", ".*/proc/kcore$", "runc makes no /dev/core"},
	{"dev", "^crw-rw-rw- [0-9]+ [0-9]+ 1, 3 null$", "crun gives the device of a standard stream to the user, cais pipes only"},
	{"masked", ".*/sys/firmware$", "the empty directory is read-only and has no room under cais"},
}

func TestView(t *testing.T) {
	cais, crun, runc := needs(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := bundle(t, dir)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text, err := json.Marshal(base)
			if err != nil {
				t.Fatal(err)
			}
			spec := &specs.Spec{}
			if err := json.Unmarshal(text, spec); err != nil {
				t.Fatal(err)
			}
			c.change(spec)
			ours := view(t, dir, cais, spec)
			for _, other := range []string{crun, runc} {
				if c.name == "userns" && other == runc {
					continue // it cannot enter a directory that only root may
				}
				theirs := view(t, dir, other, spec)
				compare(t, filepath.Base(other), ours, theirs)
			}
		})
	}
}

// bundle makes a root file system of busybox.
func bundle(t *testing.T, dir string) *specs.Spec {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "mnt/a", "mnt/b", "hostns", "dev/sub"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755)
	}
	if err == nil {
		err = exec.Command("chroot", root, "/bin/busybox", "--install", "-s", "/bin").Run()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields("mnt pid net ipc uts user cgroup") {
		link, err := os.Readlink("/proc/self/ns/" + n)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "hostns", n), []byte(link+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/proc/mounts", filepath.Join(root, "etc/mtab")); err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_MKNOD", "CAP_DAC_OVERRIDE"}
	quiet := func(more ...string) []string { return append([]string{"nosuid", "noexec", "nodev"}, more...) }
	deny := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	return &specs.Spec{
		Version: "1.0.0", Hostname: "view", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"sh", "-c", look}, Cwd: "/", Env: []string{"PATH=/bin", "A=b c"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: quiet("mode=1777", "size=65536k")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: quiet()},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: quiet("ro")},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: quiet("relatime", "ro")},
		},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/nonexistent"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq"},
			Resources:     &specs.LinuxResources{Devices: deny},
			CgroupsPath:   "/cais-view",
		},
	}
}

// view runs the container and returns what it printed, by topic.
func view(t *testing.T, dir, rt string, spec *specs.Spec) map[string][]string {
	t.Helper()
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, left := range []string{"tmp/x", "tmp/n"} {
		if err := os.RemoveAll(filepath.Join(dir, "rootfs", left)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := hidden(ctx, rt, "run", "view")
	cmd.Dir = dir
	var out, stderr bytes.Buffer
	cmd.Stdin = strings.NewReader("") // a pipe: crun makes the container's user the owner of what it is given, also of /dev/null
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		_ = exec.Command(rt, "delete", "--force", "view").Run() // it may have come so far
		t.Errorf("%s: %v: %s", filepath.Base(rt), err, &stderr)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(out.String()) {
		topic, what, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok {
			if topic == "mount" {
				what = mountLine(what)
			}
			lines[topic] = append(lines[topic], plain(what))
		}
	}
	slices.Sort(lines["mount"]) // mountinfo is in the order in which they were made
	return lines
}

// mountLine keeps of a mount where it is, what it is, and how. What masks a path
// may be anything that can be neither read nor written, and is told by "masked".
func mountLine(s string) string {
	f := strings.Fields(s)
	dash := slices.Index(f, "-")
	if dash < 3 || len(f) < dash+4 {
		return s
	}
	if f[0] == "/null" || f[1] == "/sys/firmware" {
		return f[1] + " masked"
	}
	root := f[0]
	if f[1] == "/" {
		root = "rootfs"
	}
	return strings.Join([]string{f[1], root, f[2], strings.Join(f[3:dash], " "), f[dash+1]}, " ")
}

// plain takes away what differs between two runs.
func plain(s string) string {
	s = regexp.MustCompile(`(shared|master):\d+`).ReplaceAllString(s, "$1")
	return regexp.MustCompile(`\s+`).ReplaceAllString(s, " ")
}

func compare(t *testing.T, other string, ours, theirs map[string][]string) {
	t.Helper()
	topics := map[string]bool{}
	for k := range ours {
		topics[k] = true
	}
	for k := range theirs {
		topics[k] = true
	}
	for k := range topics {
		for _, line := range without(k, theirs[k], ours[k]) {
			t.Errorf("%s: only under %s: %s", k, other, line)
		}
		for _, line := range without(k, ours[k], theirs[k]) {
			t.Errorf("%s: under cais, not under %s: %s", k, other, line)
		}
	}
}

// without returns the lines of a that b does not have, but those that are known.
func without(topic string, a, b []string) []string {
	var left []string
	for _, line := range a {
		known := slices.ContainsFunc(differ, func(d struct{ topic, line, why string }) bool {
			return d.topic == topic && regexp.MustCompile(d.line).MatchString(line)
		})
		if !known && !slices.Contains(b, line) {
			left = append(left, line)
		}
	}
	return left
}
