package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/sys"
)

// Sum returns the digest of what matches name: for each file its path below the
// match, type, permissions, size, contents, link target, device numbers and
// attributes, and its owner if owners is set. Times do not count. Files that the
// index knows are not read.
func (t *Tree) Sum(ctx context.Context, matches []Match, owners bool) (string, error) {
	if err := t.fill(ctx, matches); err != nil {
		return "", err
	}
	h := sha256.New()
	var buf []byte
	for i := range matches {
		m := &matches[i]
		buf = appendString(buf[:0], m.Name)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(m.Entries)))
		for j := range m.Parents {
			buf = appendEntry(buf, &m.Parents[j], owners)
		}
		h.Write(buf)
		for j := range m.Entries {
			buf = appendEntry(buf[:0], &m.Entries[j], owners)
			h.Write(buf)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendEntry(b []byte, e *Entry, owners bool) []byte {
	b = appendString(b, e.Rel)
	b = binary.LittleEndian.AppendUint32(b, e.Mode)
	if owners {
		b = binary.LittleEndian.AppendUint32(b, e.UID)
		b = binary.LittleEndian.AppendUint32(b, e.GID)
	}
	switch e.Type() {
	case unix.S_IFREG:
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Size))
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.LittleEndian.AppendUint64(b, e.Rdev)
	}
	return append(b, e.sum[:]...)
}

// fill sets the sums of all entries, from the index where it knows them.
func (t *Tree) fill(ctx context.Context, matches []Match) error {
	idx := t.known()
	t.mu.Lock()
	var dirty []job
	for i := range matches {
		m := &matches[i]
		for j := range m.Entries {
			e := &m.Entries[j]
			if e.done {
				continue
			}
			name := join(strings.TrimPrefix(m.Path, "."), e.Rel)
			if m.Path == "." {
				name = e.Rel
			} else if e.Rel == "" {
				name = m.Path
			}
			if r := idx.find(name, e); r != nil {
				e.sum, e.Link, e.done = r.sum, r.link, true
				continue
			}
			dirty = append(dirty, job{name, e})
		}
		if m.IsDir() {
			idx.walked(m.Path)
		}
	}
	t.mu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	if err := t.hash(ctx, dirty); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range dirty {
		idx.put(d.name, d.e)
	}
	return nil
}

type job struct {
	name string
	e    *Entry
}

// hash reads the files of jobs, several at a time: small ones cost system calls
// more than hashing.
func (t *Tree) hash(ctx context.Context, jobs []job) error {
	workers := min(max(runtime.GOMAXPROCS(0), 4), len(jobs))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	next := make(chan []job)
	for range workers {
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			for list := range next {
				for _, j := range list {
					if ctx.Err() != nil {
						break
					}
					if err := t.hashOne(ctx, j.name, j.e, buf); err != nil {
						cancel(err)
					}
				}
			}
		})
	}
	for list := range slices.Chunk(jobs, 64) {
		next <- list
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// hashOne sets e's sum. A file that changes meanwhile is looked at once more.
func (t *Tree) hashOne(ctx context.Context, name string, e *Entry, buf []byte) error {
	for try := 0; ; try++ {
		err := t.read(ctx, name, e, buf)
		if !errors.Is(err, errChanged) || try == 3 {
			return err
		}
		now, err := t.stat(name)
		if err != nil {
			return gone(name, err)
		}
		now.Rel = e.Rel
		*e = *now
	}
}

func (t *Tree) read(ctx context.Context, name string, e *Entry, buf []byte) error {
	h := sha256.New()
	flags := unix.O_PATH
	if e.IsRegular() {
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	fd, err := t.below(name, flags)
	if err != nil {
		return gone(name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := t.Same(f, e); err != nil {
		return err
	}
	switch e.Type() {
	case unix.S_IFREG:
		if err := copyTo(ctx, h, f, buf); err != nil {
			return &fs.PathError{Op: "read", Path: path.Join(t.root.Name(), name), Err: err}
		}
	case unix.S_IFLNK:
		target, _, err := readLink(fd)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		e.Link = target
		io.WriteString(h, target)
	}
	if e.Type() != unix.S_IFLNK {
		hashXattrs(h, fd)
	}
	if err := t.Same(f, e); err != nil {
		return err
	}
	h.Sum(e.sum[:0])
	e.done = true
	return nil
}

// copyTo reads f by descriptor: io.Copy would look for better ways for each of
// twenty thousand small files.
func copyTo(ctx context.Context, w io.Writer, f *os.File, buf []byte) error {
	for {
		n, err := f.Read(buf)
		w.Write(buf[:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// hashXattrs adds the attributes that a copy keeps.
func hashXattrs(w io.Writer, fd int) {
	attrs := Xattrs(fd)
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		w.Write(appendString(appendString(nil, name), string(attrs[name])))
	}
}

// Xattrs returns the attributes of a file that a copy keeps, as far as they may be
// read: capabilities, and what is not the system's own.
func Xattrs(fd int) map[string][]byte {
	attrs, _ := sys.Xattrs(fd, keptXattr) // what another may not read is not part of a context
	return attrs
}

func keptXattr(name string) bool {
	if name == "security.capability" {
		return true
	}
	for _, p := range []string{"security.", "system.", "trusted.overlay.", "user.overlay.", "user.containers."} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}
