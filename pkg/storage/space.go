package storage

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

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

// The reserve is files whose only use is to be removed: on a file system without any
// room, or inodes, a removal that must first write its records would else be impossible.
const (
	reserveSize  = 4 << 20
	reserveFiles = 32
)

func (s *Store) reservePath() string { return filepath.Join(s.stateDir(), "reserve") }

// keepReserve makes the reserve if as much is left then.
func (s *Store) keepReserve() {
	if have, err := os.ReadDir(s.reservePath()); err == nil && len(have) == reserveFiles {
		return
	}
	if size, files := s.free(); size < 2*reserveSize || files < 2*reserveFiles {
		return
	}
	s.dropReserve() // one that is not whole, or of an earlier cais
	err := os.Mkdir(s.reservePath(), 0o700)
	for i := 0; err == nil && i < reserveFiles; i++ {
		err = reserveFile(filepath.Join(s.reservePath(), strconv.Itoa(i)))
	}
	if err != nil {
		s.dropReserve() // none is no error
	}
}

func reserveFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveSize/reserveFiles), f.Close())
}

// spendReserve gives the reserve up if the disk is full.
func (s *Store) spendReserve() {
	if size, files := s.free(); size < reserveSize/2 || files < reserveFiles/2 {
		s.dropReserve()
	}
}

func (s *Store) dropReserve() { _ = os.RemoveAll(s.reservePath()) } // none is fine

// free returns the bytes and the inodes that are left.
func (s *Store) free() (size, files int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.GraphRoot, &st); err != nil {
		return 0, 0
	}
	if files = int64(st.Ffree); st.Files == 0 { // it makes them as they are needed
		files = math.MaxInt64
	}
	return int64(st.Bavail) * st.Bsize, files
}
