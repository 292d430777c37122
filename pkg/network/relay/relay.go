// Package relay joins sockets of a container's side with sockets of the host's:
// connections by adaptive splice, datagrams by flows, echo requests by ping
// sockets. It is one thread around one loop and allocates little, because every
// container with a network has one.
//
// On the container's side its sockets live in the gateway namespace, whose kernel
// takes every address for its own, and speak with the addresses of those that the
// container thinks it speaks to; on the host's side they are ordinary sockets.
package relay

import (
	"syscall"
	"time"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// Limits of one container.
const (
	maxDials    = 1024 // connections that the host side has not answered yet
	maxWaiting  = 4096 // accepted ones that are to be made after those
	maxFlows    = 4096 // of datagrams, each way
	maxPings    = 64
	dialTimeout = 60 * time.Second // the container's own ends before
)

// Port is where the gateway namespace hands a container's packets to its relay.
const Port = 15001

// Maker makes sockets on the container's side, transparent ones if Config says
// so, that do not block.
type Maker func(k sock.Kind, n int) ([]int, error)

// Config says what a relay is to do.
type Config struct {
	Loop *loop.Loop
	Make Maker
	// Transparent says that the sockets of Make take any address.
	Transparent bool
	Note        func(string) // tells the monitor's log; may be nil
	// HostLoopback makes the host's name lead to 127.0.0.1.
	HostLoopback bool
	NoHost       bool
	HostIPs      [][]byte
	Subnets      []Subnet
}

// Relay is what relays for one container.
type Relay struct {
	c       Config
	l       *loop.Loop
	spare   [sock.Kinds][]int
	buf     []byte // what is in no one's hands between two calls
	free    [][]byte
	pipes   []*pipe
	npipes  int
	noPipes time.Time // none is to be had until then
	conns   map[*pair]struct{}

	sources []*Source
	dials   map[route]*dial
	waiting []accepted
	calls   map[*call]struct{}
	queue   *Queue // where the container's wishes wait; nil: they are accepted first
	flows   map[route]*flow
	served  []*Service
	pings   map[ping]*ping4
	raw4    int // sockets that send whole packets on the container's side, -1: none yet
	raw6    int
	host    hostAddr
	udp     *udpBuffers
	tick    *loop.Timer
}

// route is one way of a connection: who speaks to whom.
type route struct{ src, dst sock.Addr }

// New returns a relay that does nothing yet.
func New(c Config) *Relay {
	return &Relay{
		c: c, l: c.Loop, raw4: -1, raw6: -1,
		conns: map[*pair]struct{}{}, dials: map[route]*dial{}, calls: map[*call]struct{}{}, flows: map[route]*flow{}, pings: map[ping]*ping4{},
	}
}

func (r *Relay) note(text string) {
	if r.c.Note != nil {
		r.c.Note(text)
	}
}

// Close closes all that the relay holds.
func (r *Relay) Close() {
	for len(r.sources) > 0 {
		r.Remove(r.sources[0])
	}
	for len(r.served) > 0 {
		r.Withdraw(r.served[0])
	}
	r.Reset()
	for k := range r.spare {
		for _, fd := range r.spare[k] {
			_ = syscall.Close(fd) // never used
		}
		r.spare[k] = nil
	}
	r.l.Close(&r.raw4)
	r.l.Close(&r.raw6)
	r.tick.Stop()
	r.tick = nil
}

// Busy reports whether connections are left that take what a container that is
// gone has said last.
func (r *Relay) Busy() bool { return len(r.conns) > 0 }

// Abort breaks off what Reset has left.
func (r *Relay) Abort() {
	for p := range r.conns {
		p.abort()
	}
	for _, p := range r.pipes {
		p.close()
	}
	r.pipes = nil
}

// Reset ends every connection and flow: the container that they were of is gone.
// What it has said is still handed on.
func (r *Relay) Reset() {
	for p := range r.conns {
		p.finish()
	}
	for _, w := range r.waiting {
		r.reset(&w.fd)
	}
	r.waiting = nil
	for _, d := range r.dials {
		d.drop()
	}
	for c := range r.calls {
		c.fail()
	}
	for _, f := range r.flows {
		f.close()
	}
	for k, p := range r.pings {
		r.l.Close(&p.fd)
		delete(r.pings, k)
	}
}

// socket returns a socket of the container's side. They are made a few at a time,
// because making one takes a change of threads.
func (r *Relay) socket(k sock.Kind) (int, error) {
	s := r.spare[k]
	if len(s) == 0 {
		var err error
		n := 4
		if len(r.conns)+len(r.flows) > 32 {
			n = 32
		}
		if s, err = r.c.Make(k, n); err != nil {
			return -1, err
		}
	}
	fd := s[len(s)-1]
	r.spare[k] = s[:len(s)-1]
	return fd, nil
}

// every calls expire once a second while it says that there is something left.
func (r *Relay) every() {
	if r.tick != nil {
		return
	}
	r.tick = r.l.After(time.Second, func() {
		r.tick = nil
		if r.expire() {
			r.every()
		}
	})
}

func (r *Relay) expire() bool {
	now := r.l.Now()
	for _, f := range r.flows {
		if now.Sub(f.used) > f.idle() {
			f.close()
		}
	}
	for k, p := range r.pings {
		if now.Sub(p.used) > 10*time.Second {
			r.l.Close(&p.fd)
			delete(r.pings, k)
		}
	}
	for _, p := range r.pipes {
		p.close()
		r.npipes--
	}
	clear(r.pipes)
	r.pipes = r.pipes[:0]
	return len(r.flows)+len(r.pings) > 0
}

// buffer returns the one buffer for what is handed on at once.
func (r *Relay) buffer() []byte {
	if r.buf == nil {
		r.buf = make([]byte, bufSize)
	}
	return r.buf
}

const bufSize = 64 << 10

// keep returns a copy of b in a buffer that give takes back.
func (r *Relay) keep(b []byte) []byte {
	var c []byte
	if n := len(r.free); n > 0 && len(b) > 2048 {
		c = r.free[n-1]
		r.free = r.free[:n-1]
	} else if len(b) > 2048 {
		c = make([]byte, bufSize)
	} else {
		c = make([]byte, len(b))
	}
	return c[:copy(c, b)]
}

func (r *Relay) give(b []byte) {
	if cap(b) == bufSize && len(r.free) < 8 {
		r.free = append(r.free, b[:bufSize])
	}
}

func tune(fd int) {
	_ = sock.Option(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) // a TCP socket takes it
	_ = sock.Option(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1) // likewise
}

// reset closes a connection so that its peer learns that it was broken off.
func (r *Relay) reset(fd *int) {
	if *fd >= 0 {
		_ = syscall.SetsockoptLinger(*fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}) // the close follows either way
		r.l.Close(fd)
	}
}
