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
	"time"

	"github.com/vbatts/tar-split/archive/tar"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
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
	// MaxEntries bounds the entries; 0: 4 million.
	MaxEntries int
	// TarSplit receives the tar-split entries; nil: none are made.
	TarSplit io.Writer
}

// Result is what was found in a layer.
type Result struct {
	UIDs, GIDs []uint32 // owners of the entries, sorted; without whiteouts
	Entries    int
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
		x.split = newSplitter(o.TarSplit)
	}
	defer x.dropParent()
	if err := x.run(ctx, r); err != nil {
		return res, err
	}
	if err := x.finish(); err != nil {
		return res, err
	}
	if x.split != nil {
		if err := x.split.flush(); err != nil {
			return res, fmt.Errorf("write tar-split: %w", err)
		}
		x.res.NoTarSplit = x.split.useless
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
	split   *splitter
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

	uids, gids map[uint32]bool
}

// dirMeta is what is left to do with a directory when its contents are there.
type dirMeta struct {
	path  string
	ino   uint64 // to leave alone what has taken its place
	mode  uint32 // permission bits to set; noMode: they are right already
	mtime unix.Timespec
}

const noMode = math.MaxUint32

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
			x.split.segment(tr.RawBytes())
		}
		data := &payload{r: tr}
		if x.split != nil && !x.split.useless {
			data.crc = crc
		}
		if err := x.entry(h, data); err != nil {
			return entryError(h, err)
		}
		if err := data.drain(x.buf); err != nil { // what entry had no use for
			return err
		}
		if x.split != nil {
			x.split.file(h.Name, h.Size, data.n, data.sum)
		}
	}
	if x.split != nil {
		x.split.segment(tr.RawBytes())
	}
	for { // padding, and whatever follows: it belongs to the digest
		n, err := br.Read(x.buf)
		if x.split != nil {
			x.split.segment(x.buf[:n])
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
	if strings.HasPrefix(base, whiteout) || strings.Contains("/"+dir+"/", "/"+whiteoutMeta) {
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

// clean makes a name relative to the root; ".." stops there.
func clean(name string) string { return path.Clean("/" + name)[1:] }

func perm(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// parent returns a descriptor of the directory dir, which stays the
// extractor's. What is missing of it is made.
func (x *extractor) parent(dir string) (int, error) {
	if x.parentFD >= 0 && x.parentPath == dir {
		return x.parentFD, nil
	}
	fd, err := x.resolve(dir)
	if errors.Is(err, unix.ENOENT) {
		fd, err = x.makeAll(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("its directory %q: %w", dir, err)
	}
	x.dropParent()
	x.parentPath, x.parentFD = dir, fd
	return fd, nil
}

func (x *extractor) dropParent() {
	if x.parentFD >= 0 {
		_ = unix.Close(x.parentFD) // O_PATH: nothing to lose
		x.parentFD = -1
	}
}

// resolve opens a directory; symlinks on the way stay inside the root.
func (x *extractor) resolve(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(x.root, dir, &how)
		// EAGAIN: something on the system was renamed while ".." was resolved.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// makeAll makes the missing directories of dir: root's, 0755, with a time that
// does not depend on the day.
func (x *extractor) makeAll(dir string) (int, error) {
	fd, err := x.resolve("")
	for i := 0; err == nil && i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		up := fd
		fd, err = x.resolve(dir[:i])
		if errors.Is(err, unix.ENOENT) {
			base := path.Base(dir[:i])
			if err = unix.Mkdirat(up, base, 0o755); err == nil {
				x.implied = append(x.implied, dir[:i])
				fd, err = x.resolve(dir[:i])
			} else if errors.Is(err, unix.EEXIST) {
				err = errs.New(errs.Invalid, "a symlink that leads nowhere is in the way")
			}
		}
		_ = unix.Close(up)
	}
	return fd, err
}

// create runs make, and once more when it has removed what was in the way:
// the last entry of a name wins.
func (x *extractor) create(parent int, base string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := x.remove(parent, base); err != nil {
		return fmt.Errorf("replace what has its name: %w", err)
	}
	return make()
}

func (x *extractor) remove(parent int, base string) error {
	err := removeAll(parent, base)
	if x.parentFD != parent { // cannot be: entries are made in the parent that is kept
		return err
	}
	x.parentPath = "\x00" // the descriptor stays open for the caller; no path equals this
	return err
}

// removeAll removes base in parent with all below, without following anything.
func removeAll(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if unix.Unlinkat(parent, base, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := removeAll(fd, name); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

func (x *extractor) file(parent int, base string, h *tar.Header, mtime unix.Timespec, data io.Reader) error {
	fd := -1
	err := x.create(parent, base, func() (err error) {
		// O_EXCL: neither an existing file is written to nor a symlink followed.
		fd, err = unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm(h)&0o777)
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

// own sets owner, special mode bits and attributes, in the order in which one
// does not undo the other: chown clears set-id bits and capabilities.
func (x *extractor) own(fd int, h *tar.Header, kind uint32) error {
	switch {
	case h.Uid == 0 && h.Gid == 0:
	case x.o.Single:
		x.warn("its owners are recorded only, because this user has no subordinate ids")
		typ := "file"
		if kind == unix.S_IFDIR {
			typ = "dir"
		}
		value := fmt.Sprintf("%d:%d:%04o:%s", h.Uid, h.Gid, perm(h), typ)
		if err := x.setAttr(overrideXattr, func() error { return unix.Fsetxattr(fd, overrideXattr, []byte(value), 0) }); err != nil {
			return err
		}
	default:
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			if err = x.chownError(h, err); err != nil {
				return err
			}
		}
	}
	if kind == unix.S_IFREG && perm(h)&0o7000 != 0 {
		if err := unix.Fchmod(fd, perm(h)); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return x.xattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

func (x *extractor) chownError(h *tar.Header, err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOVERFLOW) {
		if x.o.IgnoreChown {
			x.warn("owners that do not exist here became root, as ignore_chown_errors asks")
			return nil
		}
		return x.outside(h.Uid, h.Gid)
	}
	return fmt.Errorf("chown: %w", err)
}

// outside is the error for an owner that does not exist here.
func (x *extractor) outside(uid, gid int) error {
	has := ""
	if x.o.Range != "" {
		has = ", and the ids here are " + x.o.Range
	}
	err := errs.New(errs.Unsupported, fmt.Sprintf("it belongs to uid %d, gid %d%s", uid, gid, has))
	return errs.WithHint(err, "Give the user more subordinate ids (/etc/subuid, /etc/subgid), or set ignore_chown_errors in storage.conf.")
}

func (x *extractor) xattrs(h *tar.Header, set func(name string, value []byte) error) error {
	for name, value := range h.Xattrs {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") ||
			name == overrideXattr || name == "security.selinux" {
			continue // marks of the store and labels of this host: not an image's to set
		}
		if err := x.setAttr(name, func() error { return set(name, []byte(value)) }); err != nil {
			return err
		}
	}
	return nil
}

// setAttr gives the errors of setxattr(2) the meaning they have here.
func (x *extractor) setAttr(name string, set func() error) error {
	switch err := set(); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM):
		x.warn("extended attributes such as " + strconv.Quote(name) + " are left out: " + err.Error())
		return nil
	case errors.Is(err, unix.ENOSPC):
		// Not the disk: ext4 keeps an inode's attributes in one block.
		return errs.New(errs.Unsupported, fmt.Sprintf("the file system has no room for its extended attribute %q: they take more than one block", name))
	case errors.Is(err, unix.E2BIG):
		return errs.New(errs.Unsupported, fmt.Sprintf("its extended attribute %q has more than 64 KiB", name))
	default:
		return fmt.Errorf("set extended attribute %q: %w", name, err)
	}
}

func (x *extractor) warn(text string) {
	if !x.warned[text] && len(x.warned) < 20 {
		x.warned[text] = true
		x.res.Warnings = append(x.res.Warnings, text)
	}
}

func times(parent int, base string, t unix.Timespec) error {
	err := unix.UtimesNanoAt(parent, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("utimensat: %w", err)
	}
	return nil
}

// special finishes what cannot be opened: symlinks, pipes, devices.
func (x *extractor) special(parent int, base string, h *tar.Header, mtime unix.Timespec) error {
	if (h.Uid != 0 || h.Gid != 0) && !x.o.Single {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if err = x.chownError(h, err); err != nil {
				return err
			}
		}
	}
	if len(h.Xattrs) > 0 {
		p := "/proc/self/fd/" + strconv.Itoa(parent) + "/" + base
		if err := x.xattrs(h, func(name string, value []byte) error { return unix.Lsetxattr(p, name, value, 0) }); err != nil {
			return err
		}
	}
	return times(parent, base, mtime)
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

func exists(parent int, base string) error {
	if base == "" {
		return unix.EISDIR
	}
	var st unix.Stat_t
	return unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
}

func (x *extractor) dir(parent int, name, base string, h *tar.Header, mtime unix.Timespec) error {
	mode := perm(h)
	err := unix.Mkdirat(parent, base, mode&0o777)
	made := err == nil
	opaque := false
	var st unix.Stat_t
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		err = nil
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			// A directory in the place of a whiteout of this layer hides all that
			// the layers below have in theirs.
			opaque = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
			if err := x.remove(parent, base); err != nil {
				return err
			}
			err, made = unix.Mkdirat(parent, base, mode&0o777), true
		}
	}
	if err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if made && mode&0o7000 == 0 {
		mode = noMode
	}
	x.dirs = append(x.dirs, dirMeta{name, st.Ino, mode, mtime})
	if h.Uid == 0 && h.Gid == 0 && len(h.Xattrs) == 0 && !opaque && made {
		return nil
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !made && h.Uid == 0 && h.Gid == 0 { // it may belong to somebody
		if err := unix.Fchown(fd, 0, 0); err != nil {
			return x.chownError(h, err)
		}
	}
	if opaque {
		if err := x.setOpaque(fd, name); err != nil {
			return err
		}
	}
	return x.own(fd, h, unix.S_IFDIR)
}

func (x *extractor) setOpaque(fd int, name string) error {
	if x.opaques[name] {
		return nil
	}
	if err := unix.Fsetxattr(fd, x.overlay+"opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("mark as opaque: %w", err)
	}
	x.opaques[name] = true
	return nil
}

func (x *extractor) rootEntry(h *tar.Header, mtime unix.Timespec) error {
	if h.Typeflag != tar.TypeDir {
		return errs.New(errs.Invalid, "the layer's root is not a directory")
	}
	mode := os.FileMode(perm(h) & 0o777)
	for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if perm(h)&bit != 0 {
			mode |= m
		}
	}
	x.res.RootMode = &mode
	fd, err := unix.Openat(x.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	x.dirs = append(x.dirs, dirMeta{"", st.Ino, perm(h), mtime})
	if !x.o.Single {
		x.uids[uint32(h.Uid)], x.gids[uint32(h.Gid)] = true, true
	}
	return x.own(fd, h, unix.S_IFDIR)
}

// whiteout hides what lower layers have.
func (x *extractor) whiteout(dir, base string) error {
	if base != whiteoutOpaque && (strings.HasPrefix(base, whiteoutMeta) || strings.Contains("/"+dir+"/", "/"+whiteoutMeta)) {
		return nil // what aufs kept for itself
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errs.New(errs.Invalid, "a whiteout that names nothing")
	}
	parent, err := x.parent(dir)
	if err != nil {
		return err
	}
	if base == whiteoutOpaque {
		fd, err := unix.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return x.setOpaque(fd, dir)
	}
	if err := x.create(parent, hidden, func() error { return unix.Mknodat(parent, hidden, unix.S_IFCHR, 0) }); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

// finish sets the directories' modes and times, deepest first.
func (x *extractor) finish() error {
	x.dropParent()
	if x.res.RootMode == nil {
		// No entry for the root: Docker's mode, not the 0555 that it was made with.
		x.dirs = append(x.dirs, dirMeta{path: "", mode: 0o755, mtime: x.newest})
	}
	for _, name := range x.implied {
		x.dirs = append(x.dirs, dirMeta{path: name, mode: noMode, mtime: x.newest})
	}
	if len(x.implied) > 0 { // an entry of its own counts more, wherever it comes
		named := make(map[string]bool, len(x.dirs))
		for _, d := range x.dirs[:len(x.dirs)-len(x.implied)] {
			named[d.path] = true
		}
		x.dirs = slices.DeleteFunc(x.dirs, func(d dirMeta) bool { return d.ino == 0 && d.path != "" && named[d.path] })
	}
	slices.SortStableFunc(x.dirs, func(a, b dirMeta) int { return strings.Compare(b.path, a.path) })
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for _, d := range x.dirs {
		if err := x.finishDir(d, &how); err != nil {
			return fmt.Errorf("directory %q: %w", d.path, err)
		}
	}
	return nil
}

func (x *extractor) finishDir(d dirMeta, how *unix.OpenHow) error {
	name := d.path
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(x.root, name, how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // replaced by a later entry
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if d.ino != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Ino != d.ino {
			return nil
		}
	}
	if d.mode != noMode {
		if err := unix.Fchmod(fd, d.mode); err != nil {
			return err
		}
	}
	return times(fd, ".", d.mtime)
}
