// Package jsonfile writes a container's log in the format of Docker's json-file
// driver: one JSON object for each line, rotated by size. It belongs to the
// monitor, so it imports next to nothing.
package jsonfile

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

// maxLine is the longest piece of output in one entry. A longer line becomes
// several; only the last ends in a newline.
const maxLine = 16 << 10

// flushAt is how much encoded text is collected before it is written.
const flushAt = 32 << 10

// Options describe a log.
type Options struct {
	Path    string // empty: no file, only Also
	MaxSize int64  // bytes after which the file is rotated; ≤ 0: never
	MaxFile int    // files in all; ≤ 1: the file is emptied instead of renamed
	Attrs   string // a JSON object for each entry; may be empty
	// Also is given each entry, if it is not nil: its text without the newline, and
	// whether there was one.
	Also func(text []byte, stream string, now time.Time, ended bool)
	// Compress, if it is not nil, begins to compress a rotated file, from in to out,
	// which are closed when it returns. CompressEnded is to be called at the end.
	Compress func(in, out int) error
}

// Writer is an open log. A write that fails loses its lines and nothing else:
// a full disk stops the log, never the container, and the log goes on once there
// is room again.
type Writer struct {
	o       Options
	fd      int   // -1: could not be opened again
	size    int64 // of the file
	out     []byte
	clock   clock
	checked int64 // the second in which the file was last looked at
	packing int   // the rotated file that is being compressed; -1: none
	Lost    int   // writes that failed
}

// Open opens the log for appending, or makes it.
func Open(o Options) (*Writer, error) {
	w := &Writer{o: o, fd: -1, packing: -1}
	if o.Path == "" {
		return w, nil
	}
	if o.Compress != nil {
		_ = syscall.Unlink(w.draft()) // of a writer that was killed; usually none
	}
	if err := w.open(0); err != nil {
		return nil, &os.PathError{Op: "open", Path: o.Path, Err: err}
	}
	return w, nil
}

func (w *Writer) open(flags int) error {
	fd, err := retry(func() (int, error) {
		return syscall.Open(w.o.Path, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|flags, 0o640)
	})
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		_ = syscall.Close(fd) // nothing was written
		return err
	}
	w.fd, w.size = fd, st.Size
	return nil
}

// Close closes the file. Every Stream must have been ended.
func (w *Writer) Close() {
	w.flush()
	w.CompressEnded(false)
	if w.fd >= 0 {
		_ = syscall.Close(w.fd) // each write has been checked
		w.fd = -1
	}
}

// Sync makes the log durable.
func (w *Writer) Sync() error {
	if w.fd < 0 {
		return nil
	}
	return syscall.Fdatasync(w.fd)
}

// Stream is one of the streams that share a log.
type Stream struct {
	w    *Writer
	name string
	held []byte // an incomplete line
}

// Stream returns the stream called name: "stdout" or "stderr".
func (w *Writer) Stream(name string) *Stream { return &Stream{w: w, name: name} }

// Write takes output that arrived at now. An incomplete line is kept until the
// rest of it arrives.
func (s *Stream) Write(p []byte, now time.Time) {
	s.w.look(now)
	for len(p) > 0 {
		i := index(p)
		if i < 0 {
			s.hold(p, now)
			break
		}
		line := p[:i]
		if len(s.held) > 0 {
			s.hold(line, now)
			line = s.held
		}
		s.lines(line, now)
		s.held = s.held[:0]
		p = p[i+1:]
	}
	s.w.flush()
}

// End writes what is left of a last line that no newline ended.
func (s *Stream) End(now time.Time) {
	if len(s.held) > 0 {
		s.w.entry(s.held, s.name, now, false)
		s.w.flush()
	}
	s.held = nil
}

// hold keeps p, and gives away what makes the line too long.
func (s *Stream) hold(p []byte, now time.Time) {
	for len(s.held)+len(p) > maxLine {
		n := maxLine + 1 - len(s.held) // one more, to see where the cut may be
		s.held = append(s.held, p[:n]...)
		p = p[n:]
		at := cut(s.held, maxLine)
		s.w.entry(s.held[:at], s.name, now, false)
		s.held = append(s.held[:0], s.held[at:]...)
	}
	s.held = append(s.held, p...)
}

// lines writes a whole line, in pieces if it is too long.
func (s *Stream) lines(line []byte, now time.Time) {
	for len(line) > maxLine {
		at := cut(line, maxLine)
		s.w.entry(line[:at], s.name, now, false)
		line = line[at:]
	}
	s.w.entry(line, s.name, now, true)
}

// index returns where the first newline of p is; -1 if there is none.
func index(p []byte) int {
	for i, c := range p {
		if c == '\n' {
			return i
		}
	}
	return -1
}

// entry appends one entry to what is to be written.
func (w *Writer) entry(text []byte, stream string, now time.Time, ended bool) {
	if w.o.Also != nil {
		w.o.Also(text, stream, now, ended)
	}
	if w.o.Path == "" {
		return
	}
	if w.o.MaxSize > 0 && w.size+int64(len(w.out)) >= w.o.MaxSize || len(w.out) >= flushAt {
		w.flush()
		if w.o.MaxSize > 0 && w.size >= w.o.MaxSize {
			w.rotate()
		}
	}
	b := append(w.out, `{"log":"`...)
	b = AppendString(b, text)
	if ended {
		b = append(b, `\n`...)
	}
	b = append(b, `","stream":"`...)
	b = append(b, stream...)
	b = append(b, '"')
	if w.o.Attrs != "" {
		b = append(b, `,"attrs":`...)
		b = append(b, w.o.Attrs...)
	}
	b = append(b, `,"time":"`...)
	b = w.clock.append(b, now)
	w.out = append(b, '"', '}', '\n')
}

// flush writes the collected entries. If not all fit, none is left in the file,
// so that it never holds half a line.
func (w *Writer) flush() {
	b := w.out
	w.out = w.out[:0]
	if len(b) == 0 {
		return
	}
	if w.fd < 0 {
		w.Lost++
		return
	}
	for rest := b; len(rest) > 0; {
		n, err := retry(func() (int, error) { return syscall.Write(w.fd, rest) })
		if err != nil || n == 0 {
			w.Lost++
			_ = syscall.Ftruncate(w.fd, w.size) // the best that can be done; readers skip a torn line
			return
		}
		rest = rest[n:]
	}
	w.size += int64(len(b))
}

// rotate renames the files to .1, .2 and so on, or empties the only one. If it
// cannot, the log goes on in the old file.
func (w *Writer) rotate() {
	if w.o.MaxFile <= 1 {
		if syscall.Ftruncate(w.fd, 0) == nil {
			w.size = 0
		}
		return
	}
	// A file that is not there yet is the usual error of these; any other shows at
	// the last rename at the latest.
	if w.o.Compress != nil {
		_ = syscall.Unlink(Rotated(w.o.Path, w.o.MaxFile-1))
		_ = syscall.Unlink(Compressed(w.o.Path, w.o.MaxFile-1))
	}
	for i := w.o.MaxFile - 1; i > 1; i-- {
		_ = syscall.Rename(Rotated(w.o.Path, i-1), Rotated(w.o.Path, i))
		if w.o.Compress != nil {
			_ = syscall.Rename(Compressed(w.o.Path, i-1), Compressed(w.o.Path, i))
		}
	}
	if syscall.Rename(w.o.Path, Rotated(w.o.Path, 1)) != nil {
		return
	}
	w.reopen()
	w.compress()
}

// Rotated returns the name of the log at path after i rotations.
func Rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// Compressed returns the name of that file once it is compressed.
func Compressed(path string, i int) string { return Rotated(path, i) + ".gz" }

// look notices, once a second, that somebody emptied, removed or renamed the
// file, and goes on with one that is at its place.
func (w *Writer) look(now time.Time) {
	if now.Unix() == w.checked || w.o.Path == "" {
		return
	}
	w.checked = now.Unix()
	var st, at syscall.Stat_t
	if w.fd < 0 {
		w.reopen()
		return
	}
	if syscall.Fstat(w.fd, &st) != nil {
		return
	}
	if syscall.Stat(w.o.Path, &at) != nil || at.Ino != st.Ino || at.Dev != st.Dev {
		w.reopen()
		return
	}
	w.size = st.Size
}

// reopen opens the file at path anew; if that fails, the old one stays.
func (w *Writer) reopen() {
	old := w.fd
	if w.open(0) == nil && old >= 0 {
		_ = syscall.Close(old) // each write has been checked
	}
}

// retry repeats a system call that a signal interrupted.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return n, err
		}
	}
}
