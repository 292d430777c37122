package storage

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
)

// lockFile is one of the store's lock files, as the library uses them: a POSIX
// record lock on the whole file, whose 64 bytes name the last write.
type lockFile struct {
	path string

	mu   sync.Mutex // keeps the goroutines of this process apart: the descriptor is one
	fd   int        // -1: not open
	dev  uint64
	ino  uint64
	rdwr bool

	writes uint64
}

// slowLock is how long a wait may last before it is told who is waited for.
const slowLock = 2 * time.Second

// lock takes the lock and returns what gives it up. If the file does not exist,
// a shared lock is taken on nothing and held is false: the caller finds no data
// either; an exclusive one makes the file, as the library does.
//
// It polls, because a blocking F_OFD_SETLKW cannot be cancelled.
func (l *lockFile) lock(ctx context.Context, exclusive bool, slow func(holder string)) (unlock func(), held bool, err error) {
	l.mu.Lock()
	defer func() {
		if !held {
			l.mu.Unlock()
		}
	}()
	start, told, pause := time.Now(), false, 100*time.Microsecond
	for {
		if err := l.open(exclusive); err != nil {
			if errors.Is(err, fs.ErrNotExist) && !exclusive {
				return func() {}, false, nil
			}
			return nil, false, err
		}
		lk := unix.Flock_t{Type: unix.F_RDLCK}
		if exclusive {
			lk.Type = unix.F_WRLCK
		}
		err := unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &lk)
		switch {
		case err == nil && l.current():
			return func() {
				_ = unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
				l.mu.Unlock()
			}, true, nil
		case err == nil: // the store was removed and made again: lock the new file
			_ = unix.Close(l.fd)
			l.fd = -1
			continue
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR):
			return nil, false, &os.PathError{Op: "lock", Path: l.path, Err: err}
		}
		if slow != nil && !told && time.Since(start) > slowLock {
			told = true
			slow(l.holder())
		}
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("wait for %s, held by %s: %w", l.path, l.holder(), context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Millisecond)
	}
}

func (l *lockFile) open(rdwr bool) error {
	if l.fd >= 0 && (l.rdwr || !rdwr) {
		return nil
	}
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if rdwr {
		flags = unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
		if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
			return err
		}
	}
	fd, err := unix.Open(l.path, flags, 0o644)
	if err != nil {
		err = &os.PathError{Op: "open", Path: l.path, Err: err}
		if errors.Is(err, fs.ErrPermission) {
			return errs.WithHint(errs.E("", errs.Denied, err), "The image store belongs to another user; was it made with sudo?")
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: l.path, Err: err}
	}
	// The descriptor that was open only for reading, if any, stays open: see
	// the package comment.
	l.fd, l.dev, l.ino, l.rdwr = fd, uint64(st.Dev), st.Ino, rdwr
	return nil
}

// current reports whether the open file is still the one that the path names.
func (l *lockFile) current() bool {
	var st unix.Stat_t
	return unix.Stat(l.path, &st) == nil && st.Ino == l.ino && uint64(st.Dev) == l.dev
}

// holder names the process in the way, as well as it can be told.
func (l *lockFile) holder() string {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_GETLK, &lk); err != nil || lk.Type == unix.F_UNLCK {
		return "another process"
	}
	if lk.Pid <= 0 { // an open file description lock has no owner
		return "another cais"
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", lk.Pid))
	if err != nil {
		return fmt.Sprintf("process %d", lk.Pid)
	}
	return fmt.Sprintf("process %d (%s)", lk.Pid, string(comm[:max(len(comm)-1, 0)]))
}

// touch says that the data is about to change; the exclusive lock must be held.
// It comes before the change: if we die between the two, others read the old
// data once more for nothing, while the other order would keep them from
// reading the new. The form is the library's: time, counter, process, random.
func (l *lockFile) touch() error {
	l.writes++ // no two tokens are equal
	var t [64]byte
	binary.LittleEndian.PutUint64(t[0:], uint64(time.Now().UnixNano()))
	binary.LittleEndian.PutUint64(t[8:], l.writes)
	binary.LittleEndian.PutUint32(t[16:], uint32(os.Getpid()))
	if _, err := rand.Read(t[20:]); err != nil {
		return err
	}
	n, err := unix.Pwrite(l.fd, t[:], 0)
	if err == nil && n != len(t) {
		err = syscall.ENOSPC
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: l.path, Err: err}
	}
	return nil
}

func (l *lockFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return nil
	}
	fd := l.fd
	l.fd = -1
	return unix.Close(fd)
}
