package storage

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// LayerTar opens the tar that a layer was made from, byte for byte as it was:
// the headers come from the store's tar-split file, the content from the layer's
// files. No lock is held, so nobody waits for a slow reader; a layer that is
// removed meanwhile is an error. The files may be readable only for root of the
// user's namespace. Whoever reads checks the digest.
func (r *Reader) LayerTar(img *Image, layer Layer) (io.ReadCloser, error) {
	fail := func(err error) error { return fmt.Errorf("read layer %s: %w", short(layer.ID), err) }
	dir, err := r.layerDir(img, layer.ID)
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(filepath.Dir(dir))
	split, err := os.Open(filepath.Join(r.dir(root, "layers"), layer.ID+".tar-split.gz"))
	if errors.Is(err, fs.ErrNotExist) {
		err := errs.E("read layer "+short(layer.ID), errs.Unsupported, errors.New("the store does not know what its tar looked like: a path occurs twice in it, or another tool made it so"))
		return nil, errs.WithHint(err, "Its files are all there: 'cais commit' of a container of the image makes one that can be sent.")
	}
	if err != nil {
		return nil, fail(err)
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(split, 64<<10))
	if err != nil {
		return nil, errors.Join(fail(err), split.Close())
	}
	diff, err := unix.Open(filepath.Join(dir, "diff"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fail(err), split.Close())
	}
	t := newLayerTar(layer.ID, z, func(name string) (io.ReadCloser, error) { return openFile(diff, name) })
	t.end = func() error { return errors.Join(split.Close(), unix.Close(diff)) }
	return t, nil
}

// newLayerTar puts the tar of the layer id together from its tar-split and its files.
func newLayerTar(id string, split io.Reader, open func(name string) (io.ReadCloser, error)) *layerTar {
	return &layerTar{id: id, lines: bufio.NewReaderSize(split, 64<<10), open: open}
}

// layerTar puts a tar together again.
type layerTar struct {
	id    string
	lines *bufio.Reader
	open  func(name string) (io.ReadCloser, error)
	end   func() error // at Close; may be nil

	long []byte // a line that does not fit into the reader
	buf  []byte // for decoded segments
	rest []byte // of a segment
	file io.ReadCloser
	left int64 // bytes of file
	name string
	err  error
}

func (t *layerTar) Read(p []byte) (int, error) {
	for t.err == nil {
		switch {
		case len(t.rest) > 0:
			n := copy(p, t.rest)
			t.rest = t.rest[n:]
			return n, nil
		case t.file != nil:
			n, err := t.file.Read(p[:min(int64(len(p)), t.left)])
			t.left -= int64(n)
			if t.left == 0 || err != nil {
				if err := errors.Join(ignoreEOF(err), t.file.Close()); err != nil {
					t.err = err
				} else if t.left > 0 {
					t.err = fmt.Errorf("%q is %d bytes shorter than it was", t.name, t.left)
				}
				t.file = nil
			}
			if n > 0 {
				return n, nil
			}
		default:
			t.err = t.next()
		}
	}
	if t.err != io.EOF {
		return 0, fmt.Errorf("read layer %s: %w", short(t.id), t.err)
	}
	return 0, io.EOF
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// maxSplitLine bounds what one piece of a header may be.
const maxSplitLine = 64 << 20

// line returns the next line of the description.
func (t *layerTar) line() ([]byte, error) {
	line, err := t.lines.ReadSlice('\n')
	if err == nil || err == io.EOF && len(line) > 0 {
		return line, nil
	}
	if err != bufio.ErrBufferFull {
		return nil, err
	}
	t.long = append(t.long[:0], line...)
	for err == bufio.ErrBufferFull && len(t.long) < maxSplitLine {
		line, err = t.lines.ReadSlice('\n')
		t.long = append(t.long, line...)
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	return t.long, nil
}

// next reads one piece: bytes as they stand, or a file.
func (t *layerTar) next() error {
	line, err := t.line()
	if err != nil {
		return err
	}
	var kind, size int64
	var name string
	var payload []byte
	s := &scanner{b: line}
	s.object(func(key string) {
		switch key {
		case "type":
			kind = s.integer()
		case "size":
			size = s.integer()
		case "name":
			name = s.str()
		case "name_raw":
			raw, err := base64.StdEncoding.DecodeString(s.str())
			if err != nil {
				s.errorf("%v", err)
			}
			name = string(raw)
		case "payload":
			if s.peek() == '"' {
				payload, _ = s.rawString()
			} else {
				s.skip()
			}
		default:
			s.skip()
		}
	})
	if s.fail != nil {
		return fmt.Errorf("its tar-split file: %w", s.fail)
	}
	switch kind {
	case 1:
		if size <= 0 {
			return nil
		}
		t.name, t.left = name, size
		t.file, err = t.open(name)
		return err
	case 2:
		n := base64.StdEncoding.DecodedLen(len(payload))
		if cap(t.buf) < n {
			t.buf = make([]byte, n)
		}
		n, err = base64.StdEncoding.Decode(t.buf[:n], payload)
		t.rest = t.buf[:n]
		return err
	}
	return fmt.Errorf("its tar-split file has an entry of type %d", kind)
}

// openFile opens a file of a layer as the tar named it: beneath the layer's
// directory, whatever links are on the way.
func openFile(diff int, name string) (io.ReadCloser, error) {
	fd, err := sys.OpenBelow(diff, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (t *layerTar) Close() error {
	if t.err == nil {
		t.err = os.ErrClosed
	}
	if t.file != nil {
		_ = t.file.Close() // only read from
		t.file = nil
	}
	if t.end == nil {
		return nil
	}
	return t.end()
}

// TarSize is the length of a layer's tar, by reading its description alone; for
// layers whose record does not say.
func (r *Reader) TarSize(ctx context.Context, img *Image, layer Layer) (int64, error) {
	rc, err := r.LayerTar(img, layer)
	if err != nil {
		return 0, err
	}
	t, _ := rc.(*layerTar)
	defer t.Close()
	var n int64
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		err := t.next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		n += int64(len(t.rest)) + t.left
		t.rest, t.left = nil, 0
		if t.file != nil {
			_ = t.file.Close() // only opened
			t.file = nil
		}
	}
}
