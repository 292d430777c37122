package relay

import (
	"syscall"
	"time"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// pair is two connected sockets whose bytes are handed on both ways.
type pair struct {
	r    *Relay
	a, b half
}

// half is one socket of a pair, with the bytes that were read from it and that
// the other has not taken.
type half struct {
	p     *pair
	other *half
	fd    int
	in    bool   // there may be something to read
	out   bool   // there may be room to write
	last  bool   // its peer has said the last word: read until there is no more
	eof   bool   // it has been read
	shut  bool   // what it said has been told to the other, with its end
	again bool   // it waits for its next turn
	pend  []byte // read and not yet written
	whole []byte // pend's buffer
	pipe  *pipe  // while bytes are in flight
	quick bool   // bytes go by way of pipe
}

// pipe moves bytes without copying them.
type pipe struct {
	r, w int
	size int
	n    int // bytes in it
}

func (p *pipe) close() {
	_ = syscall.Close(p.r) // nothing is in it, or nobody wants it
	_ = syscall.Close(p.w)
}

const (
	maxPipes  = 16
	bigPipe   = 1 << 20
	smallPipe = 256 << 10
	slow      = 16 << 10 // a splice of less is not worth its pipe
	budget    = 4 << 20  // bytes until the others have their turn
)

// join hands bytes on between two sockets, the container's side and the host's,
// until both have ended.
func (r *Relay) join(near, far int) {
	p := &pair{r: r}
	p.a = half{p: p, other: &p.b, fd: near, out: true}
	p.b = half{p: p, other: &p.a, fd: far, out: true}
	r.conns[p] = struct{}{}
	for _, h := range []*half{&p.a, &p.b} {
		if err := r.l.Watch(h.fd, loop.In|loop.Out|loop.HalfClosed|loop.ET, h); err != nil {
			p.abort()
			return
		}
	}
}

// abort ends the pair so that both peers see that something went wrong.
func (p *pair) abort() {
	p.r.reset(&p.a.fd)
	p.r.reset(&p.b.fd)
	p.end()
}

// finish hands on what a container that is gone has said. What it had not ended is
// broken off.
func (p *pair) finish() {
	p.a.in = true
	if p.a.pump() && !p.a.eof && !p.a.in {
		p.abort()
	}
}

// end forgets a pair whose sockets are closed.
func (p *pair) end() {
	for _, h := range []*half{&p.a, &p.b} {
		p.r.l.Close(&h.fd)
		if h.pipe != nil {
			if h.pipe.n > 0 { // somebody else's bytes must not come out of it
				h.pipe.close()
				p.r.npipes--
			} else {
				p.r.pipes = append(p.r.pipes, h.pipe)
			}
			h.pipe = nil
		}
		p.r.give(h.whole)
		h.pend, h.whole = nil, nil
	}
	delete(p.r.conns, p)
}

// Ready is told what came for one of the two sockets.
func (h *half) Ready(events uint32) {
	if h.fd < 0 {
		return
	}
	if events == 0 {
		h.again = false
	}
	if events&(loop.In|loop.HalfClosed|loop.Hup|loop.Err) != 0 {
		h.in = true
	}
	if events&(loop.HalfClosed|loop.Hup|loop.Err) != 0 {
		h.last = true
	}
	if events&(loop.Out|loop.Hup|loop.Err) != 0 && !h.out {
		h.out = true
		if !h.other.pump() {
			return
		}
	}
	if h.in {
		h.pump()
	}
}

// pump hands on what h says. It reports whether the pair is still there.
func (h *half) pump() bool {
	p := h.p
	if !h.other.out && (len(h.pend) > 0 || h.pipe != nil && h.pipe.n > 0) {
		return true // what came before has no room yet: more of it does not change that
	}
	for left := budget; ; {
		if ok := h.flush(); !ok {
			return p.a.fd >= 0
		}
		if h.eof {
			if !h.shut {
				h.shut = true
				h.release()
				_ = syscall.Shutdown(h.other.fd, syscall.SHUT_WR) // one that is gone has no use for it
			}
			if h.other.shut {
				p.end()
				return false
			}
			return true
		}
		if !h.in || !h.other.out {
			if !h.in {
				h.release()
			}
			return true
		}
		if left <= 0 {
			if !h.again {
				h.again = true
				p.r.l.Again(h)
			}
			return true
		}
		n, errno := h.read()
		left -= n + 256
		if errno != 0 {
			p.abort()
			return false
		}
	}
}

// read takes one piece of what h says: into pipe or pend, or straight to the
// other.
func (h *half) read() (int, syscall.Errno) {
	r := h.p.r
	if h.quick && h.pipe == nil {
		if h.pipe = r.pipe(); h.pipe == nil {
			h.quick = false
		}
	}
	if h.quick {
		n, errno := sock.Splice(h.fd, h.pipe.w, h.pipe.size)
		switch {
		case errno == syscall.EAGAIN:
			h.in = false
			return 0, 0
		case errno != 0:
			return 0, errno
		case n == 0:
			h.eof = true
			return 0, 0
		}
		h.pipe.n = n
		h.quick = n >= slow
		return n, 0
	}
	buf := r.buffer()
	n, errno := sock.Read(h.fd, buf)
	switch {
	case errno == syscall.EAGAIN:
		h.in = false
		return 0, 0
	case errno != 0:
		return 0, errno
	case n == 0:
		h.eof = true
		return 0, 0
	case n == len(buf):
		h.quick = r.l.Now().After(r.noPipes)
	case !h.last: // less than was asked for: there is no more
		h.in = false
	}
	w, errno := sock.Write(h.other.fd, buf[:n])
	if errno == syscall.EAGAIN {
		w, errno = 0, 0
	}
	if errno != 0 {
		return n, errno
	}
	if w < n {
		h.whole = r.keep(buf[w:n])
		h.pend = h.whole
		h.other.out = w > 0 // what is left is tried once more, which says for sure
	}
	return n, 0
}

// flush writes what h said before. It reports whether nothing is left; the pair
// may be gone if not.
func (h *half) flush() bool {
	for len(h.pend) > 0 {
		n, errno := sock.Write(h.other.fd, h.pend)
		if errno == syscall.EAGAIN {
			h.other.out = false
			return false
		}
		if errno != 0 {
			h.p.abort()
			return false
		}
		h.pend = h.pend[n:]
	}
	if h.whole != nil {
		h.p.r.give(h.whole)
		h.pend, h.whole = nil, nil
	}
	for h.pipe != nil && h.pipe.n > 0 {
		n, errno := sock.Splice(h.pipe.r, h.other.fd, h.pipe.n)
		if errno == syscall.EAGAIN {
			h.other.out = false
			return false
		}
		if errno != 0 {
			h.p.abort()
			return false
		}
		h.pipe.n -= n
	}
	if !h.quick {
		h.release()
	}
	return true
}

// release gives an empty pipe back.
func (h *half) release() {
	if h.pipe != nil && h.pipe.n == 0 {
		h.p.r.pipes = append(h.p.r.pipes, h.pipe)
		h.pipe = nil
		h.p.r.every() // closes those that nobody takes again
	}
}

// pipe returns an empty pipe, or nil: a user has 64 MB of them, and small ones
// are slower than copying.
func (r *Relay) pipe() *pipe {
	if n := len(r.pipes); n > 0 {
		p := r.pipes[n-1]
		r.pipes = r.pipes[:n-1]
		return p
	}
	if r.npipes >= maxPipes || r.l.Now().Before(r.noPipes) {
		return nil
	}
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		r.noPipes = r.l.Now().Add(time.Second)
		return nil
	}
	p := &pipe{r: fd[0], w: fd[1]}
	const setPipeSize = 1031 // F_SETPIPE_SZ
	for _, size := range []int{bigPipe, smallPipe} {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(p.w), setPipeSize, uintptr(size)); errno == 0 {
			p.size = size
			r.npipes++
			return p
		}
	}
	p.close()
	r.noPipes = r.l.Now().Add(time.Second)
	return nil
}

// ForbidPipes makes the relay copy, as it does where the host has no more room for
// pipes.
func (r *Relay) ForbidPipes() { r.noPipes = r.l.Now().Add(24 * time.Hour) }
