package monitor

import (
	"errors"
	"os"
	"syscall"
	"time"

	"cais.dev/cais/pkg/sys/raw"
)

// child is the rest of this program, doing what would cost a monitor too much to
// link: compressing a log, or speaking TLS.
type child struct {
	m          *monitor
	pid, pidfd int
	ended      func(ok bool) // may be nil
}

// spawn starts argv with the given descriptors from 0 on. If bound, it dies with the
// monitor.
func (m *monitor) spawn(argv []string, files []uintptr, bound bool, ended func(ok bool)) error {
	attr := syscall.ProcAttr{Env: m.job.CleanupEnv, Files: files, Sys: &syscall.SysProcAttr{}}
	if bound {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if m.adj != "" {
		_ = setScore(m.adj) // as for the container's processes: see launch
		defer func() { _ = setScore("-1000") }()
	}
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &attr)
	if err != nil {
		return &os.PathError{Op: "exec", Path: argv[0], Err: err}
	}
	c := &child{m: m, pid: pid, ended: ended}
	if c.pidfd, err = raw.PidfdOpen(pid); err != nil { // out of descriptors
		_ = syscall.Kill(pid, syscall.SIGKILL) // not reaped: the number is its own
		_, _ = again(func() (int, error) { return syscall.Wait4(pid, nil, 0, nil) })
		return os.NewSyscallError("pidfd_open", err)
	}
	m.children = append(m.children, c)
	m.watch(c.pidfd, syscall.EPOLLIN, c)
	return nil
}

// ready is the child's end.
func (c *child) ready(uint32) {
	var status syscall.WaitStatus
	if pid, err := again(func() (int, error) { return syscall.Wait4(c.pid, &status, syscall.WNOHANG, nil) }); err == nil && pid == c.pid {
		c.exited(status)
	}
}

func (c *child) exited(status syscall.WaitStatus) {
	c.m.shut(&c.pidfd)
	for i, o := range c.m.children {
		if o == c {
			c.m.children = append(c.m.children[:i], c.m.children[i+1:]...)
			break
		}
	}
	if c.ended != nil {
		c.ended(status.Exited() && status.ExitStatus() == 0)
	}
}

// child returns the one of that number, if there is one.
func (m *monitor) child(pid int) *child {
	for _, c := range m.children {
		if c.pid == pid {
			return c
		}
	}
	return nil
}

// compress is jsonfile's Compress.
func (m *monitor) compress(in, out int) error {
	err := m.spawn(m.job.Log.Compress, []uintptr{uintptr(in), uintptr(out)}, true, func(ok bool) { m.log.CompressEnded(ok) })
	if err != nil {
		m.note("compress the log: " + err.Error())
	}
	return err
}

// dialTLS starts the process that has the connection to a syslog server, and returns
// the socket that it takes lines from. It ends when that is closed, and may still
// send then. If wait, the server must have answered.
func (m *monitor) dialTLS(wait bool) (int, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	err = m.spawn(m.job.Log.Forward.Argv, []uintptr{uintptr(pair[1])}, false, nil)
	_ = syscall.Close(pair[1]) // the child's
	if err == nil && wait {
		err = answer(pair[0])
	}
	if err != nil {
		_ = syscall.Close(pair[0]) // nothing was sent
		return -1, err
	}
	return pair[0], nil
}

// answer reads the line that says how the first connection went: empty, if well.
// What it says last is for the case that the process is stuck: it gives up before.
func answer(fd int) error {
	tv := syscall.NsecToTimeval(int64(10 * time.Second))
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv) // cannot fail for a socket
	var line [1024]byte
	n, err := again(func() (int, error) { return syscall.Read(fd, line[:]) })
	switch {
	case err != nil:
		return os.NewSyscallError("connect", syscall.ETIMEDOUT)
	case n == 0:
		return errors.New("the process that connects by TLS has ended")
	case n > 1:
		return errors.New(string(line[:n-1]))
	}
	return nil
}
