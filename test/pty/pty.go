// Package pty runs a program on a terminal of its own and talks with it, as a
// person at a keyboard would.
package pty

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Session is a program on a terminal.
type Session struct {
	cmd    *exec.Cmd
	master *os.File
	done   chan struct{} // closed when nothing more comes

	mu   sync.Mutex
	out  bytes.Buffer  // all that came
	seen int           // how much of it Expect has passed
	more chan struct{} // closed and replaced when something came
}

// Start runs cmd on a new terminal of the given size.
func Start(cmd *exec.Cmd, rows, cols int) (*Session, error) {
	master, slave, err := open()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	s := &Session{cmd: cmd, master: master, done: make(chan struct{}), more: make(chan struct{})}
	if err := s.Resize(rows, cols); err != nil {
		master.Close()
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		master.Close()
		return nil, err
	}
	go s.read()
	return s, nil
}

func open() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err == nil {
		n, err = unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// read collects what the program prints until its last descriptor of the
// terminal is closed, which the master sees as EIO.
func (s *Session) read() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.out.Write(buf[:n])
		close(s.more)
		s.more = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Expect waits until text has come after what earlier calls have passed.
func (s *Session) Expect(text string, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		i := bytes.Index(s.out.Bytes()[s.seen:], []byte(text))
		if i >= 0 {
			s.seen += i + len(text)
		}
		rest, more := string(s.out.Bytes()[s.seen:]), s.more
		s.mu.Unlock()
		if i >= 0 {
			return nil
		}
		select {
		case <-more:
		case <-s.done:
			s.mu.Lock()
			i := bytes.Index(s.out.Bytes()[s.seen:], []byte(text))
			s.mu.Unlock()
			if i < 0 {
				return fmt.Errorf("the program ended without printing %q; it printed %q", text, rest)
			}
		case <-timer.C:
			return fmt.Errorf("%v without %q; it printed %q", timeout, text, rest)
		}
	}
}

// Send types text.
func (s *Session) Send(text string) error {
	_, err := io.WriteString(s.master, text)
	return err
}

// Resize changes the terminal's size; its foreground group gets SIGWINCH.
func (s *Session) Resize(rows, cols int) error {
	return unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
}

// Signal signals the program.
func (s *Session) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Wait returns the program's exit code (128+n for signal n) and all it printed.
// A program that outlives timeout is killed.
func (s *Session) Wait(timeout time.Duration) (int, string, error) {
	timer := time.AfterFunc(timeout, func() { s.cmd.Process.Kill() })
	err := s.cmd.Wait()
	late := !timer.Stop()
	select {
	case <-s.done: // all output has come
	case <-time.After(time.Second): // somebody else holds the terminal
	}
	s.master.Close()
	s.mu.Lock()
	out := s.out.String()
	s.mu.Unlock()
	if late {
		return -1, out, fmt.Errorf("killed after %v", timeout)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, out, err
	}
	if ws := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), out, nil
	}
	return s.cmd.ProcessState.ExitCode(), out, nil
}
