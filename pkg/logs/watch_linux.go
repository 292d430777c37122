package logs

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// watch waits for changes of a log and for the end of its container.
type watch struct {
	f    *os.File // inotify
	soon bool     // the lock is about to be free
	stop func() bool
}

const (
	// A close of the alive file is told a moment before its lock is given up.
	recheck = 5 * time.Millisecond
	// A file system that tells nothing (inotify knows only what this kernel did)
	// is looked at this often.
	atLeast = 2 * time.Second
)

// newWatch watches the directories of the log and of the lock.
func newWatch(ctx context.Context, log, alive string) (*watch, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{f: os.NewFile(uintptr(fd), "inotify")}
	const mask = syscall.IN_MODIFY | syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_CLOSE_WRITE | syscall.IN_DELETE_SELF
	for _, dir := range []string{filepath.Dir(log), filepath.Dir(alive)} {
		if _, err := syscall.InotifyAddWatch(fd, dir, mask); err != nil {
			_ = w.f.Close() // nothing is lost
			return nil, &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
		}
	}
	w.stop = context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) }) // inotify can
	return w, nil
}

func (w *watch) close() {
	w.stop()
	_ = w.f.Close() // nothing is lost
}

// wait returns when there may be something to see.
func (w *watch) wait(ctx context.Context) error {
	pause := atLeast
	if w.soon {
		pause, w.soon = recheck, false
	}
	if err := w.f.SetReadDeadline(time.Now().Add(pause)); err != nil {
		return err
	}
	if ctx.Err() != nil { // its deadline may have been overwritten
		return context.Cause(ctx)
	}
	var buf [4096]byte
	n, err := w.f.Read(buf[:])
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	for at := 0; at+syscall.SizeofInotifyEvent <= n; {
		mask, length := binary.NativeEndian.Uint32(buf[at+4:]), binary.NativeEndian.Uint32(buf[at+12:]) // inotify(7)
		if mask&syscall.IN_CLOSE_WRITE != 0 {
			w.soon = true
		}
		at += syscall.SizeofInotifyEvent + int(length)
	}
	return nil
}
