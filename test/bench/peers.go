package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var errNotInstalled = errors.New("is not installed")

// peer is a program to compare with, ready to run containers.
type peer struct {
	name string
	env  []string
	base []string            // program and global flags
	cred *syscall.Credential // nil: who we are
	dir  string
	err  error
}

func (p *peer) cmd(args ...string) *exec.Cmd {
	all := append(append([]string{}, p.base...), args...)
	c := exec.Command(all[0], all[1:]...)
	c.Env, c.Dir = p.env, p.dir
	if p.cred != nil {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	}
	return c
}

func (p *peer) must(args ...string) {
	if p.err != nil {
		return
	}
	if out, err := runQuiet(p.cmd(args...)); err != nil {
		p.err = fmt.Errorf("%v: %w: %s", args, err, out)
	}
}

func (p *peer) contender(args ...string) contender {
	return contender{name: p.name, err: p.err, cmd: func() *exec.Cmd { return p.cmd(args...) }}
}

// who is a user to run as: root, or the tests' own.
type who struct {
	cred *syscall.Credential
	home string
	name string
}

// somebody returns the user that rootless figures are measured as.
func (b *bench) somebody() (*who, error) {
	home := func(name string) string { return filepath.Join(b.dir, name) }
	if os.Geteuid() != 0 {
		return &who{home: home("h"), name: "you"}, os.MkdirAll(home("h"), 0o700)
	}
	u, err := user.Lookup("cais-sub")
	if err != nil {
		return nil, fmt.Errorf("%w (make setup makes it)", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	h := home("u")
	if err := os.MkdirAll(h, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chown(h, uid, gid); err != nil {
		return nil, err
	}
	return &who{cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, home: h, name: u.Username}, nil
}

func (b *bench) rootWho() (*who, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	h := filepath.Join(b.dir, "r")
	return &who{home: h, name: "root"}, os.MkdirAll(h, 0o700)
}

func (w *who) env(extra ...string) []string {
	return append([]string{
		"HOME=" + w.home, "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"XDG_RUNTIME_DIR=" + filepath.Join(w.home, "run"), "LC_ALL=C",
	}, extra...)
}

// ours makes cais with the image loaded.
func (b *bench) ours(w *who) *peer {
	p := &peer{name: "cais", base: []string{b.cais}, cred: w.cred, dir: "/", env: w.env("CAIS_ROOT=" + filepath.Join(w.home, "c"))}
	p.must("load", "-q", "-i", b.archive)
	b.undo = append(b.undo, func() {
		exec.Command("sh", "-c", `"$0" ps -aq | xargs -r "$0" rm -f`, b.cais).Run()
		runQuiet(p.cmd("unshare", "rm", "-rf", filepath.Join(w.home, "c")))
	})
	return p
}

// crun makes a bundle of the same files, without a seccomp list: Debian's old
// crun compiles one so slowly that it would not be a floor.
func (b *bench) crun(w *who, rootless bool) *peer {
	p := &peer{name: "crun", cred: w.cred, env: w.env(), dir: filepath.Join(w.home, "bundle")}
	path, ok := lookPath("crun")
	if !ok {
		p.err = errNotInstalled
		return p
	}
	p.base = []string{path}
	spec := []string{"spec"}
	if rootless {
		p.base = append(p.base, "--cgroup-manager=disabled")
		spec = append(spec, "--rootless")
	}
	for _, d := range []string{p.dir, filepath.Join(w.home, "run")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			p.err = err
			return p
		}
		if w.cred != nil {
			os.Chown(d, int(w.cred.Uid), int(w.cred.Gid))
		}
	}
	// An earlier figure's, which crun will not overwrite.
	if err := os.Remove(filepath.Join(p.dir, "config.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.err = err
		return p
	}
	p.must(spec...)
	if p.err == nil {
		p.err = editSpec(filepath.Join(p.dir, "config.json"), b.rootfs, w)
	}
	return p
}

// editSpec makes of crun's example the work that cais does: the same files and, for
// a user, the same ids.
func editSpec(path, rootfs string, w *who) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return errors.New("crun spec made no process")
	}
	process["terminal"], process["args"] = false, []string{"true"}
	delete(process, "rlimits")
	spec["root"] = map[string]any{"path": rootfs}
	if l, ok := spec["linux"].(map[string]any); ok {
		delete(l, "seccomp")
		if w.cred != nil && w.name != "you" {
			l["uidMappings"] = ids(int(w.cred.Uid), "/etc/subuid", w.name)
			l["gidMappings"] = ids(int(w.cred.Gid), "/etc/subgid", w.name)
		}
	}
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// ids are the user's own id as 0 and his subordinate ones behind it.
func ids(own int, file, name string) []map[string]int {
	list := []map[string]int{{"containerID": 0, "hostID": own, "size": 1}}
	data, err := os.ReadFile(file)
	if err != nil {
		return list
	}
	next := 1
	for l := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) != 3 || f[0] != name {
			continue
		}
		first, err1 := strconv.Atoi(f[1])
		size, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil {
			list = append(list, map[string]int{"containerID": next, "hostID": first, "size": size})
			next += size
		}
	}
	return list
}

// podman gets a store and a containers.conf of its own: with Debian's defaults
// neither crun nor the file limits work on a hybrid host.
func (b *bench) podman(w *who) *peer {
	p := &peer{name: "podman", cred: w.cred, dir: "/"}
	path, ok := lookPath("podman")
	if !ok {
		p.err = errNotInstalled
		return p
	}
	conf := filepath.Join(b.dir, "containers.conf")
	if err := os.WriteFile(conf, []byte("[containers]\ndefault_ulimits=[]\n[engine]\nevents_logger=\"file\"\n"), 0o644); err != nil {
		p.err = err
		return p
	}
	p.env = w.env("CONTAINERS_CONF=" + conf)
	p.base = []string{path, "--root", filepath.Join(w.home, "ps"), "--runroot", filepath.Join(w.home, "pr"), "--cgroup-manager", "cgroupfs", "--runtime", "runc"}
	p.must("load", "-q", "-i", b.archive)
	b.undo = append(b.undo, func() {
		runQuiet(p.cmd("rm", "-f", "-t", "0", "-a"))
		runQuiet(p.cmd("unshare", "rm", "-rf", filepath.Join(w.home, "ps"), filepath.Join(w.home, "pr")))
		unix.Unmount(filepath.Join(w.home, "ps", "overlay"), unix.MNT_DETACH) // root's podman mounts it on itself
	})
	return p
}

// skopeo works on podman's store, which has the images.
func (b *bench) skopeo(w *who, podman *peer) *peer {
	p := &peer{name: "skopeo", cred: podman.cred, dir: "/", env: podman.env, err: podman.err}
	path, ok := lookPath("skopeo")
	if !ok {
		p.err = errNotInstalled
	}
	if p.err != nil {
		return p
	}
	conf := filepath.Join(b.dir, "skopeo-storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(w.home, "ps"), filepath.Join(w.home, "pr"))
	if p.err = os.WriteFile(conf, []byte(text), 0o644); p.err != nil {
		return p
	}
	p.env = append(append([]string{}, p.env...), "CONTAINERS_STORAGE_CONF="+conf)
	p.base = []string{path}
	if w.cred != nil || os.Geteuid() != 0 { // skopeo enters no user namespace for a copy to elsewhere
		p.base = append(append([]string{}, podman.base...), "unshare", path)
	}
	return p
}

// docker starts a daemon by hand, once.
func (b *bench) docker() *peer {
	return b.dockerAt("d", &b.dockerd, "--bridge=none", "--iptables=false")
}

// dockerAt is a client of the daemon *d, which is started in a directory of its own
// if there is none.
func (b *bench) dockerAt(name string, running **exec.Cmd, options ...string) *peer {
	p := &peer{name: "docker", dir: "/"}
	daemon, ok := lookPath("dockerd")
	client := "/usr/bin/docker" // the daemon's own, if another one is first in PATH
	if _, err := os.Stat(client); !ok || err != nil {
		p.err = errNotInstalled
		return p
	}
	dir := filepath.Join(b.dir, name)
	sock := "unix://" + filepath.Join(dir, "s")
	p.base, p.env = []string{client}, append(os.Environ(), "DOCKER_HOST="+sock, "HOME="+b.dir)
	if *running == nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			p.err = err
			return p
		}
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			p.err = err
			return p
		}
		d := exec.Command(daemon, append(options, "--data-root", filepath.Join(dir, "data"),
			"--exec-root", filepath.Join(dir, "exec"), "-p", filepath.Join(dir, "pid"), "-H", sock, "--storage-driver", "overlay2")...)
		d.Stdout, d.Stderr = log, log
		d.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if err := d.Start(); err != nil {
			p.err = err
			return p
		}
		*running = d
		b.undo = append(b.undo, func() {
			d.Process.Signal(syscall.SIGTERM)
			d.Wait()
		})
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := runQuiet(p.cmd("version"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			p.err = errors.New("the daemon does not answer")
			return p
		}
	}
	p.must("load", "-q", "-i", b.archive)
	return p
}
