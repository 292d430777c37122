package transfer

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// spliceFrom is the size from which on splice is worth its two calls.
const spliceFrom = 64 << 10

// pipeOf returns v if it is a pipe; nil otherwise.
func pipeOf(v any) *os.File {
	f, ok := v.(*os.File)
	if !ok {
		return nil
	}
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		return nil
	}
	return f
}

// splice moves up to n bytes from one file to another, of which one is a pipe,
// and returns how many it moved. It stops early, without an error, where from
// ends or a file system does not support it.
func splice(to, from *os.File, n int64) (moved int64, err error) {
	in, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	out, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	for moved < n {
		k, err := spliceOnce(out, in, int(min(n-moved, 1<<30)), pipeOf(to) != nil)
		moved += k
		switch {
		case err == nil && k == 0, errors.Is(err, unix.EINVAL):
			return moved, nil
		case err != nil:
			return moved, os.NewSyscallError("splice", err)
		}
	}
	return moved, nil
}

// conn is a descriptor that the runtime waits for.
type conn interface {
	Read(f func(fd uintptr) bool) error
	Write(f func(fd uintptr) bool) error
}

// spliceOnce waits on the pipe's side: the other is a file.
func spliceOnce(out, in conn, n int, outIsPipe bool) (moved int64, err error) {
	var fdIn, fdOut uintptr
	try := func() bool {
		moved, err = unix.Splice(int(fdIn), nil, int(fdOut), nil, n, unix.SPLICE_F_MOVE)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	}
	var werr error
	if outIsPipe {
		werr = errors.Join(in.Read(func(fd uintptr) bool { fdIn = fd; return true }), out.Write(func(fd uintptr) bool { fdOut = fd; return try() }))
	} else {
		werr = errors.Join(out.Write(func(fd uintptr) bool { fdOut = fd; return true }), in.Read(func(fd uintptr) bool { fdIn = fd; return try() }))
	}
	if werr != nil {
		return 0, werr
	}
	return max(moved, 0), err
}

// receive writes the n bytes that follow in src to f: what is buffered, and then
// the rest out of the pipe.
func (u *unpacker) receive(f *os.File, n int64) error {
	k, err := io.CopyN(onlyWriter{f}, u.src, min(n, int64(u.src.Buffered())))
	if err != nil {
		return err
	}
	m, err := splice(f, u.pipe, n-k)
	u.in.n += m
	if err != nil {
		return err
	}
	if rest := n - k - m; rest > 0 {
		if _, err := io.CopyN(onlyWriter{f}, u.src, rest); err != nil {
			return err
		}
	}
	_, err = io.CopyN(io.Discard, u.src, (-n)&511)
	return err
}
