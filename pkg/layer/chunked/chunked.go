// Package chunked reads what layers in the form zstd:chunked say of themselves: a
// table of contents, which tells each file's digest and where in the blob it is,
// and a tar-split, which is all of the tar but the files' bytes. With them the tar can
// be made of files that are here already and of parts of the blob.
//
// All of it is hostile. Nothing here decides what a layer is: whoever makes the tar
// compares its digest, as of any other.
package chunked

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

const (
	annotation = "io.github.containers.zstd-chunked."
	positionOf = annotation + "manifest-position" // of the table: offset:length:uncompressed length:1
	digestOf   = annotation + "manifest-checksum" // of the compressed table
	splitOf    = annotation + "tarsplit-position" // offset:length:uncompressed length

	// A blob below this size is there sooner than what it says of itself.
	least = 1 << 20
	// What lies between two files is taken along if it is less: about what comes
	// while another request would be on its way.
	gap = 256 << 10

	maxTail    = 64 << 20  // of the compressed table and tar-split
	maxTable   = 64 << 20  // of the table
	maxEntries = 4_000_000 // as of any layer
)

// Get opens the bytes of a blob from from on, up to to.
type Get func(ctx context.Context, from, to int64) (io.ReadCloser, error)

// File is a file of a layer, named as in its tar.
type File struct {
	Name     string
	Digest   string
	Size     int64
	from, to int64 // in the blob
}

// Layer is a layer of which parts can be had.
type Layer struct {
	get   Get
	files map[string]File
	split []byte
	z     *zstd.Decoder

	ranges []span        // to ask for, in their order
	body   io.ReadCloser // of a range; nil: none is open
	at     span          // what is left of it
}

// span is a part of a blob.
type span struct{ from, to int64 }

// Open reads what the layer d says of itself. It is nil if that is nothing, or if
// there is nothing to gain.
func Open(ctx context.Context, d oci.Descriptor, get Get) (*Layer, error) {
	if d.Size < least || d.Annotations[positionOf] == "" || d.Annotations[splitOf] == "" {
		return nil, nil
	}
	table, err := position(d, positionOf)
	if err != nil {
		return nil, err
	}
	split, err := position(d, splitOf)
	if err != nil {
		return nil, err
	}
	if split.from < table.to || split.to-table.from > maxTail {
		return nil, invalid("its table of contents and tar-split are at %d and %d, up to %d", table.from, split.from, split.to)
	}
	tail := make([]byte, split.to-table.from)
	body, err := get(ctx, table.from, split.to)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(body, tail)
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, err
	}
	l := &Layer{get: get, files: map[string]File{}, split: tail[split.from-table.from:], z: z}
	raw := tail[:table.to-table.from]
	if got := oci.Digest(raw); got != d.Annotations[digestOf] {
		err = &oci.DigestError{What: "table of contents", Want: d.Annotations[digestOf], Got: got, Bytes: int64(len(raw))}
	} else if err = z.Reset(bytes.NewReader(raw)); err == nil {
		err = l.table(table.from)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("table of contents: %w", err)
	}
	return l, nil
}

// position reads where a part of the blob is: its offset and its length, and what
// else is of no use here.
func position(d oci.Descriptor, key string) (span, error) {
	words := strings.SplitN(d.Annotations[key]+"::", ":", 3)
	from, err1 := strconv.ParseInt(words[0], 10, 64)
	length, err2 := strconv.ParseInt(words[1], 10, 64)
	if err1 != nil || err2 != nil || from < 0 || length <= 0 || from > d.Size || length > d.Size-from {
		return span{}, invalid("the annotation %s is %q, of a blob of %d bytes", key, d.Annotations[key], d.Size)
	}
	return span{from, from + length}, nil
}

func invalid(format string, args ...any) error {
	return errs.New(errs.Invalid, fmt.Sprintf(format, args...))
}

// entry is what is wanted of one in the table. A file's further chunks have their own.
type entry struct {
	Type   string `json:"type"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
	From   int64  `json:"offset"`
	To     int64  `json:"endOffset"`
}

// table reads the table of contents entry by entry, most of which take no room. end is
// where the blob's files end.
func (l *Layer) table(end int64) error {
	raw, err := io.ReadAll(io.LimitReader(l.z, maxTable+1))
	if err != nil {
		return err
	}
	if len(raw) > maxTable {
		return invalid("it is larger than %d bytes", maxTable)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := want(d, json.Delim('{')); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key == "entries" {
			return l.entries(d, end)
		}
		var other json.RawMessage
		if err := d.Decode(&other); err != nil {
			return err
		}
		if key == "version" && string(other) != "1" {
			return errs.New(errs.Unsupported, "its version is "+string(other))
		}
	}
	return invalid("it has no entries")
}

func want(d *json.Decoder, delim json.Delim) error {
	t, err := d.Token()
	if err == nil && t != delim {
		err = invalid("%v where %v should be", t, delim)
	}
	return err
}

func (l *Layer) entries(d *json.Decoder, end int64) error {
	if err := want(d, json.Delim('[')); err != nil {
		return err
	}
	for n := 0; d.More(); n++ {
		var e entry
		if err := d.Decode(&e); err != nil {
			return err
		}
		if n >= maxEntries {
			return invalid("more than %d entries", maxEntries)
		}
		if e.Type != "reg" || e.Size == 0 {
			continue
		}
		if _, twice := l.files[e.Name]; twice || e.Size < 0 || e.From < 0 || e.To <= e.From || e.To > end {
			return invalid("entry %q: %d bytes, from %d to %d of the blob", e.Name, e.Size, e.From, e.To)
		}
		l.files[e.Name] = File{Name: e.Name, Digest: e.Digest, Size: e.Size, from: e.From, to: e.To}
	}
	return want(d, json.Delim(']'))
}

// Files returns the layer's files that are not empty, in no order.
func (l *Layer) Files() []File { return slices.Collect(maps.Values(l.files)) }

// Leave says which files need not be had, and returns how many bytes of the blob the
// others take.
func (l *Layer) Leave(here func(name string) bool) (missing int64) {
	l.ranges = nil
	byOffset := func(a, b File) int { return cmp.Compare(a.from, b.from) }
	for _, f := range slices.SortedFunc(maps.Values(l.files), byOffset) {
		if here(f.Name) {
			continue
		}
		if n := len(l.ranges); n > 0 && f.from-l.ranges[n-1].to < gap {
			l.ranges[n-1].to = max(l.ranges[n-1].to, f.to)
		} else {
			l.ranges = append(l.ranges, span{f.from, f.to})
		}
	}
	for _, r := range l.ranges {
		missing += r.to - r.from
	}
	return missing
}

// Split returns the tar-split.
func (l *Layer) Split() (io.ReadCloser, error) { return compress.Reader(bytes.NewReader(l.split)) }

// File opens what a file holds: those that [Layer.Leave] did not leave, one after the
// other, as they are in the tar.
func (l *Layer) File(ctx context.Context, name string) (io.ReadCloser, error) {
	f, ok := l.files[name]
	if !ok {
		return nil, invalid("the table of contents has no %q", name)
	}
	if f.from >= l.at.to {
		if err := l.next(ctx, f.from); err != nil {
			return nil, err
		}
	}
	if f.from < l.at.from || f.to > l.at.to {
		return nil, invalid("%q is from %d to %d of the blob, out of the tar's order", name, f.from, f.to)
	}
	if _, err := io.CopyN(io.Discard, l.body, f.from-l.at.from); err != nil {
		return nil, err
	}
	l.at.from = f.to
	packed := io.LimitReader(l.body, f.to-f.from)
	return &content{l.z, packed}, l.z.Reset(packed)
}

// next asks for the range that has the byte at.
func (l *Layer) next(ctx context.Context, at int64) (err error) {
	l.end()
	for len(l.ranges) > 0 && l.ranges[0].to <= at {
		l.ranges = l.ranges[1:]
	}
	if len(l.ranges) == 0 {
		return invalid("the blob's byte %d is not wanted", at)
	}
	r := l.ranges[0]
	if l.body, err = l.get(ctx, r.from, r.to); err == nil {
		l.at = r
	}
	return err
}

func (l *Layer) end() {
	if l.body != nil {
		_ = l.body.Close() // only read from
	}
	l.body, l.at = nil, span{}
}

// Close ends what is open.
func (l *Layer) Close() {
	l.end()
	l.z.Close()
}

// content is a file's.
type content struct {
	io.Reader
	packed io.Reader
}

// Close reads what is left, as the next file follows it.
func (c *content) Close() error {
	_, err := io.Copy(io.Discard, c.packed)
	return err
}
