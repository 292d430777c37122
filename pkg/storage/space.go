package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
)

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoom is also for a removal that failed: it has to write down what it is about
// to do, and containers go without.
const makeRoom = "Make room on it: remove containers first ('cais rm'), which needs none, then images ('cais image prune', 'cais rmi')."

// explain adds what the store knows to an error of the library or the kernel.
func (s *Store) explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EDQUOT):
		err = errs.E(op, errs.Unavailable, fmt.Errorf("the disk quota on %s is used up: %w", mountOf(s.o.GraphRoot), err))
		return errs.WithHint(err, makeRoom)
	case noSpace(err):
		err = errs.E(op, errs.Unavailable, fmt.Errorf("%s: %w", fullText(s.o.GraphRoot), err))
		return errs.WithHint(err, makeRoom)
	case errors.Is(err, unix.EROFS):
		return errs.E(op, errs.Denied, fmt.Errorf("%s is read-only: %w", mountOf(s.o.GraphRoot), err))
	}
	return errs.E(op, errs.KindOf(err), err)
}

// fullText says what is left where, and of what.
func fullText(dir string) string {
	var st unix.Statfs_t
	where := "file system " + mountOf(dir)
	if err := unix.Statfs(dir, &st); err != nil {
		return where + " is full"
	}
	if st.Files > 0 && st.Ffree < 16 {
		return where + " has no inodes left"
	}
	return fmt.Sprintf("%s is full: %.1f MB free, cais needs what the image unpacks to and 4 MB", where, float64(st.Bavail)*float64(st.Bsize)/1e6)
}

// mountOf returns the directory at which dir's file system begins.
func mountOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return dir
	}
	for dir != "/" {
		var up unix.Stat_t
		if err := unix.Stat(filepath.Dir(dir), &up); err != nil || up.Dev != st.Dev {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// reserve is a file whose only use is to be removed: on a full disk, a removal
// that must first write its records would else be impossible.
const reserveSize = 4 << 20

func (s *Store) reservePath() string { return filepath.Join(s.stateDir(), "reserve") }

// keepReserve makes the reserve if there is plenty of room for it.
func (s *Store) keepReserve() {
	if _, err := os.Stat(s.reservePath()); err == nil || s.free() < 16*reserveSize {
		return
	}
	f, err := os.OpenFile(s.reservePath(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return // no reserve is no error
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if errors.Join(err, f.Close()) != nil {
		_ = os.Remove(s.reservePath())
	}
}

// spendReserve gives the reserve up if the disk is full.
func (s *Store) spendReserve() {
	if s.free() < reserveSize/2 {
		_ = os.Remove(s.reservePath()) // none is fine
	}
}

func (s *Store) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.GraphRoot, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}
