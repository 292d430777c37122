package pull

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// The bounds of what an archive can make us keep in memory.
const (
	maxEntries   = 100_000
	maxNameBytes = 16 << 20 // of all names together
	maxLinks     = 16
)

// archive is a tar file whose entries can be read in any order. Nothing is ever
// written under an entry's name.
type archive struct {
	r     io.ReaderAt
	files map[string]entry
	close func() error

	root   *os.Root // a layout that is a directory; then the rest is empty
	opened []*os.File
}

type entry struct {
	off, size int64
	link      string // another entry's name; then the rest is empty
}

// The most that an archive may unpack to for what it is; a backup of zeros is
// larger, but an image is not.
const (
	bombRatio = 100
	bombSize  = 20 << 30
)

func checkBomb(in, out int64) error {
	if out > bombSize && out > in*bombRatio {
		return errs.New(errs.Invalid, fmt.Sprintf("it unpacks to more than %d times its size", bombRatio))
	}
	return nil
}

// openArchive makes in readable in any order. A plain file is read where it is, and so
// is a directory; all else is kept in a file without a name in dir.
func openArchive(ctx context.Context, in io.Reader, dir string) (*archive, error) {
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return openDirectory(f.Name())
		}
	}
	a := &archive{files: map[string]entry{}, close: func() error { return nil }}
	var size int64
	if f, n, ok := plainFile(in); ok {
		a.r, size = f, n
	} else {
		f, n, err := spool(ctx, in, dir)
		if err != nil {
			return nil, err
		}
		a.r, size, a.close = f, n, f.Close
	}
	if err := a.index(ctx, size); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// plainFile reports whether in is a file that is not compressed, at its start.
func plainFile(in io.Reader) (*os.File, int64, bool) {
	f, ok := in.(*os.File)
	if !ok {
		return nil, 0, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, false
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return nil, 0, false
	}
	head := make([]byte, compress.HeadSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF || compress.Detect(head[:n]) != compress.None {
		return nil, 0, false
	}
	return f, info.Size(), true
}

// spool unpacks in into a file. If ctx ends, it does not wait for a read from a
// terminal or a pipe that may never return: the process is about to end.
func spool(ctx context.Context, in io.Reader, dir string) (*os.File, int64, error) {
	f, err := sys.TempFile(dir)
	if err != nil {
		return nil, 0, err
	}
	type end struct {
		n   int64
		err error
	}
	done := make(chan end, 1)
	go func() {
		n, err := unpackTo(ctx, f, in)
		done <- end{n, err}
	}()
	select {
	case e := <-done:
		if e.err != nil {
			return nil, 0, errors.Join(e.err, f.Close())
		}
		return f, e.n, nil
	case <-ctx.Done():
		return nil, 0, errors.Join(context.Cause(ctx), f.Close())
	}
}

func unpackTo(ctx context.Context, f *os.File, in io.Reader) (int64, error) {
	raw := &counting{r: in}
	r, err := compress.Reader(raw)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	buf := make([]byte, 512<<10)
	var n int64
	for {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		m, err := r.Read(buf)
		if m > 0 {
			if _, err := f.Write(buf[:m]); err != nil {
				return n, err
			}
			if n += int64(m); n > 0 {
				if err := checkBomb(raw.n, n); err != nil {
					return n, err
				}
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// index finds out what is where.
func (a *archive) index(ctx context.Context, size int64) error {
	r := io.NewSectionReader(a.r, 0, size)
	tr := tar.NewReader(r)
	var names int
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if len(a.files) == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return errNotArchive
		}
		if err != nil {
			return err
		}
		name := cleanName(h.Name)
		names += len(name) + len(h.Linkname)
		if len(a.files) >= maxEntries || names > maxNameBytes {
			return errs.New(errs.Invalid, "too many entries for an image archive")
		}
		e := entry{size: h.Size}
		switch h.Typeflag {
		case tar.TypeReg:
			if isSparse(h) {
				return errs.New(errs.Unsupported, fmt.Sprintf("%q is a sparse file", h.Name))
			}
			// The reader takes whole blocks and no more, so it is at the data.
			if e.off, err = r.Seek(0, io.SeekCurrent); err != nil {
				return err
			}
			if e.size < 0 || e.off+e.size > size {
				return io.ErrUnexpectedEOF
			}
		case tar.TypeSymlink: // old archives link equal layers
			e = entry{link: cleanName(path.Join("/", path.Dir(name), h.Linkname))}
			if path.IsAbs(h.Linkname) {
				e.link = cleanName(h.Linkname)
			}
		case tar.TypeLink:
			e = entry{link: cleanName(h.Linkname)}
		default:
			continue
		}
		a.files[name] = e
	}
}

var errNotArchive = errs.New(errs.Invalid, "not an image archive: want what docker save writes, or an OCI layout in a tar")

// cleanName is an entry's name as a key: what is in manifest.json is compared
// with it, nothing else.
func cleanName(s string) string { return strings.TrimPrefix(path.Clean("/"+s), "/") }

func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// has reports whether there is such an entry.
func (a *archive) has(name string) bool {
	if a.root != nil {
		_, err := a.root.Stat(cleanName(name))
		return err == nil
	}
	_, ok := a.files[cleanName(name)]
	return ok
}

// open returns an entry's content.
func (a *archive) open(name string) (*io.SectionReader, error) {
	at := cleanName(name)
	if a.root != nil {
		return a.openFile(at)
	}
	for range maxLinks {
		e, ok := a.files[at]
		if !ok {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("the archive lacks %s", name))
		}
		if e.link == "" {
			return io.NewSectionReader(a.r, e.off, e.size), nil
		}
		at = e.link
	}
	return nil, errs.New(errs.Invalid, fmt.Sprintf("%s is a link that leads nowhere", name))
}

// read returns the content of a small entry.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("%s is larger than %d bytes", name, limit))
	}
	return io.ReadAll(r)
}

// blob returns a small blob of an OCI layout, verified.
func (a *archive) blob(d oci.Descriptor, limit int64) ([]byte, error) {
	data, err := a.read(blobName(d.Digest), limit)
	if err != nil {
		return nil, err
	}
	if got := sha(data); got != d.Digest {
		return nil, errs.E("", errs.Invalid, &oci.DigestError{What: blobName(d.Digest), Want: d.Digest, Got: got, Bytes: int64(len(data))})
	}
	return data, nil
}

// blobName is where an OCI layout keeps a blob. The digest is a valid one.
func blobName(digest string) string {
	return "blobs/" + strings.Replace(digest, ":", "/", 1)
}

// openLayout is openArchive for a directory. Links in it lead nowhere outside.
func openDirectory(path string) (*archive, error) {
	if !isLayout(path) {
		return nil, errs.WithHint(errs.New(errs.Invalid, "a directory that is no OCI layout"), "'cais image copy dir:DIRECTORY NAME' takes what save --format docker-dir wrote.")
	}
	return openLayout(path)
}

func openLayout(dir string) (*archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	a := &archive{root: root}
	a.close = func() error {
		failed := []error{root.Close()}
		for _, f := range a.opened {
			failed = append(failed, f.Close())
		}
		return errors.Join(failed...)
	}
	return a, nil
}

// openFile opens a file of a directory; it is closed with the directory.
func (a *archive) openFile(name string) (*io.SectionReader, error) {
	f, err := a.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("the layout lacks %s", name))
	}
	if err != nil {
		return nil, err
	}
	a.opened = append(a.opened, f)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("%s is not a file", name))
	}
	return io.NewSectionReader(f, 0, info.Size()), nil
}
