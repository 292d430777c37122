package netns_test

import (
	"os"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nettest"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestThreads(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	const own = "/proc/thread-self/ns/net"
	here := inode(t, own)
	a, err := netns.Start(-1)
	if err != nil {
		t.Fatal(err)
	}
	var there uint64
	a.Do(func() { there = inode(t, own) })
	if there == here {
		t.Error("the namespace is not a new one")
	}
	fd, err := netns.Open(netns.Path(os.Getpid(), a.TID))
	if err != nil {
		t.Fatal(err)
	}
	b, err := netns.Start(fd)
	if err != nil {
		t.Fatal(err)
	}
	b.Do(func() {
		if inode(t, own) != there {
			t.Error("another namespace was entered")
		}
	})
	b.End()
	for range 50 { // no goroutine of ours runs on a thread that has been away
		if err := netns.Visit(fd, func() error {
			if inode(t, own) != there {
				t.Error("another namespace was visited")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if inode(t, own) != here {
			t.Fatal("a thread came back from the namespace")
		}
	}
	a.Do(func() {
		if err := netns.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
			t.Error(err)
		}
	})
	a.End()
	if _, err := netns.Start(0); err == nil {
		t.Error("something that is no namespace was entered")
	}
}
