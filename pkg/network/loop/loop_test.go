package loop

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"
)

type told struct {
	events []uint32
	do     func()
}

func (t *told) Ready(events uint32) {
	t.events = append(t.events, events)
	if t.do != nil {
		t.do()
	}
}

func pair(t *testing.T) [2]int {
	t.Helper()
	p, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWatch(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Destroy()
	p := pair(t)
	h := &told{}
	if err := l.Watch(p[0], In|HalfClosed|ET, h); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Write(p[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // with ET it is told once
		if err := l.Turn(0); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(h.events, []uint32{In}) {
		t.Errorf("told %x", h.events)
	}
	// A descriptor that is closed within a batch, and whose number is used again,
	// is not taken for the old one.
	q := pair(t)
	other := &told{}
	h.do = func() {
		l.Close(&q[0])
		if q = pair(t); l.Watch(q[0], In, other) != nil {
			t.Error("watch")
		}
	}
	if err := l.Watch(q[0], In, other); err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{p[1], q[1]} {
		if _, err := syscall.Write(fd, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Turn(0); err != nil || len(other.events) != 0 {
		t.Errorf("%v, the new descriptor was told %x", err, other.events)
	}
	l.Close(&p[0])
	if p[0] != -1 {
		t.Error("not -1")
	}
}

func TestTimers(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Destroy()
	if l.Wait() != -1 {
		t.Error("waits for something")
	}
	var ran []time.Time
	var timers []*Timer
	for i, d := range rand.Perm(100) {
		timers = append(timers, l.After(time.Duration(d)*100*time.Microsecond, func() {
			at := timers[i].at
			if time.Now().Before(at) {
				t.Errorf("%v too early", time.Until(at))
			}
			ran = append(ran, at)
		}))
	}
	never := l.After(time.Millisecond, func() { t.Error("a stopped timer ran") })
	never.Stop()
	never.Stop()
	timers[3].Reset(time.Millisecond)
	for len(ran) < 100 {
		if err := l.Turn(-1); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.IsSortedFunc(ran, time.Time.Compare) {
		t.Errorf("order %v", ran)
	}
}

func TestAgain(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Destroy()
	h := &told{}
	h.do = func() {
		if len(h.events) < 3 {
			l.Again(h)
		}
	}
	l.Again(h)
	for l.Wait() == 0 {
		if err := l.Turn(-1); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.events) != 3 {
		t.Errorf("called %d times", len(h.events))
	}
}
