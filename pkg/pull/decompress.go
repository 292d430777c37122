package pull

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"cais.dev/cais/pkg/errs"
)

// compression tells how a stream is compressed by its first bytes; "" if it is
// not.
func compression(head []byte) string {
	for _, m := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\xfd7zXZ\x00", "xz"}, {"BZh", "bzip2"},
	} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.name
		}
	}
	return ""
}

// decompress returns what r holds, whatever it is compressed with.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	kind := compression(head)
	fail := func(err error) error { return errs.E(kind, errs.Invalid, err) }
	switch kind {
	case "gzip":
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fail(err)
		}
		return z, nil
	case "zstd":
		// A window is memory that the archive chooses: no tool needs more unless
		// asked to.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fail(err)
		}
		return z.IOReadCloser(), nil
	case "xz":
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, fail(err)
		}
		return io.NopCloser(z), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(br)), nil
	}
	return io.NopCloser(br), nil
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
