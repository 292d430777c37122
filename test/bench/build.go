package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A builder makes images: a peer and how it is told to.
type builder struct {
	*peer
	build func(dir string, cold bool) []string
}

// builders are cais, BuildKit's own daemon, Docker's and podman's and buildah's, each
// with storage of its own. All begin at scratch, from files in the context.
func (b *bench) builders(w *who) []builder {
	classic := func(extra ...string) func(dir string, cold bool) []string {
		return func(dir string, cold bool) []string {
			args := append(append([]string{}, extra...), "-q", "-t", "bench")
			if cold {
				args = append(args, "--no-cache")
			}
			return append(args, dir)
		}
	}
	ours := builder{b.ours(w), classic("build", "--network", "host")}
	kit := builder{b.buildkitd(), func(dir string, cold bool) []string {
		args := []string{"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
			"--output", "type=image,name=docker.io/library/bench"}
		if cold {
			args = append(args, "--no-cache")
		}
		return args
	}}
	docker := &peer{name: "docker", err: errors.New("needs root")}
	if os.Geteuid() == 0 {
		docker = b.docker()
		docker.env = append(docker.env, "DOCKER_BUILDKIT=1")
	}
	podman := b.podman(w)
	buildah := &peer{name: "buildah", cred: w.cred, dir: "/", env: podman.env}
	if path, ok := lookPath("buildah"); !ok {
		buildah.err = errNotInstalled
	} else {
		buildah.base = []string{path, "--root", filepath.Join(w.home, "ps"), "--runroot", filepath.Join(w.home, "pr")}
		buildah.err = podman.err
	}
	return []builder{ours, kit, {docker, classic("build", "--network", "host")}, {podman, classic("build", "--network", "host")},
		{buildah, classic("build", "--layers", "--network", "host", "--runtime", "runc")}}
}

// buildkitd starts BuildKit's daemon, of the version whose parser cais uses: built
// from the module of test/buildkit, or from the directory in CAIS_BUILDKITD.
func (b *bench) buildkitd() *peer {
	p := &peer{name: "buildkitd", dir: "/"}
	if os.Geteuid() != 0 {
		p.err = errors.New("needs root")
		return p
	}
	if _, ok := lookPath("runc"); !ok {
		p.err = errors.New("runc " + errNotInstalled.Error())
		return p
	}
	bin := os.Getenv("CAIS_BUILDKITD")
	if bin == "" || bin == "1" {
		bin = b.programs
		for _, cmd := range []string{"buildkitd", "buildctl"} {
			c := exec.Command("go", "build", "-mod=mod", "-o", bin, "github.com/moby/buildkit/cmd/"+cmd)
			c.Dir, c.Env = "test/buildkit", append(os.Environ(), "CGO_ENABLED=0")
			if out, err := runQuiet(c); err != nil {
				p.err = fmt.Errorf("build %s: %w: %s", cmd, err, out)
				return p
			}
		}
	}
	root := filepath.Join(b.dir, "k")
	if err := os.MkdirAll(root, 0o700); err != nil {
		p.err = err
		return p
	}
	log, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		p.err = err
		return p
	}
	sock := "unix://" + filepath.Join(root, "s")
	d := exec.Command(filepath.Join(bin, "buildkitd"), "--root", filepath.Join(root, "r"), "--addr", sock, "--oci-worker=true",
		"--oci-worker-binary", "runc", "--containerd-worker=false", "--oci-worker-net", "host")
	d.Stdout, d.Stderr = log, log
	d.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	d.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.Start(); err != nil {
		p.err = err
		return p
	}
	b.undo = append(b.undo, func() {
		_ = d.Process.Signal(syscall.SIGTERM)
		_ = d.Wait()
	})
	p.base, p.env = []string{filepath.Join(bin, "buildctl"), "--addr", sock}, os.Environ()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := runQuiet(p.cmd("debug", "workers")); err == nil {
			return p
		}
		if time.Now().After(deadline) {
			p.err = errors.New("the daemon does not answer")
			return p
		}
	}
}

// context makes a build context with the image's files, a Dockerfile and, if files
// is not 0, so many of 10 kB in a hundred directories.
func (b *bench) context(w *who, name, dockerfile string, files int) (string, error) {
	dir := filepath.Join(b.dir, "context-"+name)
	base := filepath.Join(dir, "base")
	if err := os.CopyFS(base, os.DirFS(b.rootfs)); err != nil {
		return "", err
	}
	data := []byte(strings.Repeat("one line of a file that is copied\n", 300))
	for i := range files {
		p := filepath.Join(dir, "files", fmt.Sprint(i%100), fmt.Sprint(i))
		if i < 100 {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return "", err
			}
		}
		if err := os.WriteFile(p, append([]byte(fmt.Sprintln(i)), data...), 0o644); err != nil {
			return "", err
		}
	}
	text := "FROM scratch AS base\nCOPY base /\nENV PATH=/bin:/usr/bin\n" + dockerfile
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return "", err
	}
	if w.cred == nil {
		return dir, nil
	}
	return dir, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(w.cred.Uid), int(w.cred.Gid))
	})
}

// builds measures builds, cold and with nothing changed.
func (b *bench) builds() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	var tiny strings.Builder
	for i := range 10 {
		fmt.Fprintf(&tiny, "RUN echo %d > /file%d\n", i, i)
	}
	var sleeping strings.Builder
	for i := range 3 {
		fmt.Fprintf(&sleeping, "FROM base AS s%d\nRUN sleep 3; echo %d > /out%d\n", i, i, i)
	}
	sleeping.WriteString("FROM base\nCOPY --from=s0 /out0 /\nCOPY --from=s1 /out1 /\nCOPY --from=s2 /out2 /\n")
	const many = "COPY files /files\nRUN for d in 0 1 2 3 4; do touch /files/$d/*; done\n"
	cases := []struct {
		name, what, text string
		files, rounds    int
		cold             bool
		target           float64
	}{
		{"tiny", "10 small `RUN`, cold", tiny.String(), 0, b.rounds / 8, true, 0.25},
		{"tiny", "10 small `RUN`, cached", tiny.String(), 0, b.rounds / 4, false, 0.5},
		{"many", "`COPY` of 20,000 files (200 MB), `RUN` touching 1,000, cold", many, 20_000, 2, true, 0.5},
		{"many", "nothing changed, context of 20,000 files", many, 20_000, b.rounds / 8, false, 0.25},
		{"sleep", "three stages that sleep 3 s, cold", sleeping.String(), 0, 1, true, 0},
	}
	all := b.builders(w)
	if all[0].err != nil {
		return all[0].err
	}
	dirs := map[string]string{}
	for _, k := range cases {
		if dirs[k.name] == "" {
			if dirs[k.name], err = b.context(w, k.name, k.text, k.files); err != nil {
				return err
			}
		}
		var c []contender
		for _, p := range all {
			one := p.contender(p.build(dirs[k.name], k.cold)...)
			one.once = p.name == "podman" || p.name == "buildah" // minutes of every round
			c = append(c, one)
		}
		s := interleave(max(k.rounds, 1), c)
		b.absent("build, "+k.what, c)
		if c[0].err != nil {
			return c[0].err
		}
		if k.target == 0 {
			wall := s["cais"].wall
			b.rows = append(b.rows, row{
				what: "`build`, " + k.what, value: fmt.Sprintf("%.2f s", wall.Seconds()), target: "≤ 3.2 s",
				verdict: verdict(wall <= 3200*time.Millisecond), detail: "time until it is done",
			})
		} else {
			b.ratio("`build`, "+k.what, s["cais"], s["buildkitd"], false, k.target, false, "`buildctl build` and buildkitd v0.33.1")
		}
		for _, other := range []string{"docker", "podman", "buildah"} {
			target := k.target
			if target == 0 {
				target = 1
			}
			b.ratio("`build`, "+k.what, s["cais"], s[other], false, target, false, "`"+other+" build`")
		}
	}
	return nil
}
