package files

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/storage/unpack"
)

// Extract writes what is in the archive m below the destination, if it is one: a
// tar, perhaps compressed. It is known by its contents. done is false for all else.
// scratch gives a directory on the layer's file system.
func (l *Layer) Extract(ctx context.Context, c Copy, m Match, scratch func() (string, error)) (done bool, err error) {
	if m.Match.IsDir() || !m.Match.Entries[0].IsRegular() {
		return false, nil
	}
	f, err := m.Tree.Open(m.Match, &m.Match.Entries[0])
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, closer, err := archive(f)
	if r == nil || err != nil {
		return false, err
	}
	defer closer()
	base, err := scratch()
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp(base, "tar-")
	if err != nil {
		return false, err
	}
	_, err = unpack.Tar(ctx, dir, r, unpack.Options{Rootless: l.o.Rootless, Single: l.o.Single, Plain: true})
	if err != nil {
		return false, fmt.Errorf("extract %s: %w", m.Match.Name, err)
	}
	t, err := source.OpenTree(dir, source.TreeOptions{})
	if err != nil {
		return false, err
	}
	defer t.Close()
	matches, err := t.Find(ctx, source.Query{Path: "/", Literal: true})
	if err != nil || len(matches) == 0 {
		return false, err
	}
	c.Dest = strings.TrimSuffix(c.Dest, "/") + "/"
	c.Merge = true
	return true, l.Copy(ctx, c, Match{Tree: t, Match: &matches[0], KeepOwner: true})
}

// archive returns the tar that f is, uncompressed; nil if it is none.
func archive(f io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(f, 64<<10)
	head, err := br.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	var r io.Reader = br
	closer := func() {}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, nil
		}
		r, closer = z, func() { _ = z.Close() }
	case bytes.HasPrefix(head, []byte("BZh")):
		r = bzip2.NewReader(br)
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, nil, nil
		}
		r = z
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br)
		if err != nil {
			return nil, nil, nil
		}
		r, closer = z, z.Close
	}
	inner := bufio.NewReaderSize(r, 64<<10)
	head, err = inner.Peek(512)
	if err != nil || !isTar(head) {
		closer()
		return nil, nil, nil // a compressed file that is no archive is a file
	}
	return inner, closer, nil
}

// isTar checks the sum of a header's bytes, which old tars without a magic have, too.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	var sum int64
	for i, c := range head {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int64(c)
	}
	var want int64
	digits := 0
	for _, c := range head[148:156] {
		if c >= '0' && c <= '7' {
			want = want*8 + int64(c-'0')
			digits++
		} else if digits > 0 {
			break
		}
	}
	return digits > 0 && want == sum && sum != 8*' '
}
