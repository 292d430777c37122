package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// spool is a blob that is being made, in a file without a name: whoever sends it
// reads behind the writer, and again from anywhere after a break.
type spool struct {
	f *os.File

	mu   sync.Mutex
	cond *sync.Cond
	n    int64
	done bool
	err  error
	sum  hash.Hash
}

func newSpool(dir string) (*spool, error) {
	f, err := sys.TempFile(dir)
	if err != nil {
		return nil, fmt.Errorf("make room for a compressed layer: %w", err)
	}
	s := &spool{f: f, sum: sha256.New()}
	s.cond = sync.NewCond(&s.mu)
	return s, nil
}

// Write appends.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	at, err := s.n, s.err
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.sum.Write(p)
	n, err := s.f.WriteAt(p, at)
	s.mu.Lock()
	s.n += int64(n)
	s.mu.Unlock()
	s.cond.Broadcast()
	return n, err
}

// end says that nothing more comes, because all is there or because of err.
func (s *spool) end(err error) {
	s.mu.Lock()
	if !s.done {
		s.done, s.err = true, err
	}
	s.mu.Unlock()
	s.cond.Broadcast()
}

// wait returns the digest and the size, once they are known.
func (s *spool) wait() (digest string, size int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.done {
		s.cond.Wait()
	}
	if s.err != nil {
		return "", 0, s.err
	}
	return "sha256:" + hex.EncodeToString(s.sum.Sum(nil)), s.n, nil
}

func (s *spool) open(off int64) (io.ReadCloser, error) {
	return &spoolReader{s: s, off: off}, nil
}

func (s *spool) close() error { return s.f.Close() }

type spoolReader struct {
	s   *spool
	off int64
}

// Read waits for bytes that are not there yet.
func (r *spoolReader) Read(p []byte) (int, error) {
	s := r.s
	s.mu.Lock()
	for s.n <= r.off && !s.done {
		s.cond.Wait()
	}
	n, done, err := s.n, s.done, s.err
	s.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case n <= r.off && done:
		return 0, io.EOF
	}
	m, err := s.f.ReadAt(p[:min(int64(len(p)), n-r.off)], r.off)
	r.off += int64(m)
	if m > 0 {
		err = nil
	}
	return m, err
}

func (r *spoolReader) Close() error { return nil }

// pack compresses a layer's tar into w and checks that it is the one that its
// diffID says.
func pack(ctx context.Context, l layer, c Compression, w io.Writer) (err error) {
	tar, err := l.tar(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	z, err := c.Writer(w)
	if err != nil {
		return err
	}
	if err := copyTar(ctx, z, tar, l); err != nil {
		_ = z.Close() // ends its goroutines
		return err
	}
	return z.Close()
}

// tar opens a layer's tar, in whatever form it is here.
func (l layer) tar(ctx context.Context) (io.ReadCloser, error) {
	if l.src.Tar != nil {
		return l.src.Tar(ctx)
	}
	blob, err := l.src.Blob(ctx)
	if err != nil {
		return nil, err
	}
	z, err := compress.Reader(blob)
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return unpacked{z, blob}, nil
}

type unpacked struct {
	io.ReadCloser
	blob io.Closer
}

func (u unpacked) Close() error { return errors.Join(u.ReadCloser.Close(), u.blob.Close()) }

// copyTar copies a layer's tar and checks it.
func copyTar(ctx context.Context, w io.Writer, tar io.Reader, l layer) error {
	sum := sha256.New()
	n, err := copyBuffer(ctx, io.MultiWriter(w, sum), tar)
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); l.diffID != "" && got != l.diffID {
		return errs.WithHint(errs.E("", errs.Invalid, &oci.DigestError{What: "layer in the store", Want: l.diffID, Got: got, Bytes: n}),
			"Its files were changed: 'cais system check' finds such layers; remove the image and pull it again.")
	}
	return nil
}

const bufferSize = 256 << 10

// copyBuffer is io.Copy that ends with ctx.
func copyBuffer(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, bufferSize)
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		m, err := r.Read(buf)
		if m > 0 {
			if _, err := w.Write(buf[:m]); err != nil {
				return n, err
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
