package session

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
)

// Stream copies the streams until the process ends, the user detaches
// (ErrDetached) or ctx is cancelled; the last two leave the process running. An
// output that cannot be written is an error beside the exit, not instead of it.
func (s *Session) Stream(ctx context.Context, st Streams) (_ Exit, err error) {
	if st.Terminal != nil && s.tty {
		restore, e := sys.RawTerminal(int(st.Terminal.Fd()))
		if e != nil {
			return Exit{}, e
		}
		defer func() { err = errors.Join(err, restore()) }()
	}
	in, err := newInput(s, st)
	if err != nil {
		return Exit{}, err
	}
	defer in.stop()
	stop := context.AfterFunc(ctx, s.interrupt)
	defer stop()
	x, err := s.follow(ctx, st)
	switch {
	case err == nil || !errors.Is(err, os.ErrDeadlineExceeded):
		return x, err
	case ctx.Err() != nil:
		return Exit{}, context.Cause(ctx)
	}
	return Exit{}, in.why()
}

// interrupt ends a read that waits, and every later one.
func (s *Session) interrupt() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) } // a socket: it can

// follow hands on what the monitor sends.
func (s *Session) follow(ctx context.Context, st Streams) (Exit, error) {
	var failed error
	write := func(w io.Writer, p []byte) {
		if w == nil || failed != nil {
			return
		}
		_, failed = w.Write(p)
	}
	for {
		packet, err := s.read()
		if errors.Is(err, io.EOF) {
			x, err := s.lost(ctx)
			return x, errors.Join(failed, err)
		}
		if err != nil {
			return Exit{}, err
		}
		switch wire.KindOf(packet) {
		case wire.Stdout:
			write(st.Out, packet[1:])
		case wire.Stderr:
			write(st.Err, packet[1:])
		case wire.KindExited:
			var e wire.Exited
			err := wire.Unmarshal(packet, &e)
			return Exit{Code: e.Code, OOMKilled: e.OOMKilled, Cleanup: e.Cleanup, Restarts: e.Restarts}, errors.Join(failed, err)
		}
		if errors.Is(failed, syscall.EPIPE) { // the reader has enough, and the process may never end: run … yes | head -1
			return Exit{}, failed
		}
	}
}

// input is what goes to the process while a stream is followed: bytes, sizes,
// signals.
type input struct {
	s      *Session
	cancel *os.File // its peer is closed to end the goroutines that wait for a descriptor
	peer   *os.File
	done   chan struct{}
	wg     sync.WaitGroup
	only   bool // nothing comes back: the end of what goes in ends the session

	mu  sync.Mutex
	err error // why the user's side ended the session
}

func newInput(s *Session, st Streams) (*input, error) {
	in := &input{s: s, done: make(chan struct{}), only: st.Out == nil && st.Err == nil}
	if st.In != nil && s.stdin {
		var err error
		if in.cancel, in.peer, err = os.Pipe(); err != nil {
			return nil, err
		}
		d := &detacher{}
		if s.tty {
			d.keys = st.DetachKeys
		}
		if f, ok := st.In.(*os.File); ok {
			in.wg.Go(func() { in.copy(f, d, func() bool { return in.wait(f) }) })
		} else {
			// Nothing can interrupt its Read: the goroutine ends with the next one.
			go in.copy(st.In, d, func() bool { return true })
		}
	}
	if st.Terminal != nil && s.tty {
		sizes := make(chan os.Signal, 1)
		signal.Notify(sizes, syscall.SIGWINCH)
		in.wg.Go(func() {
			defer signal.Stop(sizes)
			in.sizes(st.Terminal, sizes)
		})
	}
	if st.Signals != nil {
		in.wg.Go(func() { in.signals(st.Signals) })
	}
	return in, nil
}

// stop ends what newInput began.
func (in *input) stop() {
	close(in.done)
	if in.peer != nil {
		_ = in.peer.Close() // nothing was written
	}
	in.wg.Wait()
	if in.cancel != nil {
		_ = in.cancel.Close() // nothing was written
	}
}

// why returns what the user's side ended the session with.
func (in *input) why() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

// end makes the user's side the end of the session.
func (in *input) end(err error) {
	in.mu.Lock()
	in.err = err
	in.mu.Unlock()
	in.s.interrupt()
}

// wait waits for f to be readable; false means that the session is over.
func (in *input) wait(f *os.File) bool {
	ok, err := sys.WaitReadable(int(f.Fd()), int(in.cancel.Fd()))
	return ok && err == nil
}

// copy sends what r has to the process, until the end or the detach keys.
func (in *input) copy(r io.Reader, d *detacher, wait func() bool) {
	packet := make([]byte, wire.MaxPacket)
	packet[0] = byte(wire.Stdin)
	for wait() {
		n, err := r.Read(packet[1:])
		out, detached := d.filter(packet[1 : 1+n])
		if err != nil && !detached {
			out = append(out, d.rest()...)
		}
		for len(out) > 0 {
			k := copy(packet[1:], out)
			if in.s.send(packet[:1+k], nil) != nil {
				return // the monitor is gone: the reading side finds out why
			}
			out = out[k:]
		}
		if detached {
			in.end(ErrDetached)
			return
		}
		if err != nil {
			_ = in.s.send([]byte{byte(wire.StdinEOF)}, nil) // as above
			if in.only {
				in.end(ErrDetached)
			}
			return
		}
	}
}

// sizes follows the size of the terminal.
func (in *input) sizes(terminal *os.File, changed <-chan os.Signal) {
	rows, cols, err := sys.WindowSize(int(terminal.Fd()))
	if err == nil && in.s.attached && rows > 0 {
		// What runs there has drawn for others: a change makes it draw again.
		_ = in.s.Resize(Size{rows + 1, cols + 1}) // the reading side finds out why
	}
	for {
		if rows, cols, err = sys.WindowSize(int(terminal.Fd())); err == nil {
			_ = in.s.Resize(Size{rows, cols}) // as above
		}
		select {
		case <-changed:
		case <-in.done:
			return
		}
	}
}

// signals passes signals on to the process.
func (in *input) signals(from <-chan os.Signal) {
	for {
		select {
		case sig, ok := <-from:
			if !ok {
				return
			}
			if n, ok := sig.(syscall.Signal); ok {
				_ = in.s.Signal(n) // the reading side finds out why
			}
		case <-in.done:
			return
		}
	}
}
