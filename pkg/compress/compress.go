// Package compress reads and writes the compressions of layers and archives.
package compress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/ulikunitz/xz"

	"cais.dev/cais/pkg/errs"
)

// Kind is a compression. The zero value is none.
type Kind string

// The compressions. Only Gzip and Zstd are written.
const (
	None  Kind = ""
	Gzip  Kind = "gzip"
	Zstd  Kind = "zstd"
	Xz    Kind = "xz"
	Bzip2 Kind = "bzip2"
)

// HeadSize is how many bytes Detect looks at.
const HeadSize = 6

// Detect tells how a stream is compressed by its first bytes.
func Detect(head []byte) Kind {
	for _, m := range []struct {
		magic string
		kind  Kind
	}{
		{"\x1f\x8b", Gzip}, {"\x28\xb5\x2f\xfd", Zstd}, {"\xfd7zXZ\x00", Xz}, {"BZh", Bzip2},
	} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.kind
		}
	}
	return None
}

// Reader returns what r holds, whatever it is compressed with.
func Reader(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(HeadSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	kind := Detect(head)
	fail := func(err error) error { return errs.E(string(kind), errs.Invalid, err) }
	switch kind {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fail(err)
		}
		return z, nil
	case Zstd:
		// A window is memory that the archive chooses: no tool needs more unless
		// asked to.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fail(err)
		}
		return z.IOReadCloser(), nil
	case Xz:
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, fail(err)
		}
		return io.NopCloser(z), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(br)), nil
	}
	return io.NopCloser(br), nil
}

// block is what one goroutine compresses at once. It is part of the result: the
// same bytes give the same blob on every machine.
const block = 1 << 20

// DefaultLevel is the level that a user who says nothing gets.
const DefaultLevel = 0

// Writer compresses to w with as many goroutines as there are processors. level
// is gzip's 1 to 9 or zstd's 1 to 22; [DefaultLevel] is the kind's own. The
// result depends on the input, the kind and the level alone. Close ends the
// stream and leaves w open.
func Writer(w io.Writer, kind Kind, level int) (io.WriteCloser, error) {
	jobs := runtime.GOMAXPROCS(0)
	switch kind {
	case Gzip:
		if level == DefaultLevel {
			level = pgzip.DefaultCompression
		} else if level < 1 || level > 9 {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("compression level %d: gzip has 1 to 9", level))
		}
		z, err := pgzip.NewWriterLevel(w, level)
		if err != nil {
			return nil, err
		}
		return z, z.SetConcurrency(block, jobs)
	case Zstd:
		speed := zstd.SpeedDefault
		if level != DefaultLevel {
			if level < 1 || level > 22 {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("compression level %d: zstd has 1 to 22", level))
			}
			speed = zstd.EncoderLevelFromZstd(level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(speed), zstd.WithEncoderConcurrency(jobs))
	case None:
		return nopCloser{w}, nil
	}
	return nil, errs.New(errs.Unsupported, fmt.Sprintf("cais does not write %s", kind))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
