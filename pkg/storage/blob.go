package storage

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"cais.dev/cais/pkg/errs"
)

// ErrDigest says that a blob is not what its digest promised. The same blob
// from elsewhere may be.
var ErrDigest = errors.New("digest does not match")

// blobReader checks a blob on its way.
type blobReader struct {
	ctx  context.Context
	r    io.Reader
	max  int64 // > 0: its length
	n    atomic.Int64
	sum  hash.Hash
	fail error // of the source itself; not io.EOF
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		b.fail = context.Cause(b.ctx)
		return 0, b.fail
	}
	n, err := b.r.Read(p)
	b.sum.Write(p[:n])
	if total := b.n.Add(int64(n)); b.max > 0 && total > b.max {
		b.fail = errs.E("", errs.Invalid, fmt.Errorf("the blob is longer than the %d bytes of its manifest: %w", b.max, ErrDigest))
		return 0, b.fail
	}
	if err != nil && err != io.EOF {
		b.fail = err
	}
	return n, err
}

// check compares length and digest, once all is read.
func (b *blobReader) check(want string) error {
	if n := b.n.Load(); b.max > 0 && n != b.max {
		return errs.E("", errs.Invalid, fmt.Errorf("the blob has %d bytes, its manifest says %d: %w", n, b.max, ErrDigest))
	}
	return sameDigest("blob", b.digest(), want)
}

func (b *blobReader) digest() string { return "sha256:" + hex.EncodeToString(b.sum.Sum(nil)) }

func sameDigest(what, got, want string) error {
	if want == "" || got == want {
		return nil
	}
	return errs.E("", errs.Invalid, fmt.Errorf("the %s is %s, expected %s: %w", what, got, want, ErrDigest))
}

// decompressor finds out how r is compressed by its first bytes. What follows
// the compressed data is left unread in r.
func decompressor(r *bufio.Reader) (io.Reader, func(), error) {
	nothing := func() {}
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nothing, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nothing, err
		}
		z.Multistream(false)
		return &members{z: z, r: r}, nothing, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // skippable frame
		// One thread: several layers are unpacked at once. 128 MiB is zstd --long's window.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), nothing, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.NewReader(r)
		return z, nothing, err
	}
	return r, nothing, nil
}

// members reads the members of a gzip file one after another. What follows the
// last one and is no member is garbage, which others accept, too.
type members struct {
	z    *gzip.Reader
	r    *bufio.Reader
	done bool
}

func (m *members) Read(p []byte) (int, error) {
	if m.done {
		return 0, io.EOF
	}
	n, err := m.z.Read(p)
	if err != io.EOF {
		return n, err
	}
	if magic, _ := m.r.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		m.done = true
	} else if err := m.z.Reset(m.r); err != nil {
		m.done = true
	} else {
		m.z.Multistream(false)
	}
	return n, nil
}

const (
	chunkSize  = 512 << 10
	chunkCount = 6
)

// chunk is a piece of the uncompressed tar that two readers share.
type chunk struct {
	b     []byte
	users atomic.Int32
	err   error // comes after b
}

// tarStream is a blob's uncompressed tar. Decompressing and hashing go on in
// goroutines of their own while the reader works.
type tarStream struct {
	blob     *blobReader
	limit    func(unpacked, compressed int64) error
	progress func(int64)

	toRead, toHash, free chan *chunk
	stop                 chan struct{}
	wg                   sync.WaitGroup

	cur    *chunk
	rest   []byte
	size   int64 // bytes made so far; the producer's
	diffID hash.Hash
}

// newTarStream starts reading src.
func newTarStream(blob *blobReader, limit func(unpacked, compressed int64) error, progress func(int64)) *tarStream {
	t := &tarStream{
		blob: blob, limit: limit, progress: progress, diffID: sha256.New(), stop: make(chan struct{}),
		toRead: make(chan *chunk, chunkCount), toHash: make(chan *chunk, chunkCount), free: make(chan *chunk, chunkCount),
	}
	for range chunkCount {
		t.free <- &chunk{b: make([]byte, 0, chunkSize)}
	}
	t.wg.Go(t.produce)
	t.wg.Go(func() {
		for c := range t.toHash {
			t.diffID.Write(c.b)
			t.release(c)
		}
	})
	return t
}

func (t *tarStream) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		t.free <- c // has room for all
	}
}

func (t *tarStream) produce() {
	defer close(t.toHash)
	br := bufio.NewReaderSize(t.blob, 128<<10)
	z, closeZ, err := decompressor(br)
	defer closeZ()
	for {
		var c *chunk
		select {
		case c = <-t.free:
		case <-t.stop:
			return
		}
		n := 0
		c.b = c.b[:cap(c.b)]
		for err == nil && n < len(c.b) {
			var m int
			m, err = z.Read(c.b[n:])
			n += m
		}
		t.size += int64(n)
		if err == io.EOF {
			_, err = io.Copy(io.Discard, br) // what follows belongs to the blob's digest
			if err == nil {
				err = io.EOF
			}
		} else if err == nil {
			err = t.limit(t.size, t.blob.n.Load())
		}
		if t.progress != nil {
			t.progress(t.size)
		}
		c.b, c.err = c.b[:n], err
		c.users.Store(2)
		t.toHash <- c
		t.toRead <- c
		if err != nil {
			return
		}
	}
}

func (t *tarStream) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		if t.cur != nil {
			if t.cur.err != nil {
				return 0, t.cur.err
			}
			t.release(t.cur)
		}
		t.cur = <-t.toRead
		t.rest = t.cur.b
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// close ends the goroutines. The diffID is complete if the reader met EOF.
func (t *tarStream) close() {
	close(t.stop)
	t.wg.Wait()
}
