// Package unpack turns a layer's tar into files, beneath one directory and
// nowhere else, in one pass that also yields what push and save need to make
// the same tar again (tar-split).
//
// Everything in the tar is hostile. Paths are resolved by openat2(2) with
// RESOLVE_IN_ROOT to the descriptor of a parent, and the last component is then
// created, linked or removed relative to that descriptor, never followed: no
// name and no symlink leads out of the directory, and there is no moment
// between a check and its use. Nobody else may have access to the directory
// meanwhile.
package unpack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vbatts/tar-split/archive/tar"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tarsplit"
	"cais.dev/cais/pkg/sys"
)

// Options say how a layer is unpacked.
type Options struct {
	// Rootless: overlay's marks go into user.* instead of trusted.* attributes.
	Rootless bool
	// Single: there is one id; other owners are recorded in an attribute.
	Single bool
	// IgnoreChown: an owner that does not exist here becomes root.
	IgnoreChown bool
	// Range says which ids exist, for the error about one that does not.
	Range string
	// Plain: the tar is no layer; names that begin with .wh. are names.
	Plain bool
	// MaxEntries bounds the entries; 0: 4 million.
	MaxEntries int
	// TarSplit receives the tar-split entries; nil: none are made.
	TarSplit io.Writer
	// Twin is a directory of the same file system that this very tar was unpacked
	// into: its files are linked, not written again. Empty: there is none.
	Twin string
}

// Result is what was found in a layer.
type Result struct {
	UIDs, GIDs []uint32 // owners of the entries, sorted; without whiteouts
	Entries    int
	Content    int64        // bytes in the entries' files
	RootMode   *os.FileMode // of the "./" entry, if there was one
	// NoTarSplit says that the tar cannot be described by tar-split, because a
	// path occurs twice or a header lies about its size. What was written to
	// TarSplit is then of no use.
	NoTarSplit bool
	Warnings   []string
}

const (
	maxEntries = 4_000_000
	maxPath    = 4096 // PATH_MAX, with the final NUL
	maxName    = 255  // NAME_MAX

	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	overrideXattr = "user.containers.override_stat" // c/storage's, for stores with one id
)

// Tar unpacks the tar r into dir, which is empty, and reads r to its end.
func Tar(ctx context.Context, dir string, r io.Reader, o Options) (Result, error) {
	type outcome struct {
		res Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		// The umask belongs to the thread's file system attributes: with its own
		// set of them, this thread creates files with the very modes that the tar
		// names, without a chmod each, and without changing the umask of others.
		// It is never unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- outcome{err: fmt.Errorf("unshare(CLONE_FS): %w", err)}
			return
		}
		unix.Umask(0)
		res, err := unpack(ctx, dir, r, o)
		done <- outcome{res, err}
	}()
	d := <-done
	return d.res, d.err
}

func unpack(ctx context.Context, dir string, r io.Reader, o Options) (res Result, err error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return res, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	x := &extractor{
		o: o, root: root, parentFD: -1, buf: make([]byte, 256<<10),
		uids: map[uint32]bool{}, gids: map[uint32]bool{}, warned: map[string]bool{}, opaques: map[string]bool{},
		overlay: "trusted.overlay.",
	}
	if o.Rootless {
		x.overlay = "user.overlay."
	}
	if x.o.MaxEntries == 0 {
		x.o.MaxEntries = maxEntries
	}
	if o.TarSplit != nil {
		x.split = tarsplit.NewWriter(o.TarSplit)
	}
	defer x.dropParent()
	if o.Twin != "" {
		t, err := openTwin(o)
		if err != nil {
			return res, err
		}
		defer t.close()
		x.twin = t
	}
	if err := x.run(ctx, r); err != nil {
		return res, err
	}
	if err := x.finish(); err != nil {
		return res, err
	}
	if x.split != nil {
		if err := x.split.Flush(); err != nil {
			return res, fmt.Errorf("write tar-split: %w", err)
		}
		x.res.NoTarSplit = x.split.Useless()
	}
	x.res.UIDs, x.res.GIDs = sorted(x.uids), sorted(x.gids)
	return x.res, nil
}

func sorted(set map[uint32]bool) []uint32 {
	ids := make([]uint32, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

type extractor struct {
	o       Options
	root    int
	overlay string // prefix of overlay's attributes
	buf     []byte
	res     Result
	split   *tarsplit.Writer
	warned  map[string]bool

	// The directory that the last entry was put into; most entries follow one
	// with the same parent. Dropped when anything is removed, because then the
	// path may mean another directory.
	parentPath string
	parentFD   int

	dirs    []dirMeta // finished at the end, as their contents change their times
	implied []string  // made for entries that name no parents
	opaques map[string]bool
	newest  unix.Timespec
	twin    *twin // nil: there is none, or it is of no use

	uids, gids map[uint32]bool
}

func (x *extractor) run(ctx context.Context, r io.Reader) error {
	br := bufio.NewReaderSize(r, 64<<10)
	tr := tar.NewReader(br)
	tr.RawAccounting = x.split != nil
	crc := crc64.MakeTable(crc64.ISO)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				if x.res.Entries == 0 {
					return errs.New(errs.Invalid, "not a tar archive")
				}
				return errs.New(errs.Invalid, "invalid tar header after entry "+strconv.Itoa(x.res.Entries))
			}
			return err
		}
		if x.res.Entries++; x.res.Entries > x.o.MaxEntries {
			return errs.New(errs.Invalid, fmt.Sprintf("more than %d entries", x.o.MaxEntries))
		}
		if x.res.Entries%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if x.split != nil {
			x.split.Segment(tr.RawBytes())
		}
		data := &payload{r: tr}
		if x.split != nil && !x.split.Useless() {
			data.crc = crc
		}
		if err := x.entry(h, data); err != nil {
			return entryError(h, err)
		}
		if err := data.drain(x.buf); err != nil { // what entry had no use for
			return err
		}
		x.res.Content += data.n
		if x.split != nil {
			x.split.File(h.Name, h.Size, data.n, data.sum)
		}
	}
	if x.split != nil {
		x.split.Segment(tr.RawBytes())
	}
	for { // padding, and whatever follows: it belongs to the digest
		n, err := br.Read(x.buf)
		if x.split != nil {
			x.split.Segment(x.buf[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entryError names the entry. Names are quoted: they may hold anything.
func entryError(h *tar.Header, err error) error {
	name := h.Name
	if len(name) > 100 {
		name = name[:100] + "…"
	}
	return fmt.Errorf("entry %q: %w", name, err)
}

// payload reads an entry's data and sums it up for tar-split.
type payload struct {
	r   io.Reader
	crc *crc64.Table // nil: not wanted
	n   int64
	sum uint64
}

func (p *payload) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.n += int64(n)
		if p.crc != nil {
			p.sum = crc64.Update(p.sum, p.crc, b[:n])
		}
	}
	return n, err
}

func (p *payload) drain(buf []byte) error {
	for {
		if _, err := p.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// entry makes what one header asks for.
func (x *extractor) entry(h *tar.Header, data io.Reader) error {
	switch {
	case h.Typeflag == tar.TypeXGlobalHeader:
		return nil
	case h.Typeflag == tar.TypeGNUSparse || hasPrefix(h.PAXRecords, "GNU.sparse."):
		return errs.New(errs.Unsupported, "GNU sparse files are not supported in layers")
	case h.Uid < 0 || h.Uid > math.MaxInt32 || h.Gid < 0 || h.Gid > math.MaxInt32:
		return x.outside(h.Uid, h.Gid)
	case strings.IndexByte(h.Name, 0) >= 0 || strings.IndexByte(h.Linkname, 0) >= 0:
		return errs.New(errs.Invalid, "a NUL byte in its name")
	case len(h.Name) >= maxPath || len(h.Linkname) >= maxPath:
		return errs.E("", errs.Invalid, fmt.Errorf("a path of %d bytes: %w", max(len(h.Name), len(h.Linkname)), unix.ENAMETOOLONG))
	}
	name := clean(h.Name)
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return errs.E("", errs.Invalid, fmt.Errorf("a name of %d bytes: %w", len(part), unix.ENAMETOOLONG))
		}
	}
	mtime := timespec(h.ModTime)
	if mtime.Sec > x.newest.Sec {
		x.newest = mtime
	}
	if name == "" {
		return x.rootEntry(h, mtime)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if !x.o.Plain && (strings.HasPrefix(base, whiteout) || strings.Contains("/"+dir+"/", "/"+whiteoutMeta)) {
		return x.whiteout(dir, base)
	}
	parent, err := x.parent(dir)
	if err != nil {
		return err
	}
	if !x.o.Single {
		x.uids[uint32(h.Uid)], x.gids[uint32(h.Gid)] = true, true
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont:
		if x.twin != nil && x.create(parent, base, func() error { return x.twin.link(dir, base, parent, h) }) == nil {
			return nil
		}
		return x.file(parent, base, h, mtime, data)
	case tar.TypeDir:
		return x.dir(parent, name, base, h, mtime)
	case tar.TypeSymlink:
		if err := x.create(parent, base, func() error { return unix.Symlinkat(h.Linkname, parent, base) }); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return x.special(parent, base, h, mtime)
	case tar.TypeLink:
		return x.hardlink(parent, name, base, h)
	case tar.TypeFifo:
		err := x.create(parent, base, func() error { return unix.Mknodat(parent, base, unix.S_IFIFO|perm(h), 0) })
		if err != nil {
			return fmt.Errorf("mkfifo: %w", err)
		}
		return x.special(parent, base, h, mtime)
	case tar.TypeChar, tar.TypeBlock:
		return x.device(parent, base, h, mtime)
	}
	return errs.New(errs.Unsupported, fmt.Sprintf("unknown type %q", h.Typeflag))
}

func hasPrefix(m map[string]string, prefix string) bool {
	for k := range m {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}

func (x *extractor) file(parent int, base string, h *tar.Header, mtime unix.Timespec, data io.Reader) error {
	fd := -1
	err := x.create(parent, base, func() (err error) {
		// O_EXCL: neither an existing file is written to nor a symlink followed.
		fd, err = sys.CreateAt(parent, base, perm(h)&0o777)
		return err
	})
	if err != nil {
		return err
	}
	err = x.fill(fd, h, data)
	if err == nil {
		err = times(parent, base, mtime)
	}
	return errors.Join(err, unix.Close(fd))
}

func (x *extractor) fill(fd int, h *tar.Header, data io.Reader) error {
	for {
		n, err := data.Read(x.buf)
		for b := x.buf[:n]; len(b) > 0; {
			w, err := unix.Write(fd, b)
			if err != nil && err != unix.EINTR {
				return fmt.Errorf("write: %w", err)
			}
			b = b[max(w, 0):]
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	return x.own(fd, h, unix.S_IFREG)
}

func (x *extractor) warn(text string) {
	if !x.warned[text] && len(x.warned) < 20 {
		x.warned[text] = true
		x.res.Warnings = append(x.res.Warnings, text)
	}
}

func (x *extractor) device(parent int, base string, h *tar.Header, mtime unix.Timespec) error {
	kind := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor > math.MaxUint32 {
		return errs.New(errs.Invalid, "impossible device numbers")
	}
	if kind == unix.S_IFCHR && h.Devmajor == 0 && h.Devminor == 0 {
		return errs.New(errs.Invalid, "a character device 0:0 would hide the file below it; layers say so with .wh. names")
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	err := x.create(parent, base, func() error { return unix.Mknodat(parent, base, kind|perm(h), int(dev)) })
	if errors.Is(err, unix.EPERM) {
		x.warn("device nodes are left out: only root may make them")
		return nil
	}
	if err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	return x.special(parent, base, h, mtime)
}

func (x *extractor) hardlink(parent int, name, base string, h *tar.Header) error {
	target := clean(h.Linkname)
	if target == name {
		return nil
	}
	dir, last := path.Split(target)
	tfd, err := x.resolve(strings.TrimSuffix(dir, "/"))
	if err == nil {
		defer unix.Close(tfd)
		// Looked at first, so that what is in the way is not removed for nothing.
		if err = exists(tfd, last); err == nil {
			err = x.create(parent, base, func() error { return unix.Linkat(tfd, last, parent, base, 0) })
		}
	}
	if err != nil {
		return errs.E("", errs.Invalid, fmt.Errorf("hard link to %q: %w", h.Linkname, err))
	}
	return nil
}
