package lower

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// The rules that keep a hostile image in, each shown from inside.

func TestLinksOfTheImageLeadNowhere(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, name := range []string{"proc", "sys", "dev"} {
		t.Run(name, func(t *testing.T) {
			c := sh(t, "true")
			host := t.TempDir()
			at := filepath.Join(c.dir, "image", name)
			if err := errors.Join(os.Remove(at), os.Symlink(host, at)); err != nil {
				t.Fatal(err)
			}
			_, _, err := c.run(t)
			if !errors.Is(err, unix.ELOOP) {
				t.Errorf("got %v, want ELOOP", err)
			}
			empty(t, host)
		})
	}
	t.Run("target of a bind", func(t *testing.T) {
		c := sh(t, "cat /link/sub/file; readlink /link")
		host, source := t.TempDir(), filepath.Join(t.TempDir(), "src")
		err := errors.Join(os.WriteFile(source, []byte("bound\n"), 0o644), os.MkdirAll(filepath.Join(c.dir, "image", host), 0o755),
			os.Symlink(host, filepath.Join(c.dir, "image/link")))
		if err != nil {
			t.Fatal(err)
		}
		c.o.Files = []File{{Target: "/link/sub/file", Source: source}}
		if out := mustRun(t, c); out != "bound\n"+host+"\n" {
			t.Errorf("got %q", out)
		}
		empty(t, host)
	})
	t.Run("dangling", func(t *testing.T) {
		c := sh(t, "true")
		host := filepath.Join(t.TempDir(), "new")
		if err := os.Symlink(host, filepath.Join(c.dir, "image/etc/hosts")); err != nil {
			t.Fatal(err)
		}
		c.o.Files = []File{{Target: "/etc/hosts", Source: "/dev/null"}}
		if _, _, err := c.run(t); err == nil {
			t.Error("a dangling link was mounted on")
		}
		if _, err := os.Lstat(host); err == nil {
			t.Error("the link's target was made on the host")
		}
	})
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("the host's directory got %v, %v", list, err)
	}
}

func TestWorkdir(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "readlink /proc/self/cwd; stat -c '%a %u' .")
	c.spec.Process.Cwd = "/a/b/../c"
	if out := mustRun(t, c); out != "/a/c\n755 0\n" {
		t.Errorf("got %q", out)
	}
	for _, dir := range []string{"/proc/self/fd/3", "/proc/self/fd/7/x", "/proc/1/root", "/proc/self/cwd"} {
		c := sh(t, "true")
		c.spec.Process.Cwd = dir
		_, _, err := c.run(t)
		if err == nil {
			t.Errorf("%s was entered", dir)
		}
	}
	file := sh(t, "true")
	file.spec.Process.Cwd = "/bin/busybox"
	if _, _, err := file.run(t); !errors.Is(err, unix.ENOTDIR) || !strings.Contains(err.Error(), "/bin/busybox") {
		t.Errorf("a file as directory: %v", err)
	}
}

func TestMasksAndReadOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, `stat -c '%F %t:%T' /proc/keys; ls -A /proc/acpi /sys/firmware | grep -v '^/\|^$' ; echo 1 > /proc/sys/kernel/panic
		touch /proc/acpi/x; mkdir /sys/fs/cgroup/x; for d in /sys/fs/cgroup/*; do mkdir $d/x; done; touch /sys/x; echo y > /proc/keys; cat /proc/keys; echo done`)
	c.spec.Linux.MaskedPaths = append(c.spec.Linux.MaskedPaths, "/etc/secret")
	if err := os.WriteFile(filepath.Join(c.dir, "image/etc/secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.spec.Process.Args[2] += "; cat /etc/secret"
	out := mustRun(t, c)
	for _, bad := range []string{"secret", "y\n"} {
		if strings.Contains(out, bad) {
			t.Errorf("%q in %q", bad, out)
		}
	}
	if !strings.Contains(out, "character special file 1:3") || !strings.Contains(out, "done") || strings.Count(out, "Read-only file system") < 4 {
		t.Errorf("got %q", out)
	}
}

// Who may write to his cgroups may not write to those that are the machine's, too.
func TestOnlyOwnCgroupsAreWritable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, cgroups := range map[string][]CgroupMount{
		"v1": {{Name: "own", Source: t.TempDir()}, {Name: "shared", Source: t.TempDir(), Shared: true}},
		"v2": {{Source: t.TempDir(), Shared: true}},
	} {
		for _, option := range []string{plan.OwnCgroups, "rw"} { // rw: --privileged
			c := sh(t, "cd /sys/fs/cgroup; for d in "+cgroupNames(cgroups)+"; do mkdir $d/x && echo made $d; done; true")
			c.o.Cgroups = cgroups
			i := slices.IndexFunc(c.spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
			c.spec.Mounts[i].Options = []string{option}
			out := mustRun(t, c)
			for _, cg := range cgroups {
				if made := strings.Contains(out, "made ./"+cg.Name+"\n"); made == (cg.Shared && option == plan.OwnCgroups) {
					t.Errorf("%s, %s: %+v: %q", name, option, cg, out)
				}
				if err := os.RemoveAll(filepath.Join(cg.Source, "x")); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func cgroupNames(list []CgroupMount) (names string) {
	for _, c := range list {
		names += " ./" + c.Name
	}
	return names
}

// A masked file is the host's null device, and root in a container that has no
// user namespace of its own is its owner.
func TestMaskIsReadOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "chmod 666 /proc/keys; stat -c %a /proc/keys") // the mode that it has: this must not harm the host if it works
	if out := mustRun(t, c); !strings.Contains(out, "Read-only file system\n666") {
		t.Errorf("got %q", out)
	}
}

func TestNoHostDescriptorSurvives(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	leak, err := syscall.Open("/", syscall.O_RDONLY, 0) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	if out := mustRun(t, sh(t, "for f in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 20 30 40; do readlink /proc/self/fd/$f; done; true")); strings.Contains(out, "/\n") {
		t.Errorf("a descriptor is left: %q", out)
	}
}

func TestMounts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, `cat /data/f; echo new > /data/g && cat /data/g; echo x > /ro/f; stat -c %a /tmp /new/tmp; grep ' /tmp ' /proc/mounts; cat /deep/er/file; cat /etc/hosts`)
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bind := func(source, target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	c.spec.Mounts = append(c.spec.Mounts, bind(src, "/data"), bind(src, "/ro", "ro", "rro"), bind(src+"/f", "/deep/er/file"),
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev", "size=1m"}},
		specs.Mount{Destination: "/new/tmp", Type: "tmpfs", Source: "tmpfs"})
	c.o.Files = []File{{Target: "/etc/hosts", Source: src + "/f"}}
	out := mustRun(t, c)
	for _, want := range []string{"from the host\nnew\n", "Read-only file system", "\n1777\n", "size=1024k"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
	if strings.Count(out, "from the host") != 3 {
		t.Errorf("got %q", out)
	}
	missing := sh(t, "true")
	missing.spec.Mounts = append(missing.spec.Mounts, bind("/no/such/source", "/x"))
	if _, _, err := missing.run(t); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "/no/such/source") {
		t.Errorf("a missing source: %v", err)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "touch /x; touch /dev/shm/y && echo shm ok")
	c.spec.Root.Readonly = true
	if out := mustRun(t, c); !strings.Contains(out, "Read-only file system") || !strings.Contains(out, "shm ok") {
		t.Errorf("got %q", out)
	}
}

func TestPlainDirectoryRoot(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "echo plain")
	c.spec.Root.Path, c.o.Overlay = filepath.Join(c.dir, "image"), nil
	if out := mustRun(t, c); out != "plain\n" {
		t.Errorf("got %q", out)
	}
}

func TestOverlayManyLayers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "cat /f")
	for _, n := range []string{"a", "b:c", "d,e"} {
		dir := filepath.Join(c.dir, n)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte(n), 0o644)); err != nil {
			t.Fatal(err)
		}
		c.o.Overlay.Lower = append([]string{dir}, c.o.Overlay.Lower...)
	}
	c.o.Overlay.Volatile = true
	if out := mustRun(t, c); out != "d,e" {
		t.Errorf("got %q", out)
	}
}

func TestUserAndCapabilities(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if inUserNS() {
		t.Skip("needs more than one id")
	}
	c := sh(t, "id -u; id -g; id -G; grep Cap /proc/self/status; echo err > /dev/stderr; touch /x")
	c.spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 7}}
	c.spec.Process.Capabilities.Effective, c.spec.Process.Capabilities.Permitted = nil, nil
	out, _, err := c.run(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1000\n1001\n1001 7\n", "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000000004eb\nCapAmb:\t0000000000000000", "err\n", "Permission denied"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
	amb := sh(t, "grep Cap /proc/self/status")
	amb.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	net := []string{"CAP_NET_BIND_SERVICE"}
	amb.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: net, Permitted: net, Effective: net, Ambient: net}
	if out := mustRun(t, amb); strings.Count(out, "0000000000000400") != 5 {
		t.Errorf("ambient: %q", out)
	}
	bad := sh(t, "true")
	bad.spec.Process.Capabilities.Bounding = []string{"CAP_NONE"}
	if _, err := Run(bad.spec, bad.o); err == nil {
		t.Error("an unknown capability was taken")
	}
}

func TestLimits(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "ulimit -S -n; ulimit -H -n; ulimit -c")
	c.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
	c.spec.Process.OOMScoreAdj = new(int)
	*c.spec.Process.OOMScoreAdj = 500
	c.spec.Process.Args[2] += "; cat /proc/self/oom_score_adj"
	if out := mustRun(t, c); out != "77\n99\n0\n500\n" {
		t.Errorf("got %q", out)
	}
}

func TestSeccomp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, nnp := range []bool{false, true} {
		c := sh(t, "mkdir /x; grep Seccomp: /proc/self/status; grep NoNew /proc/self/status")
		c.spec.Process.NoNewPrivileges = nnp
		// if nr == mkdir or mkdirat: EPERM; else allow
		c.o.Seccomp = bpf([4]uint32{0x20, 0, 0, 0}, [4]uint32{0x15, 2, 0, 83}, [4]uint32{0x15, 1, 0, uint32(unix.SYS_MKDIRAT)},
			[4]uint32{0x06, 0, 0, 0x7fff0000}, [4]uint32{0x06, 0, 0, 0x00050001})
		out := mustRun(t, c)
		if !strings.Contains(out, "Operation not permitted") || !strings.Contains(out, "Seccomp:\t2") {
			t.Errorf("no_new_privs %v: %q", nnp, out)
		}
	}
}

func bpf(list ...[4]uint32) []byte {
	var b []byte
	for _, i := range list {
		b = append(b, byte(i[0]), byte(i[0]>>8), byte(i[1]), byte(i[2]), byte(i[3]), byte(i[3]>>8), byte(i[3]>>16), byte(i[3]>>24))
	}
	return b
}

// terminal starts p, types input once the terminal has shown prompt, and returns
// all that it showed.
func terminal(t *testing.T, p *wire.Plan, slots *[wire.NumSlots]int, prompt, input string) (string, int) {
	t.Helper()
	pr, err := launch.Start(p, slots)
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	if pr.Master < 0 {
		t.Fatal("no master")
	}
	if pr.Gated {
		if err := pr.Release(); err != nil {
			t.Fatal(err)
		}
	}
	master := os.NewFile(uintptr(pr.Master), "master")
	pr.Master = -1
	defer master.Close()
	shown := ""
	for !strings.Contains(shown, prompt) {
		b := make([]byte, 512)
		n, err := master.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, shown)
		}
		shown += string(b[:n])
	}
	if _, err := io.WriteString(master, input); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) { // what a terminal says when the other side is closed
		t.Fatal(err)
	}
	return shown + string(out), wait(t, pr.PID)
}

func TestTerminal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "read x; echo got $x; readlink /proc/self/fd/0; stat -c %F /dev/console; echo tty > /dev/tty; ls /dev/pts; ps -o pid,tty | head -2")
	c.spec.Process.Terminal = true
	c.spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 44}
	p, err := Run(c.spec, c.o)
	if err != nil {
		t.Fatal(err)
	}
	out, code := terminal(t, p, noSlots(), "", "hello\n")
	if code != 0 || !strings.Contains(out, "got hello") || !strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, "character special file") || !strings.Contains(out, "tty\r\n") {
		t.Errorf("code %d: %q", code, out)
	}
}

func TestExec(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "echo up; sleep 100")
	pr, _ := c.up(t)
	defer pr.Abort()
	proc := *c.spec.Process
	proc.Args = []string{"sh", "-c", "hostname; readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; grep CapEff /proc/self/status; exit 5"}
	plan, err := Exec(c.spec, &proc, ExecOptions{InUserNS: c.o.InUserNS, SingleID: c.o.SingleID})
	if err != nil {
		t.Fatal(err)
	}
	or, ow, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer or.Close()
	slots := noSlots()
	slots[wire.SlotInit], slots[wire.SlotStdout], slots[wire.SlotStderr] = pr.PidFD, int(ow.Fd()), int(ow.Fd())
	ex, err := launch.Start(plan, slots)
	ow.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer ex.Close()
	b, err := io.ReadAll(or)
	if err != nil {
		t.Fatal(err)
	}
	if code := wait(t, ex.PID); code != 5 {
		t.Errorf("exit code %d", code)
	}
	f := strings.Fields(string(b))
	if len(f) != 5 || f[0] != "box" || f[1] != f[2] || f[4] != "00000000000004eb" {
		t.Errorf("got %q", b)
	}

	proc.Args = []string{"sh", "-c", "readlink /proc/self/fd/0; read x; echo got $x > /dev/tty"}
	proc.Terminal = true
	if plan, err = Exec(c.spec, &proc, ExecOptions{InUserNS: c.o.InUserNS, SingleID: c.o.SingleID}); err != nil {
		t.Fatal(err)
	}
	slots = noSlots()
	slots[wire.SlotInit] = pr.PidFD
	if out, code := terminal(t, plan, slots, "", "there\n"); code != 0 || !strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, "got there") {
		t.Errorf("code %d: %q", code, out)
	}

	missing := proc
	missing.Args, missing.Cwd, missing.Terminal = []string{"pwd"}, "/not/there", false
	if plan, err = Exec(c.spec, &missing, ExecOptions{InUserNS: c.o.InUserNS, SingleID: c.o.SingleID}); err != nil {
		t.Fatal(err)
	}
	if _, err = launch.Start(plan, slots); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "/not/there") {
		t.Errorf("a missing directory: %v", err)
	}

	proc.Args, proc.Terminal = []string{"nope"}, false
	if plan, err = Exec(c.spec, &proc, ExecOptions{InUserNS: c.o.InUserNS, SingleID: c.o.SingleID}); err != nil {
		t.Fatal(err)
	}
	_, err = launch.Start(plan, slots)
	if e, ok := errors.AsType[*launch.StepError](err); !ok || e.ExitCode() != 127 {
		t.Errorf("got %v, want 127", err)
	}
}

func TestSharedNamespaces(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	first := sh(t, "echo up; sleep 100")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pr, err := first.start(t, w)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Abort()
	c := sh(t, "readlink /proc/self/ns/net; ps | grep -c 'sleep 10[0]'; hostname")
	dir := filepath.Join("/proc", itoa(pr.PID), "ns")
	own, err := os.Readlink(dir + "/net")
	if err != nil {
		t.Fatal(err)
	}
	share := func(pid, net string) {
		for i := range c.spec.Linux.Namespaces {
			switch ns := &c.spec.Linux.Namespaces[i]; ns.Type {
			case specs.PIDNamespace:
				ns.Path = pid
			case specs.NetworkNamespace:
				ns.Path = net
			}
		}
	}
	share(dir+"/pid", dir+"/net")
	c.spec.Linux.Sysctl = nil
	if out := mustRun(t, c); out != own+"\n1\nbox\n" {
		t.Errorf("got %q, want %q", out, own)
	}

	// The process of a container counts, not who has got its pid.
	share("/proc/self/ns/pid", "/proc/self/ns/net")
	slots := noSlots()
	slots[wire.SlotUser0] = pr.PidFD
	c.o.Joined = map[specs.LinuxNamespaceType]int{specs.PIDNamespace: wire.SlotUser0, specs.NetworkNamespace: wire.SlotUser0}
	if out, _, err := runPlan(t, c.plan(t), slots); out != own+"\n1\nbox\n" || err != nil {
		t.Errorf("by its pidfd: got %q, %v, want %q", out, err, own)
	}
	gone, err := first.start(t, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(gone.PidFD)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	gone.Abort()
	slots[wire.SlotUser0] = fd
	if out, _, err := runPlan(t, c.plan(t), slots); !errors.Is(err, unix.ESRCH) {
		t.Errorf("one that has ended: got %q, %v, want ESRCH", out, err)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func TestNestedUserNamespace(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if inUserNS() {
		t.Skip("needs ids to map")
	}
	c := sh(t, "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status")
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings = ids, ids
	c.o.InUserNS = true
	for _, d := range []string{"upper", "work"} {
		if err := os.Chown(filepath.Join(c.dir, d), 200000, 200000); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.o.Overlay.UserXattr = true
	if out := mustRun(t, c); !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "200000") {
		t.Errorf("got %q", out)
	}
}

// Sources that are opened before the user namespace is made, below a directory that
// only the host's root may enter; and nothing of the host's tree is left.
func TestEarlySources(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if inUserNS() {
		t.Skip("needs ids to map")
	}
	c := sh(t, "id -u; cat /proc/self/uid_map; cat /from/file; ls -a /..; wc -l </proc/self/mountinfo; sed 's/.* - //' /proc/self/mountinfo | sort -u")
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings = ids, ids
	c.o.InUserNS, c.o.EarlySources = true, true
	c.spec.Root.Path, c.o.Overlay = filepath.Join(c.dir, "image"), nil
	from := filepath.Join(c.dir, "from")
	if err := os.Mkdir(from, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(c.dir, "image/from"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/from", Type: "bind", Source: from, Options: []string{"rbind", "ro"}})
	out := mustRun(t, c)
	if !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "200000") || !strings.Contains(out, "of the host") {
		t.Errorf("got %q", out)
	}
	if strings.Contains(out, "\nlib\n") || strings.Contains(out, "\nhome\n") || strings.Contains(out, "\nusr\n") {
		t.Errorf("the host's root is visible: %q", out)
	}
	if n := len(strings.Split(out, "\n")); n > 60 {
		t.Errorf("%d lines: mounts of the host's are left: %q", n, out)
	}
}
