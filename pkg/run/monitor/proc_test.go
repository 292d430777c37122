package monitor

import (
	"syscall"
	"testing"
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
