// Package space is a network namespace with a network that this process serves
// itself, without a monitor: what the steps of a build run in, and what several
// containers can share, none of which owns it. It goes with the process.
package space

import (
	"errors"
	"os"
	"syscall"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/run/wire"
)

// Options describe a space.
type Options struct {
	Net *wire.Net
	// Held are the descriptors that Net names by number. They are the space's from
	// here on.
	Held []*os.File
	// Names makes the name server; nil: there is none.
	Names func(*loop.Loop) plane.Names
	Note  func(string) // what is worth a line in a log; may be nil
	// Members is the end of a pipe that is read, nil for none: the space ends by itself
	// when nobody has the other end any more. Every container in the space is given
	// that to hold, so none of them owns the space, and kill -9 of any counts as its
	// leaving. The end is the space's from here on.
	Members *os.File
}

// Space is a namespace with its network.
type Space struct {
	thread *netns.Thread
	l      *loop.Loop
	p      *plane.Plane
	wake   [2]int
	life   int // Members; -1
	done   chan error
}

// Open makes a namespace and its network. For an ordinary user it works inside the
// user's namespace alone. Close it.
func Open(o Options) (*Space, error) {
	held := make([]int, 0, len(o.Held))
	for _, f := range o.Held {
		fd, err := syscall.Dup(int(f.Fd()))
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		err = errors.Join(err, f.Close())
		if err != nil {
			return nil, err
		}
		held = append(held, fd)
	}
	s := &Space{life: -1, done: make(chan error, 1)}
	if o.Members != nil {
		fd, err := syscall.Dup(int(o.Members.Fd()))
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		if err = errors.Join(err, o.Members.Close()); err != nil {
			return nil, err
		}
		s.life = fd
	}
	ready := make(chan error)
	go s.serve(o, held, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return s, nil
}

// Path is where a process of this one finds the namespace, as a spec names it.
func (s *Space) Path() string { return netns.Path(os.Getpid(), s.thread.TID) }

// Close ends the network. Processes that still run in the namespace keep that, and
// reach nothing any more.
func (s *Space) Close() error {
	_, err := syscall.Write(s.wake[1], []byte{0})
	return errors.Join(err, <-s.done)
}

// Wait returns when the last member has gone, or when Close was called elsewhere.
func (s *Space) Wait() error { return <-s.done }

// serve makes the network and runs its loop.
func (s *Space) serve(o Options, held []int, ready chan<- error) {
	err := s.begin(o, held)
	if err != nil {
		s.end()
		ready <- err
		return
	}
	ready <- nil
	b := &bell{}
	err = s.l.Watch(s.wake[0], loop.In, b)
	if err == nil && s.life >= 0 {
		err = s.l.Watch(s.life, loop.Hup, b) // told in any case; nothing is read
	}
	if err == nil {
		for !b.rung && err == nil {
			err = s.l.Turn(-1)
		}
	}
	s.end()
	s.done <- err
}

func (s *Space) begin(o Options, held []int) (err error) {
	s.wake = [2]int{-1, -1}
	if s.l, err = loop.New(); err != nil {
		return err
	}
	var names plane.Names
	if o.Names != nil {
		names = o.Names(s.l)
	}
	note := o.Note
	if note == nil {
		note = func(string) {}
	}
	s.p = plane.New(s.l, names, note)
	if err := s.p.Prepare(o.Net, held); err != nil {
		return err
	}
	if s.thread, err = netns.Start(-1); err != nil {
		return err
	}
	ns, err := netns.Open(s.Path())
	if err != nil {
		return err
	}
	if err := s.p.AttachNS(ns); err != nil {
		return err
	}
	return os.NewSyscallError("pipe2", syscall.Pipe2(s.wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK))
}

func (s *Space) end() {
	s.p.Close()
	s.thread.End()
	if s.l != nil {
		s.l.Close(&s.wake[0])
		s.l.Close(&s.wake[1])
		s.l.Close(&s.life)
		s.l.Destroy()
	}
}

type bell struct{ rung bool }

// Ready is Close, or the last member's end.
func (b *bell) Ready(uint32) { b.rung = true }
