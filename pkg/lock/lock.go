// Package lock takes flock(2) locks on files. Such a lock belongs to the open
// file: it goes when the last descriptor is closed, however its holder ends.
package lock

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"cais.dev/cais/pkg/sys"
)

// Lock is a held lock.
type Lock struct{ f *os.File }

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("lock is held by another process")

// Try takes the lock on the file at path, exclusively or shared, making the
// file if it is missing. It fails with ErrHeld instead of waiting.
func Try(path string, exclusive bool) (*Lock, error) {
	// Something else at its place, such as a FIFO, must not hold us up.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	if err := flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrHeld
		}
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	return &Lock{f}, nil
}

// Acquire is Try that waits until the lock is free or ctx ends. It polls, with
// pauses from 0.2 to 20 ms, because a blocking flock cannot be cancelled.
func Acquire(ctx context.Context, path string, exclusive bool) (*Lock, error) {
	pause := 200 * time.Microsecond
	for {
		l, err := Try(path, exclusive)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Temporary takes a lock exclusively whose file goes when it is released. waiting, if
// not nil, is called once if somebody else holds it.
func Temporary(ctx context.Context, path string, waiting func()) (release func(), err error) {
	for {
		l, err := Try(path, true)
		if errors.Is(err, ErrHeld) {
			if waiting != nil {
				waiting()
				waiting = nil
			}
			l, err = Acquire(ctx, path, true)
		}
		if err != nil {
			return nil, err
		}
		// The last holder removed the file: then the lock is on nothing.
		held, err1 := l.f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			return func() {
				_ = os.Remove(path)
				_ = l.Release()
			}, nil
		}
		_ = l.Release()
	}
}

// Held reports whether somebody holds the file at path exclusively. A file that
// does not exist is held by nobody. It takes nothing and waits for nothing.
func Held(path string) (bool, error) { return HeldAt(sys.Cwd, path) }

// HeldAt is Held of a path that begins in the directory at.
func HeldAt(at int, path string) (bool, error) {
	fd, err := sys.OpenAt(at, path, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	err = flock(fd, syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil || errors.Is(err, syscall.EWOULDBLOCK) {
		return err != nil, nil
	}
	return false, &os.PathError{Op: "flock", Path: path, Err: err}
}

// File returns the locked file, for passing the lock to a child.
func (l *Lock) File() *os.File { return l.f }

// Release gives the lock up.
func (l *Lock) Release() error { return l.f.Close() }

func flock(fd, how int) error {
	for {
		err := syscall.Flock(fd, how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
