package monitor

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// pauseRequest answers a request to pause or to go on.
func (c *client) pauseRequest(packet []byte) {
	var r wire.Pause
	err := wire.Unmarshal(packet, &r)
	if err == nil && c.m.main == nil {
		err = errs.New(errs.Conflict, "the container is not running")
	}
	if err == nil {
		err = c.m.setPaused(r.On)
	}
	if err != nil {
		c.refuse(err)
		return
	}
	c.last(wire.Marshal(&wire.Done{}))
}

// setPaused freezes the container's processes, or lets them go on. The state
// says so afterwards, or they are let go: who paused could not undo it, else.
func (m *monitor) setPaused(on bool) error {
	if on {
		err := m.freeze()
		if err == nil {
			err = m.writeState("paused")
		}
		if err != nil {
			m.thaw()
			return err
		}
	} else {
		m.thaw()
		if m.health.probe != nil { // it gets its time anew
			m.health.killAt = m.now.Add(time.Duration(m.job.Health.Timeout))
		}
		_ = m.writeState("running") // noted; what says paused can be let go again
	}
	m.paused = on
	return nil
}

// freeze stops all processes of the container: by v2's freezer, else by v1's,
// whose directory is made only now, and where there are no cgroups by SIGSTOP.
func (m *monitor) freeze() error {
	for _, dir := range m.job.Cgroups {
		if writeSmall(dir+"/cgroup.freeze", "1") == nil {
			return m.await(dir+"/cgroup.events", "frozen 1")
		}
	}
	if m.job.Freezer == "" || len(m.job.Cgroups) == 0 {
		return m.stopAll()
	}
	if err := syscall.Mkdir(m.job.Freezer, 0o755); err != nil && err != syscall.EEXIST { //nolint:errorlint // a system call's own errno
		return &os.PathError{Op: "mkdir", Path: m.job.Freezer, Err: err}
	}
	// What forks while it is moved shows at the next look.
	for turn := 0; ; turn++ {
		inside := processes(m.job.Freezer, nil)
		missing := 0
		for _, pid := range m.members() {
			if contains(inside, pid) {
				continue
			}
			missing++
			_ = writeSmall(m.job.Freezer+"/cgroup.procs", strconv.Itoa(pid)) // it may have ended
		}
		if missing == 0 {
			break
		}
		if turn == 100 {
			return errs.New(errs.Unavailable, "pause: processes keep appearing")
		}
	}
	if err := writeSmall(m.job.Freezer+"/freezer.state", "FROZEN"); err != nil {
		return &os.PathError{Op: "write", Path: m.job.Freezer + "/freezer.state", Err: err}
	}
	return m.await(m.job.Freezer+"/freezer.state", "FROZEN")
}

// members are the processes in the container's cgroups.
func (m *monitor) members() []int {
	for _, dir := range m.job.Cgroups {
		if dir == m.job.Freezer {
			continue
		}
		if pids := processes(dir, nil); len(pids) > 0 {
			return pids
		}
	}
	return nil
}

func contains(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// await waits until a file of the kernel's says word: freezing takes a moment.
func (m *monitor) await(path, word string) error {
	for turn := range 200 {
		s, err := readSmall(path)
		if err != nil {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
		if _, _, ok := cut(s, word); ok {
			return nil
		}
		raw.Wait(-1, min(1+turn, 20))
	}
	return errs.New(errs.Unavailable, "pause: the kernel has not frozen all processes within 4 s")
}

// thaw lets everything go on, by whichever way it was stopped.
func (m *monitor) thaw() {
	for _, dir := range m.job.Cgroups {
		_ = writeSmall(dir+"/cgroup.freeze", "0") // of the two files one exists at most
		_ = writeSmall(dir+"/freezer.state", "THAWED")
	}
	if m.stopped {
		for _, pid := range m.descendants() {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
		m.stopped = false
	}
}

// stopAll stops every descendant of this process until none is left that runs.
func (m *monitor) stopAll() error {
	m.stopped = true
	known := []int{}
	for range 100 {
		more := false
		for _, pid := range m.descendants() {
			if contains(known, pid) {
				continue
			}
			more = true
			known = append(known, pid)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && err != syscall.ESRCH { //nolint:errorlint // a system call's own errno
				return os.NewSyscallError("kill", err)
			}
		}
		if !more {
			return nil
		}
		raw.Wait(-1, 1)
	}
	return errs.New(errs.Unavailable, "pause: processes keep appearing")
}

// descendants are the children of this process, and theirs: all that belongs to
// the container, since it inherits what the container orphans.
func (m *monitor) descendants() []int { return children(os.Getpid(), nil) }

func children(pid int, list []int) []int {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	for _, task := range subdirs(dir) {
		b, err := os.ReadFile(dir + "/" + task + "/children")
		if err != nil {
			continue
		}
		for _, f := range fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil && !contains(list, child) {
				list = children(child, append(list, child))
			}
		}
	}
	return list
}
