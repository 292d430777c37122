package space_test

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"

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
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	held, err := os.Create(t.TempDir() + "/endpoint")
	if err != nil {
		t.Fatal(err)
	}
	s, err := space.Open(space.Options{Held: []*os.File{held}, Net: &wire.Net{
		Engine: plane.Relay, Dir: t.TempDir(),
		Interfaces: []wire.Interface{{
			Endpoint: "0123456789abcdef", Name: "eth0", Bridge: "br-1", Held: 1,
			IP4: []byte{172, 31, 0, 2}, Bits4: 24, Gateway4: []byte{172, 31, 0, 1}, Default4: true,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ns)
	get := func() (string, error) {
		var got []byte
		err := netns.Visit(ns, func() error {
			c, err := net.Dial("tcp", nettest.Addr(nettest.World4, 80))
			if err != nil {
				return err
			}
			defer c.Close()
			got, err = io.ReadAll(c)
			return err
		})
		return string(got), err
	}
	if got, err := get(); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
