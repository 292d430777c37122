// Package logs reads what a container's monitor has logged. It needs no monitor
// and no store: the files are enough, also while they grow and are rotated. The
// monitor's side, which writes them, is package jsonfile below it.
package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"cais.dev/cais/pkg/lock"
)

// Options say what to read.
type Options struct {
	Path string // of the current file; rotated ones are beside it
	// Alive is the file that the container's monitor holds locked. Following ends
	// when it is free.
	Alive  string
	Follow bool
	Since  time.Time // the zero value: from the beginning
	Until  time.Time // the zero value: to the end
	Tail   int       // how many entries to begin with; negative: all

	CaughtUp func() error // if set: called when all that is there has been emitted, before more is waited for
}

// Read calls emit with each entry, oldest first. It returns emit's first error,
// and ctx's when that ends it. A log that does not exist is empty.
func Read(ctx context.Context, o Options, emit func(Entry) error) error {
	r := &reader{o: o, emit: emit}
	defer r.close()
	if !o.Follow {
		return r.snapshot(ctx)
	}
	w, err := newWatch(ctx, o.Path, o.Alive) // before the first look, so that nothing falls between
	if err != nil {
		return err
	}
	defer w.close()
	if err := r.snapshot(ctx); err != nil {
		return err
	}
	if o.CaughtUp == nil {
		o.CaughtUp = func() error { return nil }
	}
	for !r.past {
		alive, err := lock.Held(o.Alive) // before the last look: a monitor logs, then it dies
		if err != nil {
			return err
		}
		if err := r.catchUp(ctx); err != nil || !alive {
			return err
		}
		if r.past {
			break
		}
		if err := o.CaughtUp(); err != nil {
			return err
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// reader is where Read is.
type reader struct {
	o    Options
	emit func(Entry) error
	f    *file  // being read; nil: none yet
	at   int64  // how much of f has been read
	part []byte // a line whose end has not been read
	buf  []byte
	text []byte
	p    parser
	past bool // an entry behind Until was seen
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close() // only read
		r.f = nil
	}
}

// snapshot reads what is there now.
func (r *reader) snapshot(ctx context.Context) error {
	files, err := open(r.o.Path)
	if err != nil {
		return err
	}
	first, offset := len(files)-1, int64(0)
	if r.o.Tail >= 0 {
		if first, offset, err = tail(files, r.o.Tail); err != nil {
			closeAll(files)
			return err
		}
	}
	for i := first; i >= 0; i-- {
		if i != first {
			offset = 0
		}
		if i > 0 && r.skip(files[i]) {
			continue
		}
		r.f, r.at, r.part = files[i], offset, nil
		if err := r.drain(ctx); err != nil {
			r.f = nil
			closeAll(files)
			return err
		}
	}
	r.f = nil
	if len(files) > 0 {
		closeAll(files[1:])
		r.f = files[0] // the one to follow
		if first < 0 {
			r.at = offset
		}
	}
	return nil
}

// skip reports whether f was last written before Since. The kernel's time of a
// write is that of the last tick, up to 10 ms before what the entry says.
func (r *reader) skip(f *file) bool {
	st, err := f.Stat()
	return err == nil && !r.o.Since.IsZero() && st.ModTime().Add(time.Second).Before(r.o.Since)
}

// tail finds where the last n entries of files, newest first, begin: in which
// file, and at which offset. With n = 0 the file is -1, the offset the end of the
// newest.
func tail(files []*file, n int) (file int, offset int64, err error) {
	if len(files) == 0 {
		return -1, 0, nil
	}
	if n == 0 {
		end, err := lastLine(files[0])
		return -1, end, err
	}
	for i, f := range files {
		at, found, err := back(f, n)
		if err != nil || found == n {
			return i, at, err
		}
		n -= found
	}
	return len(files) - 1, 0, nil
}

// lastLine returns where the last complete line of f ends.
func lastLine(f *file) (int64, error) {
	end := int64(0)
	err := backwards(f.File, func(at int64, chunk []byte) bool {
		if i := bytes.LastIndexByte(chunk, '\n'); i >= 0 {
			end = at + int64(i) + 1
			return false
		}
		return true
	})
	return end, err
}

// back returns where the last n complete lines of f begin, or where f does, and
// how many lines there are from there on.
func back(f *file, n int) (offset int64, found int, err error) {
	if f.packed {
		return f.back(n)
	}
	ends := 0
	err = backwards(f.File, func(at int64, chunk []byte) bool {
		for i := len(chunk) - 1; i >= 0; i-- {
			if chunk[i] != '\n' {
				continue
			}
			if ends++; ends == n+1 { // the end of the line before the first one wanted
				offset = at + int64(i) + 1
				return false
			}
		}
		return true
	})
	return offset, min(ends, n), err
}

// backwards calls f with the file's pieces, the last one first, until f has enough.
func backwards(file *os.File, f func(at int64, chunk []byte) bool) error {
	st, err := file.Stat()
	if err != nil {
		return err
	}
	const size = 64 << 10
	buf := make([]byte, size)
	for end := st.Size(); end > 0; {
		at := max(0, end-size)
		n, err := file.ReadAt(buf[:end-at], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !f(at, buf[:n]) {
			return nil
		}
		end = at
	}
	return nil
}

// maxEntry is the longest line that is taken for an entry: one of 16 kB of text,
// each byte escaped, takes 96 kB.
const maxEntry = 4 << 20

// drain reads the file from where it is to its present end.
func (r *reader) drain(ctx context.Context) error {
	if r.buf == nil {
		r.buf = make([]byte, 256<<10)
	}
	for !r.past {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.f.readAt(r.buf, r.at)
		r.at += int64(n)
		if e := r.lines(r.buf[:n]); e != nil {
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

// lines emits the lines that end in p, and keeps the rest.
func (r *reader) lines(p []byte) error {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if len(r.part)+len(p) > maxEntry {
				r.part = r.part[:0] // not ours: what is left of it is no entry either
				return nil
			}
			r.part = append(r.part, p...)
			return nil
		}
		line := p[:i]
		if len(r.part) > 0 {
			r.part = append(r.part, line...)
			line = r.part
		}
		err := r.line(line)
		r.part, p = r.part[:0], p[i+1:]
		if err != nil || r.past {
			return err
		}
	}
}

// line emits one line, if it is one and is wanted.
func (r *reader) line(line []byte) error {
	e, ok := r.p.parse(line, r.text[:0])
	if !ok || !r.o.Since.IsZero() && e.Time.Before(r.o.Since) {
		return nil
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		r.past = true
		return nil
	}
	r.text = e.Text
	return r.emit(e)
}

// catchUp reads what has been added, in this file and in those that followed it.
func (r *reader) catchUp(ctx context.Context) error {
	for {
		if r.f == nil {
			f, err := openPlain(r.o.Path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			r.f, r.at, r.part = f, 0, nil
		}
		// Whether there is a newer file is asked first: then all of this one is there.
		next, err := r.next()
		if err != nil {
			return err
		}
		if st, err := r.f.Stat(); err == nil && st.Size() < r.at && !r.f.packed {
			r.at, r.part = 0, nil // emptied
		}
		if err := r.drain(ctx); err != nil || next == nil {
			return err
		}
		_ = r.f.Close() // only read
		r.f, r.at, r.part = next, 0, nil
	}
}

// next opens the file that follows the one being read; nil if that is the
// current one.
func (r *reader) next() (*file, error) {
	files, err := open(r.o.Path)
	if err != nil || len(files) == 0 || same(files[0], r.f) {
		closeAll(files)
		return nil, err
	}
	// If the file is gone altogether, the oldest that is left follows it.
	take := len(files) - 1
	for i, f := range files {
		if same(f, r.f) {
			take = i - 1
			break
		}
	}
	next := files[take]
	files[take] = nil
	for _, f := range files {
		if f != nil {
			_ = f.Close() // only opened
		}
	}
	return next, nil
}
