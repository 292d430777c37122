// Package loop waits for many descriptors on one thread: the relay and the name
// server of a monitor live in one. It is a part of what every monitor is made of.
package loop

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Handler is what a watched descriptor belongs to.
type Handler interface {
	// Ready is told the events of epoll(7) that have come.
	Ready(events uint32)
}

// The events of epoll(7), for Watch. With ET a handler is told once, and must
// read or write until the descriptor would block.
const (
	In  uint32 = syscall.EPOLLIN
	Out uint32 = syscall.EPOLLOUT
	// HalfClosed is EPOLLRDHUP.
	HalfClosed uint32 = syscall.EPOLLRDHUP
	Err        uint32 = syscall.EPOLLERR
	Hup        uint32 = syscall.EPOLLHUP
	ET         uint32 = 1 << 31
)

// Loop is one epoll with timers. All its methods belong to one thread.
type Loop struct {
	fd     int
	slots  []slot // by descriptor
	gen    int32
	timers []*Timer // a heap, the earliest first
	again  []Handler
	spare  []Handler
	now    time.Time
	events [128]syscall.EpollEvent

	// Alone says that nothing else runs in this process while the loop is busy. Then
	// it waits for a short time without telling Go's scheduler, which would look for
	// other work each time, and have its own watchman look every 20 µs.
	Alone bool
	hot   bool // something came a moment ago
}

// hotWait is how long a loop that is alone keeps the processor's place, in
// milliseconds.
const hotWait = 2

// slot is a watched descriptor. Its number may be used again within one batch of
// events; gen tells the old one from the new.
type slot struct {
	h   Handler
	gen int32
}

// New returns an empty loop.
func New() (*Loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &Loop{fd: fd, now: time.Now()}, nil
}

// FD is readable while Turn has something to do.
func (l *Loop) FD() int { return l.fd }

// Now is when the current turn began.
func (l *Loop) Now() time.Time { return l.now }

// Watch makes h the handler of fd. To change the events, watch again.
func (l *Loop) Watch(fd int, events uint32, h Handler) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[fd]
	op := syscall.EPOLL_CTL_MOD
	if s.h == nil {
		op = syscall.EPOLL_CTL_ADD
		l.gen++
		s.gen = l.gen
	}
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd), Pad: s.gen}
	if err := syscall.EpollCtl(l.fd, op, fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	s.h = h
	return nil
}

// Forget stops watching fd and does not close it.
func (l *Loop) Forget(fd int) {
	if fd >= 0 && fd < len(l.slots) && l.slots[fd].h != nil {
		l.slots[fd].h = nil
		_ = syscall.EpollCtl(l.fd, syscall.EPOLL_CTL_DEL, fd, nil) // it is in there
	}
}

// Close stops watching *fd, closes it and makes it -1; one that is -1 stays so.
func (l *Loop) Close(fd *int) {
	if *fd < 0 {
		return
	}
	if *fd < len(l.slots) {
		l.slots[*fd].h = nil // the kernel forgets it with its last descriptor
	}
	_ = syscall.Close(*fd) // sockets, pipes and handles: nothing is flushed here
	*fd = -1
}

// Again calls h.Ready(0) in the next turn, which then does not wait: for work
// that would otherwise hold everybody else up.
func (l *Loop) Again(h Handler) { l.again = append(l.again, h) }

// Turn waits for at most ms milliseconds (-1: for ever), but no longer than to
// the next timer, and calls the handlers of what has come.
func (l *Loop) Turn(ms int) error {
	if next := l.Wait(); next >= 0 && (ms < 0 || next < ms) {
		ms = next
	}
	n, err := l.wait(ms)
	if err != nil && err != syscall.EINTR { //nolint:errorlint // a system call's own errno
		return os.NewSyscallError("epoll_wait", err)
	}
	l.now = time.Now()
	again := l.again
	l.again = l.spare[:0]
	for _, ev := range l.events[:max(n, 0)] {
		if s := l.slots[ev.Fd]; s.h != nil && s.gen == ev.Pad {
			s.h.Ready(ev.Events)
		}
	}
	for i, h := range again {
		again[i] = nil
		h.Ready(0)
	}
	l.spare = again
	for len(l.timers) > 0 && !l.now.Before(l.timers[0].at) {
		t := l.timers[0]
		t.Stop()
		t.f()
	}
	return nil
}

func (l *Loop) wait(ms int) (n int, err error) {
	if l.Alone && l.hot {
		first := hotWait
		if ms >= 0 {
			first = min(first, ms)
		}
		r, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events)), uintptr(len(l.events)), uintptr(first), 0, 0)
		if errno != 0 {
			return 0, errno
		}
		if n = int(r); n > 0 || first == ms {
			return n, nil
		}
		if ms > 0 {
			ms -= first
		}
	}
	n, err = syscall.EpollWait(l.fd, l.events[:], ms)
	l.hot = n > 0
	return n, err
}

// Wait returns how long Turn may wait, in milliseconds; -1: for ever.
func (l *Loop) Wait() int {
	switch {
	case len(l.again) > 0:
		return 0
	case len(l.timers) == 0:
		return -1
	}
	return int(max(0, (time.Until(l.timers[0].at)+time.Millisecond-1)/time.Millisecond))
}

// Destroy ends the loop. Descriptors stay open.
func (l *Loop) Destroy() {
	_ = syscall.Close(l.fd) // a handle
	l.fd, l.slots, l.timers, l.again = -1, nil, nil, nil
}

// Timer calls a function once.
type Timer struct {
	l  *Loop
	at time.Time
	i  int // in the heap; -1: not there
	f  func()
}

// After calls f in the turn in which d has passed.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{l: l, f: f, i: -1}
	t.Reset(d)
	return t
}

// Stop makes sure that a timer that has not run does not.
func (t *Timer) Stop() {
	if t == nil || t.i < 0 {
		return
	}
	h, i := t.l.timers, t.i
	last := len(h) - 1
	h[i] = h[last]
	h[i].i = i
	h[last] = nil
	t.l.timers = h[:last]
	t.i = -1
	if i < last {
		t.l.settle(i)
	}
}

// Reset makes the timer run once d has passed from now on.
func (t *Timer) Reset(d time.Duration) {
	t.Stop()
	t.at = time.Now().Add(d)
	t.i = len(t.l.timers)
	t.l.timers = append(t.l.timers, t)
	t.l.settle(t.i)
}

// settle moves the timer at i to its place.
func (l *Loop) settle(i int) {
	h := l.timers
	swap := func(a, b int) {
		h[a], h[b] = h[b], h[a]
		h[a].i, h[b].i = a, b
	}
	for i > 0 && h[i].at.Before(h[(i-1)/2].at) {
		swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].at.Before(h[least].at) {
				least = c
			}
		}
		if least == i {
			return
		}
		swap(i, least)
		i = least
	}
}
