package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/sys"
)

// Copy says where files go and what they are given.
type Copy struct {
	// Dest is absolute; a slash at its end says that it is a directory, and so does Dir.
	Dest string
	Dir  bool
	// Owner, if set, is that of all that is copied and of all directories made.
	Owner *Owner
	// Mode, if set, changes the modes of what is copied.
	Mode *graph.Mode
	// Merge has directories of what is copied go into what is there, through a link,
	// too, and files take the place of anything else.
	Merge bool
	// Parents puts each match at its name with the directories in it.
	Parents bool
}

// Match is one source.
type Match struct {
	Tree  *source.Tree
	Match *source.Match
	// KeepOwner leaves files their owners; otherwise they are 0:0.
	KeepOwner bool
}

// Copy writes matches.
func (l *Layer) Copy(ctx context.Context, c Copy, matches ...Match) error {
	p := newPool(ctx, l)
	for _, m := range matches {
		if err := l.place(p, c, m); err != nil {
			p.stop(err)
			break
		}
	}
	return p.wait()
}

// File writes a file that the Dockerfile has in it.
func (l *Layer) File(c Copy, f graph.File) error {
	d, name, err := l.target(c, f.Name)
	if err != nil {
		return err
	}
	mode := uint32(f.Mode.Perm())
	if c.Mode != nil {
		mode = c.Mode.Of(mode, false)
	}
	fd, err := l.create(d, name)
	if err != nil {
		return err
	}
	_, err = fd.Write(f.Data)
	if err == nil {
		err = l.own(int(fd.Fd()), "", c.owner(), mode, "file")
	}
	if err == nil {
		err = unix.Fchmod(int(fd.Fd()), mode&0o7777)
	}
	if err == nil {
		err = sys.SetTimesAt(int(fd.Fd()), "", unix.NsecToTimespec(l.o.Now.UnixNano()))
	}
	if err = errors.Join(err, fd.Close()); err != nil {
		return pathError("write", join(d.path, name), err)
	}
	return nil
}

// onTheWay is the mode of directories that lead to the destination and are made: that of
// an octal --chmod, as in BuildKit.
func (c *Copy) onTheWay() uint32 {
	if c.Mode != nil {
		if bits, ok := c.Mode.Octal(); ok {
			return bits & 0o777
		}
	}
	return 0o755
}

func (c *Copy) owner() Owner {
	if c.Owner == nil {
		return Owner{}
	}
	return *c.Owner
}

// target finds where a file called name goes, and makes the directory for it.
func (l *Layer) target(c Copy, name string) (*dir, string, error) {
	at, err := l.merged.Walk(c.Dest, true)
	if err != nil {
		return nil, "", err
	}
	defer at.Close()
	full := strings.TrimPrefix(at.Full(), "/")
	if c.Dir || strings.HasSuffix(c.Dest, "/") || at.Exists() && at.Dir != nil {
		full = join(full, name)
	}
	d, err := l.directory(parentOf(full), l.made(c.owner(), c.onTheWay()))
	return d, path.Base(full), err
}

// place writes one match.
func (l *Layer) place(p *pool, c Copy, m Match) error {
	if c.Parents {
		return l.placeParents(p, c, m)
	}
	if !m.Match.IsDir() {
		d, name, err := l.target(c, m.Match.Name)
		if err != nil {
			return err
		}
		return l.leaf(p, c, m, &m.Match.Entries[0], d, name)
	}
	at, err := l.merged.Walk(c.Dest, true)
	if err != nil {
		return err
	}
	defer at.Close()
	full := strings.TrimPrefix(at.Full(), "/")
	if at.Exists() && at.Dir == nil {
		return errs.New(errs.Invalid, fmt.Sprintf("cannot copy to non-directory: /%s", full))
	}
	if _, err := l.directory(parentOf(full), l.made(c.owner(), c.onTheWay())); err != nil {
		return err
	}
	// The contents are copied, not the directory: a new one is as any that is made
	// on the way, but for --chmod.
	mode := uint32(0o755)
	if c.Mode != nil {
		mode = c.Mode.Of(mode, true)
	}
	d, err := l.directory(full, l.made(c.owner(), mode))
	if err != nil {
		return err
	}
	return l.contents(p, c, m, d)
}

// placeParents writes a match below the directories that its name has.
func (l *Layer) placeParents(p *pool, c Copy, m Match) error {
	at, err := l.merged.Walk(c.Dest, true)
	if err != nil {
		return err
	}
	defer at.Close()
	full := strings.TrimPrefix(at.Full(), "/")
	d, err := l.directory(full, l.made(c.owner(), c.onTheWay()))
	if err != nil {
		return err
	}
	for i := range m.Match.Parents {
		e := &m.Match.Parents[i]
		if d, err = l.child(c, m, e, d, path.Base(e.Rel)); err != nil {
			return err
		}
	}
	switch name := path.Base(m.Match.Name); {
	case name == ".":
		return l.contents(p, c, m, d)
	case m.Match.IsDir():
		if d, err = l.child(c, m, &m.Match.Entries[0], d, name); err != nil {
			return err
		}
		return l.contents(p, c, m, d)
	default:
		return l.leaf(p, c, m, &m.Match.Entries[0], d, name)
	}
}

// contents writes what is in the directory m into d.
func (l *Layer) contents(p *pool, c Copy, m Match, d *dir) error {
	// Where the directories of the match are: through links, if they are merged.
	at := map[string]string{"": d.path}
	for i := range m.Match.Entries[1:] {
		e := &m.Match.Entries[i+1]
		if i%256 == 0 && p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		up, err := l.directory(at[parentOf(e.Rel)], Made{})
		if err != nil {
			return err
		}
		if e.IsDir() {
			sub, err := l.child(c, m, e, up, path.Base(e.Rel))
			if err != nil {
				return err
			}
			at[e.Rel] = sub.path
			continue
		}
		if err := l.leaf(p, c, m, e, up, path.Base(e.Rel)); err != nil {
			return err
		}
	}
	return nil
}

// attrs is what a copied directory gets.
func (l *Layer) attrs(c Copy, m Match, e *source.Entry) Made {
	made := Made{Mode: e.Mode & 0o7777, Mtime: e.Mtime, Owner: c.owner()}
	if c.Owner == nil && m.KeepOwner {
		made.Owner = Owner{e.UID, e.GID}
	}
	if c.Mode != nil {
		made.Mode = c.Mode.Of(made.Mode, true)
	}
	return made
}

// child makes the directory e in up, or gives one that is there e's attributes.
func (l *Layer) child(c Copy, m Match, e *source.Entry, up *dir, name string) (*dir, error) {
	old, there, err := l.entry(up, name)
	if err != nil {
		return nil, pathError("look at", join(up.path, name), err)
	}
	made := l.attrs(c, m, e)
	if !there {
		return l.mkdir(up, name, made, nil)
	}
	if !old.IsDir() && c.Merge {
		return l.mergeDir(made, up, name, old)
	}
	if !old.IsDir() {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("cannot copy to non-directory: /%s", join(up.path, name)))
	}
	d, err := l.directory(join(up.path, name), made)
	if err != nil {
		return nil, err
	}
	return d, l.setDir(d, made)
}

// mergeDir is the directory that the link old leads to, or one in the place of
// what is there.
func (l *Layer) mergeDir(made Made, up *dir, name string, old tree.Entry) (*dir, error) {
	full := join(up.path, name)
	if old.IsLink() {
		at, err := l.merged.Walk("/"+full, true)
		if err == nil {
			defer at.Close()
			if at.Exists() && at.Dir != nil {
				return l.directory(strings.TrimPrefix(at.Path, "/"), made)
			}
		}
	}
	if old.At == up.fd {
		if err := unix.Unlinkat(up.fd, name, 0); err != nil {
			return nil, pathError("remove", full, err)
		}
	}
	return l.mkdir(up, name, made, nil)
}

// leaf writes what is no directory.
func (l *Layer) leaf(p *pool, c Copy, m Match, e *source.Entry, d *dir, name string) error {
	full := join(d.path, name)
	made := l.attrs(c, m, e)
	if c.Mode != nil {
		made.Mode = c.Mode.Of(e.Mode&0o7777, false)
	}
	var id inode
	if e.Nlink > 1 {
		id = inode{m.Tree, e.Dev, e.Ino}
		if first, ok := l.linked[id]; ok {
			p.drain() // the first may be under way
			return l.link(first, d, name)
		}
	}
	switch e.Type() {
	case unix.S_IFREG:
		f, err := l.create(d, name)
		if err != nil {
			return err
		}
		if id.tree != nil {
			l.linked[id] = full
		}
		p.add(job{m: m, e: e, to: f, made: made, path: full})
		return nil
	case unix.S_IFLNK:
		target, err := m.Tree.Readlink(m.Match, e)
		if err != nil {
			return err
		}
		err = l.replace(d, name, func() error { return unix.Symlinkat(target, d.fd, name) })
		if err != nil {
			return pathError("symlink", full, err)
		}
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		err := l.replace(d, name, func() error { return unix.Mknodat(d.fd, name, e.Mode&unix.S_IFMT|0o600, int(e.Rdev)) })
		if err != nil {
			return pathError("mknod", full, err)
		}
		if err := unix.Fchmodat(d.fd, name, made.Mode&0o7777, 0); err != nil {
			return pathError("chmod", full, err)
		}
	default:
		return nil // a socket
	}
	if err := l.own(d.fd, name, made.Owner, made.Mode, "file"); err != nil {
		return pathError("set the owner of", full, err)
	}
	if err := sys.SetTimesAt(d.fd, name, e.Mtime); err != nil {
		return pathError("set the time of", full, err)
	}
	if id.tree != nil {
		l.linked[id] = full
	}
	return nil
}

// link makes the second name of a file.
func (l *Layer) link(first string, d *dir, name string) error {
	from, err := l.directory(parentOf(first), Made{})
	if err != nil {
		return err
	}
	if d, err = l.directory(d.path, Made{}); err != nil { // it may have been closed for the other
		return err
	}
	err = l.replace(d, name, func() error { return unix.Linkat(from.fd, path.Base(first), d.fd, name, 0) })
	if err != nil {
		return pathError("link", join(d.path, name), err)
	}
	return nil
}

// replace runs make in the place of what may be there, which must not be a directory.
func (l *Layer) replace(d *dir, name string, make func() error) error {
	old, there, err := l.entry(d, name)
	if err != nil {
		return err
	}
	if there && old.IsDir() {
		return errs.New(errs.Invalid, fmt.Sprintf("cannot replace to directory /%s with file", join(d.path, name)))
	}
	if there && old.At == d.fd {
		if err := unix.Unlinkat(d.fd, name, 0); err != nil {
			return err
		}
	}
	return make()
}

// create makes a new regular file, mode 0600 for now.
func (l *Layer) create(d *dir, name string) (*os.File, error) {
	fd := -1
	open := func() (err error) {
		fd, err = sys.CreateAt(d.fd, name, 0o600)
		return err
	}
	err := error(unix.EEXIST)
	if d.below == nil { // there is nothing but this layer
		err = open()
	}
	if errors.Is(err, unix.EEXIST) {
		err = l.replace(d, name, open)
	}
	if err != nil {
		return nil, pathError("create", join(d.path, name), err)
	}
	return os.NewFile(uintptr(fd), "/"+join(d.path, name)), nil
}

// job is the content of one file.
type job struct {
	m    Match
	e    *source.Entry
	to   *os.File
	made Made
	path string
}

// pool copies contents beside each other: small files are all system calls.
type pool struct {
	ctx  context.Context
	stop context.CancelCauseFunc
	l    *Layer
	jobs chan job // nil until there is one
	todo sync.WaitGroup
	done sync.WaitGroup
}

func newPool(ctx context.Context, l *Layer) *pool {
	p := &pool{l: l}
	p.ctx, p.stop = context.WithCancelCause(ctx)
	return p
}

func (p *pool) start() {
	p.jobs = make(chan job, 64)
	for range min(8, 2*runtime.GOMAXPROCS(0)) {
		p.done.Go(func() {
			buf := make([]byte, 128<<10)
			for j := range p.jobs {
				if p.ctx.Err() == nil {
					if err := p.copy(j, buf); err != nil {
						p.stop(err)
					}
				}
				_ = j.to.Close() // after an error all of it is thrown away
				p.todo.Done()
			}
		})
	}
}

func (p *pool) add(j job) {
	if p.jobs == nil {
		p.start()
	}
	p.todo.Add(1)
	p.jobs <- j
}

// drain waits until all that was added is copied.
func (p *pool) drain() { p.todo.Wait() }

func (p *pool) wait() error {
	if p.jobs != nil {
		close(p.jobs)
	}
	p.done.Wait()
	err := context.Cause(p.ctx)
	p.stop(nil)
	return err
}

func (p *pool) copy(j job, buf []byte) error {
	f, err := j.m.Tree.Open(j.m.Match, j.e)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.data(j, f, buf); err != nil {
		return fmt.Errorf("copy to /%s: %w", j.path, err)
	}
	if err := j.m.Tree.Same(f, j.e); err != nil {
		return err
	}
	to := int(j.to.Fd())
	if err := p.l.own(to, "", j.made.Owner, j.made.Mode, "file"); err != nil {
		return pathError("set the owner of", j.path, err)
	}
	if err := unix.Fchmod(to, j.made.Mode&0o7777); err != nil { // after the owner, whose change clears set-id bits
		return pathError("chmod", j.path, err)
	}
	for name, value := range source.Xattrs(int(f.Fd())) {
		err := unix.Fsetxattr(to, name, value, 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return pathError("set the attribute "+name+" of", j.path, err)
		}
	}
	if err := sys.SetTimesAt(to, "", j.made.Mtime); err != nil {
		return pathError("set the time of", j.path, err)
	}
	return nil
}

func (p *pool) data(j job, f *os.File, buf []byte) error {
	if j.e.Size == 0 {
		return nil
	}
	if j.e.Size > int64(len(buf)) {
		// Shares the blocks where the file system can (ioctl_ficlonerange(2)).
		if unix.IoctlFileClone(int(j.to.Fd()), int(f.Fd())) == nil {
			return nil
		}
		return p.big(j, f, buf)
	}
	n, err := io.ReadFull(f, buf[:j.e.Size])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	_, err = j.to.Write(buf[:n])
	return err
}

func (p *pool) big(j job, f *os.File, buf []byte) error {
	for left := j.e.Size; left > 0; {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		n, err := unix.CopyFileRange(int(f.Fd()), nil, int(j.to.Fd()), nil, int(min(left, 64<<20)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 { // between these two file systems, or at all
			break
		}
		left -= int64(n)
	}
	for {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		n, err := f.Read(buf)
		if n > 0 {
			if _, err := j.to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
