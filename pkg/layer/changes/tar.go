package changes

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/layer/tarsplit"
)

// TarOptions say what Tar writes.
type TarOptions struct {
	// TarSplit gets the description from which the store makes the same tar again;
	// nil: none is made.
	TarSplit io.Writer
	// Clamp is the latest time that an entry has; zero: the files' own.
	Clamp time.Time
	// Time is the time of all entries; zero: their own.
	Time time.Time
	// Owner says whose a file is in the tar; nil: whose it is.
	Owner func(uid, gid uint32) (uint32, uint32)
}

// Summary is what Tar found.
type Summary struct {
	DiffID     string // "sha256:…" of the tar
	Size       int64  // its bytes
	Entries    int
	UIDs, GIDs []uint32     // owners, sorted, without those of whiteouts
	RootMode   *os.FileMode // of upper itself
}

// Tar writes the layer that upper is above lower to w, which may be nil if only the
// summary is wanted. The same files give the same bytes: the order is that of Walk,
// times are whole seconds, users have no names.
func Tar(ctx context.Context, w io.Writer, upper string, lower []string, o TarOptions) (*Summary, error) {
	return pack(ctx, w, upper, o, func(ctx context.Context, f func(*Entry) error) error {
		return Walk(ctx, upper, lower, Options{}, f)
	})
}

// pack writes what walk tells of.
func pack(ctx context.Context, w io.Writer, upper string, o TarOptions, walk func(context.Context, func(*Entry) error) error) (*Summary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	root, err := os.Stat(upper)
	if err != nil {
		return nil, err
	}
	mode := root.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
	p := &packer{o: o, out: newOutput(w), uids: map[uint32]bool{}, gids: map[uint32]bool{}}
	p.sum.RootMode = &mode
	if o.TarSplit != nil {
		p.split = tarsplit.NewWriter(o.TarSplit)
	}
	p.tw = tar.NewWriter(p)

	// One goroutine walks and reads ahead, one makes the tar, one hashes it.
	items := make(chan *item, 64)
	var walkErr error
	go func() {
		defer close(items)
		walkErr = walk(ctx, func(e *Entry) error {
			if e.Kind == Same {
				return nil
			}
			it, err := read(e)
			if err != nil {
				return err
			}
			select {
			case items <- it:
				return nil
			case <-ctx.Done():
				it.close()
				return context.Cause(ctx)
			}
		})
	}()
	for it := range items {
		if err == nil {
			err = p.add(it)
		}
		it.close()
		if err != nil {
			cancel(err)
		}
	}
	if err = errors.Join(err, walkErr); err == nil {
		err = p.end()
	}
	sum, n, outErr := p.out.close()
	if err = errors.Join(err, outErr); err != nil {
		return nil, err
	}
	p.sum.DiffID, p.sum.Size = "sha256:"+hex.EncodeToString(sum), n
	p.sum.UIDs, p.sum.GIDs = sorted(p.uids), sorted(p.gids)
	return &p.sum, nil
}

func sorted(set map[uint32]bool) []uint32 {
	ids := make([]uint32, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// item is an entry with its content: in memory if it is small, else a file.
type item struct {
	e    *Entry
	data []byte
	file *os.File
}

const small = 256 << 10

func read(e *Entry) (*item, error) {
	it := &item{e: e}
	if e.Kind == Deleted || e.Hard != "" || e.Stat.Mode&unix.S_IFMT != unix.S_IFREG || e.Stat.Size == 0 {
		return it, nil
	}
	f, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	if e.Stat.Size > small {
		it.file = f
		return it, nil
	}
	it.data = make([]byte, e.Stat.Size)
	n, err := io.ReadFull(f, it.data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) { // cut meanwhile: what is gone is zeros
		clear(it.data[n:])
		err = nil
	}
	return it, errors.Join(err, f.Close())
}

func (it *item) close() {
	if it.file != nil {
		_ = it.file.Close() // read only
	}
}

// packer makes the tar. It is the tar writer's output: what comes while a header is
// written is a segment for tar-split, what comes between is data.
type packer struct {
	o          TarOptions
	tw         *tar.Writer
	out        *output
	split      *tarsplit.Writer
	segment    []byte
	data       bool
	sum        Summary
	uids, gids map[uint32]bool
}

func (p *packer) Write(b []byte) (int, error) {
	if !p.data && p.split != nil {
		p.segment = append(p.segment, b...)
	}
	p.out.write(b)
	return len(b), p.out.failed()
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	attr     = "SCHILY.xattr."
)

func (p *packer) add(it *item) error {
	e := it.e
	if e.Kind == Deleted {
		dir, base := path.Split(e.Path)
		return p.whiteout(dir + whiteout + base)
	}
	if err := p.write(it); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if e.Opaque {
		return p.whiteout(e.Path + "/" + opaque)
	}
	return nil
}

func (p *packer) whiteout(name string) error {
	return p.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}, nil)
}

func (p *packer) write(it *item) error {
	e, st := it.e, &it.e.Stat
	if p.o.Owner != nil {
		st.Uid, st.Gid = p.o.Owner(st.Uid, st.Gid)
	}
	mtime := time.Unix(st.Mtim.Sec, 0)
	if !p.o.Clamp.IsZero() && mtime.After(p.o.Clamp) {
		mtime = p.o.Clamp
	}
	if !p.o.Time.IsZero() {
		mtime = p.o.Time
	}
	h := &tar.Header{
		Name: e.Path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: mtime, Format: tar.FormatPAX,
	}
	p.uids[st.Uid], p.gids[st.Gid] = true, true
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		if name == "security.capability" && p.o.Owner != nil {
			value = p.capability(value)
		}
		h.PAXRecords[attr+name] = string(value)
	}
	var data io.Reader
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		data = bytes.NewReader(it.data)
		if it.file != nil {
			data = io.MultiReader(it.file, zeros{}) // should it be cut meanwhile
		}
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	}
	if e.Hard != "" {
		h.Typeflag, h.Linkname, h.Size, h.PAXRecords, data = tar.TypeLink, e.Hard, 0, nil, nil
	}
	return p.header(h, data)
}

// capability gives a file's capabilities to the root of whoever unpacks it, if they
// are those of the container's: struct vfs_ns_cap_data of linux/capability.h ends in
// the id that they are for, vfs_cap_data without.
func (p *packer) capability(value []byte) []byte {
	const v2, v3, size, v3size = 2, 3, 20, 24
	if len(value) != v3size || value[3] != v3 {
		return value
	}
	if root, _ := p.o.Owner(binary.LittleEndian.Uint32(value[size:]), 0); root != 0 {
		return value
	}
	value = slices.Clone(value[:size])
	value[3] = v2
	return value
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (p *packer) header(h *tar.Header, data io.Reader) error {
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	p.sum.Entries++
	if p.split != nil {
		p.split.Segment(p.segment)
		p.segment = p.segment[:0]
	}
	var crc uint64
	if h.Size > 0 {
		p.data = true
		sum := &crcWriter{w: p.tw, table: crc64.MakeTable(crc64.ISO), want: p.split != nil}
		var err error
		if b, ok := data.(*bytes.Reader); ok {
			_, err = b.WriteTo(sum)
		} else {
			_, err = io.CopyN(sum, data, h.Size)
		}
		if err != nil {
			return err
		}
		crc = sum.sum
		p.data = false
	}
	if p.split != nil {
		p.split.File(h.Name, h.Size, h.Size, crc)
	}
	return nil
}

type crcWriter struct {
	w     io.Writer
	table *crc64.Table
	sum   uint64
	want  bool
}

func (c *crcWriter) Write(b []byte) (int, error) {
	if c.want {
		c.sum = crc64.Update(c.sum, c.table, b)
	}
	return c.w.Write(b)
}

func (p *packer) end() error {
	if err := p.tw.Close(); err != nil {
		return err
	}
	if p.split != nil {
		p.split.Segment(p.segment)
		return p.split.Flush()
	}
	return nil
}

// output hashes and passes on in a goroutine of its own, in big pieces.
type output struct {
	buf    []byte
	n      int64
	chunks chan []byte
	free   chan []byte
	done   chan []byte // the sum

	mu  sync.Mutex
	err error
}

const chunk = 512 << 10

func newOutput(w io.Writer) *output {
	o := &output{buf: make([]byte, 0, chunk), chunks: make(chan []byte, 2), free: make(chan []byte, 4), done: make(chan []byte, 1)}
	go func() {
		sum := sha256.New()
		for b := range o.chunks {
			sum.Write(b) // never fails
			if w != nil && o.failed() == nil {
				if _, err := w.Write(b); err != nil {
					o.mu.Lock()
					o.err = err
					o.mu.Unlock()
				}
			}
			select {
			case o.free <- b[:0]:
			default:
			}
		}
		o.done <- sum.Sum(nil)
	}()
	return o
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *output) write(b []byte) {
	o.n += int64(len(b))
	for len(b) > 0 {
		k := min(len(b), chunk-len(o.buf))
		o.buf = append(o.buf, b[:k]...)
		b = b[k:]
		if len(o.buf) == chunk {
			o.chunks <- o.buf
			select {
			case o.buf = <-o.free:
			default:
				o.buf = make([]byte, 0, chunk)
			}
		}
	}
}

func (o *output) close() (sum []byte, n int64, err error) {
	if len(o.buf) > 0 {
		o.chunks <- o.buf
	}
	close(o.chunks)
	sum = <-o.done
	return sum, o.n, o.failed()
}
