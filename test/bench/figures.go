package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func (b *bench) size() error {
	info, err := os.Stat(b.cais)
	if err != nil {
		return err
	}
	mb := float64(info.Size()) / 1e6
	b.rows = append(b.rows, row{what: "binary", value: fmt.Sprintf("%.1f MB", mb), target: "≤ 20 MB", verdict: verdict(mb <= 20), detail: "static, stripped"})
	return nil
}

// version is the price of starting the program at all.
func (b *bench) version() error {
	dir := filepath.Join(b.programs, "hello")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const source = "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"hello\\n\") }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", "hello", "main.go")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	c := []contender{
		{name: "cais", cmd: func() *exec.Cmd { return exec.Command(b.cais, "version") }},
		{name: "cais --version", cmd: func() *exec.Cmd { return exec.Command(b.cais, "--version") }},
		{name: "hello", cmd: func() *exec.Cmd { return exec.Command(filepath.Join(dir, "hello")) }},
	}
	s := interleave(5*b.rounds, c)
	b.absent("version", c)
	b.ratio("`cais version`", s["cais"], s["hello"], false, 2.5, false, "a Go hello world")
	b.ratio("`cais --version`", s["cais --version"], s["hello"], false, 2.5, false, "a Go hello world")
	return nil
}

var runTrue = []string{"run", "--rm", "--network", "none", "busybox", "true"}

func (b *bench) runRoot() error {
	w, err := b.rootWho()
	if err != nil {
		return err
	}
	ours, crun, podman, docker := b.ours(w), b.crun(w, false), b.podman(w), b.docker()
	if ours.err != nil {
		return ours.err
	}
	c := []contender{
		ours.contender(runTrue...),
		crun.contender("run", "bench"),
	}
	s := interleave(b.rounds, c)
	b.absent("run, root", c)
	b.ratio("`run --rm`, root", s["cais"], s["crun"], false, 1.6, false, "`crun run`")
	slow := []contender{ours.contender(runTrue...), podman.contender(runTrue...), docker.contender(runTrue...)}
	s = interleave(b.rounds/4, slow)
	b.absent("run, root", slow)
	b.ratio("`run --rm`, root", s["cais"], s["podman"], false, 10, true, "`podman run`")
	b.ratio("`run --rm`, root", s["cais"], s["docker"], false, 15, true, "`docker run`")
	return nil
}

func (b *bench) execRoot() error {
	w, err := b.rootWho()
	if err != nil {
		return err
	}
	ours, crun, podman, docker := b.ours(w), b.crun(w, false), b.podman(w), b.docker()
	for _, p := range []*peer{ours, podman, docker} {
		p.must("run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "10000")
		defer runQuiet(p.cmd("rm", "-f", "bench"))
	}
	if ours.err != nil {
		return ours.err
	}
	c := []contender{ours.contender("exec", "bench", "true"), crun.contender("run", "bench2")}
	s := interleave(b.rounds, c)
	b.absent("exec", c)
	b.ratio("`exec`, root", s["cais"], s["crun"], false, 1.0, false, "`crun run`")
	slow := []contender{ours.contender("exec", "bench", "true"), podman.contender("exec", "bench", "true"), docker.contender("exec", "bench", "true")}
	s = interleave(b.rounds/4, slow)
	b.absent("exec", slow)
	b.ratio("`exec`, root", s["cais"], s["podman"], false, 7, true, "`podman exec`")
	b.ratio("`exec`, root", s["cais"], s["docker"], false, 7, true, "`docker exec`")
	return nil
}

func (b *bench) runUser() error {
	w, err := b.somebody()
	if err != nil {
		return err
	}
	ours, crun, podman := b.ours(w), b.crun(w, true), b.podman(w)
	if ours.err != nil {
		return ours.err
	}
	c := []contender{ours.contender(runTrue...), crun.contender("run", "bench")}
	s := interleave(b.rounds, c)
	b.absent("run, rootless", c)
	b.ratio("`run --rm`, rootless", s["cais"], s["crun"], false, 1.6, false, "`crun run`")
	// A second container beside one that lives joins its user namespace.
	ours.must("run", "-d", "--name", "bench", "--network", "none", "busybox", "sleep", "10000")
	defer runQuiet(ours.cmd("rm", "-f", "bench"))
	c = []contender{ours.contender(runTrue...), crun.contender("run", "bench")}
	s = interleave(b.rounds, c)
	b.ratio("`run --rm`, rootless, beside another", s["cais"], s["crun"], false, 1.6, false, "`crun run`")
	c = []contender{ours.contender("exec", "bench", "true"), crun.contender("run", "bench")}
	s = interleave(b.rounds, c)
	b.absent("exec, rootless", c)
	b.ratio("`exec`, rootless", s["cais"], s["crun"], false, 1.0, false, "`crun run`")
	slow := []contender{ours.contender(runTrue...), podman.contender(runTrue...)}
	s = interleave(b.rounds/4, slow)
	b.absent("run, rootless", slow)
	b.ratio("`run --rm`, rootless", s["cais"], s["podman"], false, 10, true, "`podman run`")
	return nil
}

// self is whoever runs the bench.
func (b *bench) self() (*who, error) {
	if os.Geteuid() == 0 {
		return b.rootWho()
	}
	return b.somebody()
}

// ps with a hundred containers: processor time, and that it opens no store.
func (b *bench) ps() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	ours := b.ours(w)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("bench%d", i))
		ours.must("create", "--name", names[i], "busybox", "true")
	}
	defer runQuiet(ours.cmd(append([]string{"rm", "-f"}, names...)...))
	if ours.err != nil {
		return ours.err
	}
	c := []contender{ours.contender("ps", "-a")}
	s := interleave(b.rounds, c)
	if c[0].err != nil {
		return c[0].err
	}
	cpu := s["cais"].cpu
	b.rows = append(b.rows, row{what: "`ps -a`, 100 containers", value: ms(cpu) + " CPU", target: "≤ 20 ms", verdict: verdict(cpu <= 20*time.Millisecond), detail: "processor time of the command; wall " + ms(s["cais"].wall)})
	return nil
}

// monitor measures the memory of a monitor with ten running.
func (b *bench) monitor() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	ours := b.ours(w)
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("bench%d", i))
		ours.must("run", "-d", "--name", names[i], "--network", "none", "busybox", "sleep", "10000")
	}
	defer runQuiet(ours.cmd(append([]string{"rm", "-f"}, names...)...))
	if ours.err != nil {
		return ours.err
	}
	pss, anon, err := b.monitors(ours, names)
	if err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{what: "monitor, memory", value: fmt.Sprintf("%.2f MB PSS", pss), target: "≤ 2 MB", verdict: verdict(pss <= 2), detail: "mean of 10"},
		row{what: "monitor, its own", value: fmt.Sprintf("%.2f MB anonymous", anon), target: "≤ 1 MB", verdict: verdict(anon <= 1), detail: "mean of 10"})
	return nil
}

// monitors returns what the containers' monitors hold, in MB each: their share of
// all pages, and those that are their own.
func (b *bench) monitors(ours *peer, names []string) (pss, anon float64, err error) {
	out, err := ours.cmd(append([]string{"inspect", "-f", "{{.State.Pid}}"}, names...)...).Output()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range strings.Fields(string(out)) {
		parent, err := parentOf(pid)
		if err != nil {
			return 0, 0, err
		}
		rollup, err := os.ReadFile(filepath.Join("/proc", parent, "smaps_rollup"))
		if err != nil {
			return 0, 0, err
		}
		for l := range strings.Lines(string(rollup)) {
			var kb float64
			if _, err := fmt.Sscanf(l, "Pss: %f kB", &kb); err == nil {
				pss += kb
			}
			if _, err := fmt.Sscanf(l, "Anonymous: %f kB", &kb); err == nil {
				anon += kb
			}
		}
	}
	n := float64(len(names)) * 1024
	return pss / n, anon / n, nil
}

// parentOf returns the parent of a process: a container's monitor.
func parentOf(pid string) (string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(l, "PPid:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", errors.New("no PPid in status")
}
