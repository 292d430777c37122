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

// splice moves up to n bytes out of pipe into file, or with into the other way,
// and returns how many it moved. It stops early, without an error, where there are
// no more or a file system does not support it.
func splice(pipe *os.File, file rawFile, n int64, into bool) (moved int64, err error) {
	c, err := pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	wait := c.Read
	if into {
		wait = c.Write
	}
	for moved < n {
		var k int
		var failed error
		err := wait(func(fd uintptr) bool { // only the pipe can make us wait
			from, to := int(fd), int(file)
			if into {
				from, to = to, from
			}
			k, failed = again(func() (int, error) {
				k, err := unix.Splice(from, nil, to, nil, int(min(n-moved, 1<<30)), unix.SPLICE_F_MOVE)
				return int(k), err
			})
			return !errors.Is(failed, unix.EAGAIN)
		})
		moved += int64(k)
		switch {
		case err != nil:
			return moved, err
		case failed == nil && k == 0, errors.Is(failed, unix.EINVAL):
			return moved, nil
		case failed != nil:
			return moved, os.NewSyscallError("splice", failed)
		}
	}
	return moved, nil
}

// receive writes the n bytes that follow in src to f: what is buffered, and then
// the rest out of the pipe.
func (u *unpacker) receive(f rawFile, n int64) error {
	k, err := io.CopyN(f, u.src, min(n, int64(u.src.Buffered())))
	if err != nil {
		return err
	}
	m, err := splice(u.pipe, f, n-k, false)
	u.in.n += m
	if err != nil {
		return err
	}
	if rest := n - k - m; rest > 0 {
		if _, err := io.CopyN(f, u.src, rest); err != nil {
			return err
		}
	}
	_, err = io.CopyN(io.Discard, u.src, (-n)&511)
	return err
}
