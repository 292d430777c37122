// Bench measures what a user waits for, as ratios to peers and to floors: all
// contenders of a figure take turns in one run, so that a busy moment hits them
// all. It writes docs/benchmarks.md with the targets, the machine and the
// versions, and says what was missing and which targets are missed.
//
// As root it measures root's and a user's containers; as a user only the user's.
// Everything it makes but the programs is on a tmpfs: an ext4 without a journal creates files ten
// times slower after many were deleted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cais.dev/cais/test/testimage"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "floor" {
		exitOn(floor(os.Args[2], os.Args[3]))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "net" {
		exitOn(netPart(os.Args[2:]))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "pushfloor" {
		exitOn(pushFloor(os.Args[2], os.Args[3]))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "logfloor" {
		exitOn(logFloor(os.Args[2]))
		return
	}
	cais := flag.String("cais", "bin/cais", "the program to measure")
	out := flag.String("o", "", "file for the table; stdout if empty")
	rounds := flag.Int("rounds", 40, "how often each contender runs")
	only := flag.String("only", "", "figures to measure, by a word in their name")
	flag.Parse()
	if os.Geteuid() == 0 && os.Getenv("CAIS_BENCH_NS") == "" {
		exitOn(ownNamespace())
		return
	}
	exitOn(run(*cais, *out, *rounds, *only))
}

func exitOn(err error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// ownNamespace runs the bench again in a mount namespace of its own, where a
// hybrid host's cgroup v2 tree is hidden: crun refuses to work beside one.
func ownNamespace() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "CAIS_BENCH_NS=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

func hideUnified() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return nil // not a hybrid host
	}
	return unix.Mount("tmpfs", unified, "tmpfs", 0, "size=1m")
}

// bench is one run of everything.
type bench struct {
	dir      string // on a tmpfs
	programs string // not on a tmpfs
	cais     string
	box      *testimage.Box
	rootfs   string // the image's files, for crun
	archive  string // the image, for everybody else
	rounds   int
	missing  []string
	rows     []row
	undo     []func()
	dockerd  *exec.Cmd
}

func run(cais, out string, rounds int, only string) (err error) {
	b := &bench{rounds: rounds}
	if b.cais, err = filepath.Abs(cais); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := hideUnified(); err != nil {
			return err
		}
		installPeers()
	}
	defer b.cleanUp()
	if err := b.prepare(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := openTun(b.dir); err != nil {
			b.missing = append(b.missing, "network: others' without a tun device: "+firstLine(err))
		}
	}
	figures := []struct {
		name string
		do   func() error
	}{
		{"size", b.size},
		{"version", b.version},
		{"run root", b.runRoot},
		{"exec root", b.execRoot},
		{"run user", b.runUser},
		{"ps", b.ps},
		{"monitor", b.monitor},
		{"life", b.life},
		{"pull", b.pull},
		{"push", b.push},
		{"build", b.builds},
		{"network", b.network},
	}
	for _, f := range figures {
		if !strings.Contains(f.name, only) {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench:", f.name)
		if err := f.do(); err != nil {
			b.rows = append(b.rows, row{what: f.name, value: "not measured: " + firstLine(err), target: "-"})
		}
	}
	return b.report(out)
}

// installPeers asks apt for what it compares with. What cannot be had is a
// missing line in the table.
func installPeers() {
	var want []string
	for _, p := range []string{"crun", "runc", "podman", "buildah", "docker.io", "slirp4netns", "passt"} {
		name := strings.TrimSuffix(p, ".io")
		if p == "passt" {
			name = "pasta"
		}
		if _, ok := lookPath(name); !ok {
			want = append(want, p)
		}
	}
	if len(want) == 0 {
		return
	}
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, want...)
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: apt-get install %v: %v\n%s", want, err, out)
	}
}

func lookPath(name string) (string, bool) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode()&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}

func (b *bench) cleanUp() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}

// prepare makes the image as a directory and as an archive.
func (b *bench) prepare() (err error) {
	base := os.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	if b.dir, err = os.MkdirTemp(base, "cb"); err != nil {
		return err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	// Where every user can run it, and on a disk like its peers: pages of a program
	// on a tmpfs are mapped one by one, which costs it a tenth of its time.
	programs, err := os.MkdirTemp("/var/tmp", "cb")
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() { os.RemoveAll(programs) })
	if err := os.Chmod(programs, 0o755); err != nil {
		return err
	}
	from := b.cais
	b.programs, b.cais = programs, filepath.Join(programs, "cais")
	// By install, whose small writes leave the file in small pieces in memory. One
	// write leaves it in large ones, of which a process maps all or nothing.
	if out, err := exec.Command("install", "-m", "0755", from, b.cais).CombinedOutput(); err != nil {
		return fmt.Errorf("install: %w: %s", err, out)
	}
	if b.box, err = testimage.FindBox(b.dir); err != nil {
		return err
	}
	img, err := b.box.Busybox()
	if err != nil {
		return err
	}
	b.archive = filepath.Join(b.dir, "busybox.tar")
	if err := testimage.Save(b.archive, "busybox:latest", img); err != nil {
		return err
	}
	b.rootfs = filepath.Join(b.dir, "rootfs")
	return b.unpack()
}

func (b *bench) unpack() error {
	for _, e := range b.box.Base() {
		p := filepath.Join(b.rootfs, e.Name)
		var err error
		switch {
		case strings.HasSuffix(e.Name, "/"):
			err = os.MkdirAll(p, 0o755)
		case e.Link != "":
			err = os.Symlink(e.Link, p)
		default:
			mode := os.FileMode(0o644)
			if e.Mode != 0 {
				mode = os.FileMode(e.Mode)
			}
			err = os.WriteFile(p, []byte(e.Content), mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func machine() string {
	cpu := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(data)) {
			if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	var u unix.Utsname
	unix.Uname(&u)
	return fmt.Sprintf("%d x %s, Linux %s, %s", runtime.NumCPU(), cpu, unix.ByteSliceToString(u.Release[:]), runtime.Version())
}

func firstLine(err error) string {
	l, _, _ := strings.Cut(err.Error(), "\n")
	return l
}
