package monitor

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// containerExited is the end of one run of the container.
func (m *monitor) containerExited(p *proc, code int) {
	m.killAt = time.Time{}
	m.endHealth()
	if m.paused { // somebody killed it: what is frozen would stay
		m.paused = false
		m.thaw()
	}
	if m.shared {
		m.killRest()
	}
	p.drain()
	m.net.Detach()
	e := exit{code: code, started: m.startedAt, finished: m.now, restarts: m.restarts}
	e.oom = m.oomKills() > m.oomBase
	m.main = nil
	again := m.policy(code, false)
	if again {
		m.writeExit(e)
		m.died(code, e.oom)
		m.restartAt = m.now.Add(m.pause(m.now.Sub(m.startedAt)))
		_ = m.writeState("restarting")
		p.announce(&wire.Exited{Code: code, OOMKilled: e.oom, Restarts: true})
		p.close()
		p.closeMounts()
		return
	}
	m.writeExit(e)
	m.died(code, e.oom)
	remove := m.job.AutoRemove && !m.keep
	m.cleanup = m.control == nil && remove
	m.withdraw()
	p.announce(&wire.Exited{Code: code, OOMKilled: e.oom, Cleanup: remove, Restarts: m.keep})
	p.close()
	p.closeMounts()
}

// over is the end of a container that does not run at the moment.
func (m *monitor) over() {
	m.restartAt = time.Time{}
	m.cleanup = m.control == nil && m.job.AutoRemove
	m.withdraw()
}

// withdraw removes what says that the container runs, alive last: whoever sees
// that free may start it again or remove it.
func (m *monitor) withdraw() {
	if m.ended {
		return
	}
	m.ended = true
	m.hideSocket()
	if m.net != nil {
		m.net.Close()
		m.lingerAt = time.Now().Add(linger)
	}
	m.removeCgroups()
	if m.log != nil {
		m.log.CompressEnded(false) // what is not done stays as it is: in a moment, the files may be another monitor's
	}
	if m.job.RunDir != "" && m.alive >= 0 {
		_ = syscall.Unlink(m.job.RunDir + "/state.json") // it may not have come to be
	}
	m.shut(&m.alive)
	for _, c := range m.clients {
		if c.p == nil && !c.closing { // it has not said what it wants
			c.hangUp()
		}
	}
}

// hideSocket keeps further clients away.
func (m *monitor) hideSocket() {
	if m.listener < 0 {
		return
	}
	_ = syscall.Unlink(m.job.RunDir + "/attach") // the directory may be gone
	m.shut(&m.listener)
}

// finish does what nobody waits for, after the last client.
func (m *monitor) finish() {
	if m.log != nil {
		if m.log.Lost > 0 {
			m.note("log: " + strconv.Itoa(m.log.Lost) + " writes failed")
		}
		m.log.Close()
	}
	if m.forward != nil {
		if m.forward.Lost > 0 {
			m.note("log: " + strconv.Itoa(m.forward.Lost) + " lines could not be sent")
		}
		m.forward.Close()
	}
	if !m.job.AutoRemove {
		syncFile(m.job.Dir + "/exit.json")
		syncFile(m.job.Dir)
	}
	if m.cleanup && len(m.job.Cleanup) > 0 {
		// The container is ours no more: the rest of the program removes it, in this
		// process, since it is done.
		for _, sig := range ignored() {
			raw.Default(sig)
		}
		err := syscall.Exec("/proc/self/exe", m.job.Cleanup, m.job.CleanupEnv)
		m.note("exec " + m.job.Cleanup[0] + ": " + err.Error())
	}
}

// syncFile makes a file, or the names in a directory, durable.
func syncFile(path string) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // removed already
	}
	_ = syscall.Fsync(fd) // nobody is left to be told
	_ = syscall.Close(fd) // only read
}

// reload looks at the settings again: a container that waits to be started again
// may not be wanted any more.
func (m *monitor) reload() {
	if m.restartAt.IsZero() || m.main != nil {
		return
	}
	if !m.policy(0, true) {
		m.over()
	}
}

// killRest kills what outlived the container's first process. With a pid
// namespace of its own nothing can.
func (m *monitor) killRest() {
	for turn := range 100 {
		left := m.killCgroups()
		if !left {
			left = m.killChildren()
		}
		m.reapOrphans()
		if !left {
			return
		}
		// The kernel tells nobody when a cgroup without a descriptor of its own
		// becomes empty, on cgroup v1 at all: look again, a little later each time.
		raw.Wait(-1, min(1+turn, 20))
	}
	m.note("processes of the container are left: they do not die")
}

// killCgroups kills every process in the container's cgroups and reports whether
// there was any.
func (m *monitor) killCgroups() bool {
	found := false
	for _, dir := range m.job.Cgroups {
		found = killTree(dir) || found
	}
	return found
}

// killTree kills every process in the cgroup dir and those below it.
func killTree(dir string) bool {
	pids := processes(dir, nil)
	if len(pids) == 0 {
		return false
	}
	if writeSmall(dir+"/cgroup.kill", "1") == nil { // v2, Linux 5.14
		return true
	}
	// Frozen, they cannot fork away from us. Thawed, they die.
	frozen := writeSmall(dir+"/freezer.state", "FROZEN") == nil
	if !frozen {
		frozen = writeSmall(dir+"/cgroup.freeze", "1") == nil
	}
	if frozen {
		pids = processes(dir, pids[:0])
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
	}
	_ = writeSmall(dir+"/freezer.state", "THAWED") // one of the two does not exist
	_ = writeSmall(dir+"/cgroup.freeze", "0")
	return true
}

// processes appends the processes in the cgroup dir and those below it.
func processes(dir string, pids []int) []int {
	b, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return pids
	}
	for _, f := range fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	for _, sub := range subdirs(dir) {
		pids = processes(dir+"/"+sub, pids)
	}
	return pids
}

func subdirs(dir string) []string {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range list {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// killChildren kills the children of this process: as a subreaper it inherits
// what the container orphans. It reports whether there was any.
func (m *monitor) killChildren() bool {
	found := false
	for _, task := range subdirs("/proc/self/task") {
		b, err := os.ReadFile("/proc/self/task/" + task + "/children")
		if err != nil {
			continue // a kernel without it, or a thread that ended
		}
		for _, f := range fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && m.child(pid) == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // ours, and not reaped: the number is its own
				found = true
			}
		}
	}
	return found
}

// removeCgroups removes the container's directories, killing what is left in
// them.
func (m *monitor) removeCgroups() {
	for _, dir := range m.job.Cgroups {
		for turn := range 100 {
			err := removeTree(dir)
			if !errors.Is(err, syscall.EBUSY) {
				break // gone, or not ours to remove
			}
			killTree(dir)
			m.reapOrphans()
			raw.Wait(-1, min(turn, 20)) // the kernel lets go of the last process a moment after its end
		}
	}
}

// removeTree removes the cgroup dir and those that the container made in it.
func removeTree(dir string) error {
	err := syscall.Rmdir(dir)
	if err != syscall.EBUSY && err != syscall.ENOTEMPTY { //nolint:errorlint // a system call's own errno
		return err
	}
	for _, sub := range subdirs(dir) {
		_ = removeTree(dir + "/" + sub) // what is left shows in the next call
	}
	return syscall.Rmdir(dir)
}

// oomKills returns how many processes of the container the OOM killer ended.
func (m *monitor) oomKills() int64 {
	var n int64
	for _, dir := range m.job.Cgroups {
		for _, file := range []string{"/memory.events", "/memory.oom_control"} { // v2, v1
			s, err := readSmall(dir + file)
			if err != nil || s == "" {
				continue
			}
			words := fields(s)
			for i := range words[1:] {
				if words[i] == "oom_kill" {
					k, _ := strconv.ParseInt(words[i+1], 10, 64) // the kernel wrote it
					n += k
				}
			}
		}
	}
	return n
}
