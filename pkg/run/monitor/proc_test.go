package monitor

import (
	"strings"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/run/wire"
)

// A process that an exec left behind writes faster than the monitor reads, as
// /dev/zero does: this must come back.
func TestDrainEnds(t *testing.T) {
	fd, err := syscall.Open("/dev/zero", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &proc{m: &monitor{buf: make([]byte, 4096)}, master: -1}
	p.outs = []*source{{p: p, fd: fd}}
	p.drain()
	if p.outs[0].fd >= 0 {
		t.Error("what escaped is still read from")
	}
}

// What could not be let go again, since nothing says that it is paused, goes on.
func TestPauseIsUndone(t *testing.T) {
	m := &monitor{}
	m.job.RunDir = "/nowhere"
	if err := m.setPaused(true); err == nil || m.paused {
		t.Errorf("paused %v, %v; want an error, and nothing paused", m.paused, err)
	}
}

// Whoever asks for a process saw a running container; meanwhile it was paused.
func TestNoExecWhilePaused(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[1])
	c := &client{m: &monitor{main: &proc{}, paused: true}, fd: fds[0]}
	c.exec(wire.Marshal(&wire.Exec{}), []int{-1})
	buf := make([]byte, 4096)
	n, err := syscall.Read(fds[1], buf)
	if err != nil {
		t.Fatal(err)
	}
	var f wire.Failed
	if err := wire.Unmarshal(buf[:n], &f); err != nil || !strings.Contains(f.Text, "is paused") {
		t.Errorf("answered %+v, %v", f, err)
	}
}
