package launch

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
)

// writeMaps gives the waiting child its cgroup and its ids.
func (pr *Proc) writeMaps() error {
	p, pid := pr.plan, strconv.Itoa(pr.PID)
	for _, f := range p.CgroupFiles {
		if err := writeKernel(f, pid); err != nil {
			return err
		}
	}
	if len(p.UIDs) == 0 {
		return nil
	}
	if p.MapHelpers {
		return runHelpers(pid, p.UIDs, p.GIDs)
	}
	if p.DenySetgroups {
		if err := writeKernel("/proc/"+pid+"/setgroups", "deny"); err != nil {
			return mapError(err)
		}
	}
	if err := writeKernel("/proc/"+pid+"/gid_map", mapText(p.GIDs, "\n")); err != nil {
		return mapError(err)
	}
	return mapError(writeKernel("/proc/"+pid+"/uid_map", mapText(p.UIDs, "\n")))
}

func mapError(err error) error {
	if err == nil || !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EACCES) {
		return err
	}
	return errs.WithHint(errs.E("map user ids", errs.Denied, err),
		"The host restricts user namespaces; on Ubuntu 'sysctl kernel.apparmor_restrict_unprivileged_userns=0' lifts it.")
}

// writeKernel writes a file of the kernel's, in the one write that it wants.
func writeKernel(path, text string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = syscall.Write(fd, []byte(text))
	_ = syscall.Close(fd) // the write told
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func mapText(maps []wire.IDMap, end string) string {
	var b []byte
	for _, m := range maps {
		b = append(b, strconv.Itoa(int(m.Inside))+" "+strconv.Itoa(int(m.Outside))+" "+strconv.Itoa(int(m.Count))+end...)
	}
	return string(b)
}

// runHelpers runs newuidmap and newgidmap at the same time: each takes about
// 1.3 ms, most of it looking up names.
func runHelpers(pid string, uids, gids []wire.IDMap) error {
	u, uerr := startHelper("newuidmap", pid, uids)
	g, gerr := startHelper("newgidmap", pid, gids)
	return errors.Join(u.wait(uerr), g.wait(gerr))
}

type helper struct {
	name string
	proc *os.Process
	out  *os.File
}

func startHelper(name, pid string, maps []wire.IDMap) (helper, error) {
	path, err := LookHelper(name)
	if err != nil {
		return helper{name: name}, err
	}
	return startHelperAt(path, name, pid, maps)
}

func startHelperAt(path, name, pid string, maps []wire.IDMap) (helper, error) {
	h := helper{name: name}
	r, w, err := os.Pipe()
	if err != nil {
		return h, err
	}
	defer w.Close()
	args := []string{name, pid}
	for _, m := range maps {
		args = append(args, strconv.Itoa(int(m.Inside)), strconv.Itoa(int(m.Outside)), strconv.Itoa(int(m.Count)))
	}
	// It is set-uid: it gets arguments that we made and no environment.
	h.proc, err = os.StartProcess(path, args, &os.ProcAttr{Env: []string{}, Files: []*os.File{nil, w, w}})
	if err != nil {
		_ = r.Close() // nobody wrote to it
		return h, err
	}
	h.out = r
	return h, nil
}

func (h helper) wait(err error) error {
	if err != nil {
		return err
	}
	defer h.out.Close()
	text, _ := io.ReadAll(io.LimitReader(h.out, 4096)) // only for the message
	state, err := h.proc.Wait()
	if err == nil && !state.Success() {
		err = errs.WithHint(errs.E(h.name, errs.Denied, errors.New(firstLine(text))),
			"Check this user's lines in /etc/subuid and /etc/subgid, and that "+h.name+" is set-uid.")
	}
	return err
}

// firstLine returns text up to its first newline.
func firstLine(text []byte) string {
	for i, c := range text {
		if c == '\n' {
			return string(text[:i])
		}
	}
	return string(text)
}

// LookHelper finds newuidmap or newgidmap where distributions put them. PATH is
// the user's, and the helper is to be the system's.
func LookHelper(name string) (string, error) {
	for _, dir := range []string{"/usr/bin/", "/bin/", "/usr/local/bin/", "/usr/sbin/", "/run/wrappers/bin/"} {
		if st, err := os.Stat(dir + name); err == nil && st.Mode().IsRegular() {
			return dir + name, nil
		}
	}
	return "", errs.WithHint(errs.New(errs.Unsupported, name+" is not installed"), "Install the package uidmap (shadow-utils).")
}
