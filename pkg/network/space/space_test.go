package space_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/network/space"
	"cais.dev/cais/pkg/run/wire"
)

func TestSpace(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	l := world.Listen(nettest.Addr(nettest.World4, 80))
	go hello(l)
	s := open(t, nil)
	ns, err := netns.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ns)
	if got, err := get(ns); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestShared has a space that two members share: it outlives the first one's end,
// whoever that is, and ends with the last one's.
func TestShared(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	l := world.Listen(nettest.Addr(nettest.World4, 80))
	go hello(l)
	life, first, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	second, err := syscall.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(second)
	// The first member is another process, which is killed.
	member := exec.Command("sleep", "1000")
	member.ExtraFiles = []*os.File{first}
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	first.Close()
	s := open(t, life)
	ns, err := netns.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ns)
	_ = member.Process.Kill()
	_ = member.Wait()
	if got, err := get(ns); err != nil || got != "hello" {
		t.Errorf("after the first member's end: %q, %v", got, err)
	}
	syscall.Close(second)
	ended := make(chan error)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the space outlives its members")
	}
	if got, err := get(ns); err == nil {
		t.Errorf("the relay still runs: %q", got)
	}
}

func hello(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("hello"))
		c.Close()
	}
}

func open(t *testing.T, members *os.File) *space.Space {
	t.Helper()
	held, err := os.Create(t.TempDir() + "/endpoint")
	if err != nil {
		t.Fatal(err)
	}
	s, err := space.Open(space.Options{Members: members, Held: []*os.File{held}, Net: &wire.Net{
		Engine: plane.Relay, Dir: t.TempDir(),
		Interfaces: []wire.Interface{{
			Endpoint: "0123456789abcdef", Name: "eth0", Bridge: "br-1", Held: 1,
			IP4: []byte{172, 31, 0, 2}, Bits4: 24, Gateway4: []byte{172, 31, 0, 1}, Default4: true,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks the world, from a namespace.
func get(ns int) (string, error) {
	var got []byte
	err := netns.Visit(ns, func() error {
		c, err := net.DialTimeout("tcp", nettest.Addr(nettest.World4, 80), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		got, err = io.ReadAll(c)
		return err
	})
	return string(got), err
}
