package events

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
)

// ReadOptions say what to read.
type ReadOptions struct {
	Since  time.Time // the zero value: from now on
	Until  time.Time // the zero value: for ever
	Follow bool      // wait for what is still to happen, until Until
}

// Read calls emit with each event, oldest first. It returns emit's first error,
// and ctx's when that ends it.
func (l Log) Read(ctx context.Context, o ReadOptions, emit func(Event) error) error {
	r := &reader{log: l, o: o, emit: emit}
	defer func() { closeAll(r.files) }()
	if !o.Follow {
		return r.catchUp(ctx)
	}
	if !o.Until.IsZero() {
		limited, cancel := context.WithDeadline(ctx, o.Until)
		defer cancel()
		ctx = limited
	}
	err := r.follow(ctx)
	if !o.Until.IsZero() && errors.Is(err, context.DeadlineExceeded) {
		return r.catchUp(context.WithoutCancel(ctx)) // what was written in the last moment
	}
	return err
}

// follow reads what is there and what comes, until ctx ends.
func (r *reader) follow(ctx context.Context) error {
	dir := filepath.Dir(r.log.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	w, err := watch(dir) // before the first look, so that nothing falls between
	if err != nil {
		return err
	}
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { _ = w.SetReadDeadline(time.Unix(1, 0)) }) // inotify can
	defer stop()
	if r.o.Since.IsZero() {
		r.o.Since = time.Now()
		if err := r.skip(); err != nil {
			return err
		}
	}
	buf := make([]byte, 4<<10)
	for {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		// A file system that tells nothing (inotify knows only what this kernel did)
		// is looked at every two seconds.
		if err := w.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := w.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// watch returns a descriptor that is readable when something changes in dir.
func watch(dir string) (*os.File, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := syscall.InotifyAddWatch(fd, dir, syscall.IN_MODIFY|syscall.IN_CREATE|syscall.IN_MOVED_TO); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}, f.Close())
	}
	return f, nil
}

// reader is where Read is.
type reader struct {
	log   Log
	o     ReadOptions
	emit  func(Event) error
	files []*file // being read, oldest first; the last is the current one
	gone  int     // how many of them have been removed
	past  bool    // an event behind Until was seen
}

// file is one of the log's files.
type file struct {
	f    *os.File
	at   int64
	part []byte // a line whose end has not been read
}

func closeAll(files []*file) {
	for _, f := range files {
		_ = f.f.Close() // only read
	}
}

// open adds the files that are not being read yet. The newest is opened first: a
// rotation meanwhile makes a file appear twice, never vanish.
func (r *reader) open() error {
	var found []*file
	named := 0
	for i := range maxFiles {
		f, err := os.OpenFile(jsonfile.Rotated(r.log.Path, i), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(found)
			return err
		}
		if have(found, f) {
			_ = f.Close() // only opened
			continue
		}
		named++
		if have(r.files, f) {
			_ = f.Close() // only opened
			continue
		}
		found = append(found, &file{f: f})
	}
	slices.Reverse(found)
	r.files = append(r.files, found...)
	r.gone = len(r.files) - named
	return nil
}

func have(files []*file, f *os.File) bool {
	st, err := f.Stat()
	if err != nil {
		return true
	}
	for _, h := range files {
		if other, err := h.f.Stat(); err == nil && os.SameFile(st, other) {
			return true
		}
	}
	return false
}

// skip goes to the end of what is there.
func (r *reader) skip() error {
	if err := r.open(); err != nil {
		return err
	}
	for _, f := range r.files {
		st, err := f.f.Stat()
		if err != nil {
			return err
		}
		f.at = st.Size()
	}
	return nil
}

// catchUp emits what has been added.
func (r *reader) catchUp(ctx context.Context) error {
	if err := r.open(); err != nil {
		return err
	}
	for _, f := range r.files {
		if err := r.drain(ctx, f); err != nil || r.past {
			return err
		}
	}
	if r.gone > 0 { // the oldest have no name any more
		closeAll(r.files[:r.gone])
		r.files = slices.Delete(r.files, 0, r.gone)
	}
	return nil
}

func (r *reader) drain(ctx context.Context, f *file) error {
	buf := make([]byte, 64<<10)
	for !r.past {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := f.f.ReadAt(buf, f.at)
		f.at += int64(n)
		if e := r.lines(f, buf[:n]); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) lines(f *file, p []byte) error {
	for !r.past {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			f.part = append(f.part, p...)
			return nil
		}
		f.part = append(f.part, p[:i]...)
		e, ok := parse(f.part)
		f.part, p = f.part[:0], p[i+1:]
		if !ok || e.Time.Before(r.o.Since) {
			continue
		}
		if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
			r.past = true
			return nil
		}
		if err := r.emit(e); err != nil {
			return err
		}
	}
	return nil
}
