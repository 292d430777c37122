// Package files writes the files of a layer that no command makes: COPY, ADD and
// WORKDIR. It writes the layer's directory itself, beside the layers below, which
// are only looked at: nothing is mounted.
package files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/sys"
)

// Owner is who a file belongs to.
type Owner struct{ UID, GID uint32 }

// Options say how files are written here.
type Options struct {
	// Single says that only one id exists: other owners are written down in an attribute.
	Single bool
	// Rootless says that overlay's marks are user.* attributes.
	Rootless bool
	// Now is the time of directories that are made on the way.
	Now time.Time
}

// Layer is the directory of a layer that is being written. Its methods are not to
// be called at once.
type Layer struct {
	o      Options
	merged *tree.Tree // this layer and those below it
	base   *tree.Tree // those below it
	root   *dir
	dirs   map[string]*dir // by path, "" the root's
	times  []dirTime
	linked map[inode]string // copies of files with several names, by where they came from
}

type inode struct {
	tree     any
	dev, ino uint64
}

// dir is a directory of the layer.
type dir struct {
	path  string
	fd    int
	below *tree.Dir // the same below; nil if there is none
}

func (d *dir) close() {
	_ = unix.Close(d.fd) // nothing was written by it
	if d.below != nil {
		d.below.Close()
	}
}

// maxDirs is how many directories are kept open.
const maxDirs = 200

type dirTime struct {
	path  string
	mtime unix.Timespec
}

// New begins a layer in the empty directory at, on top of the directories lower,
// top first. at gets the mode and owner that the root has below.
func New(at string, lower []string, o Options) (*Layer, error) {
	l := &Layer{o: o, dirs: map[string]*dir{}, linked: map[inode]string{}}
	var err error
	if l.base, err = tree.Open(lower...); err != nil {
		return nil, err
	}
	if l.merged, err = tree.Open(append([]string{at}, lower...)...); err != nil {
		l.base.Close()
		return nil, err
	}
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		l.Close()
		return nil, &os.PathError{Op: "open", Path: at, Err: err}
	}
	l.root = &dir{path: "", fd: fd}
	l.dirs[""] = l.root
	at0, err := l.base.Walk("/", false)
	if err != nil {
		l.Close()
		return nil, err
	}
	l.root.below, at0.Dir = at0.Dir, nil
	at0.Close()
	if err := Root(fd, l.base); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Root gives the directory fd, which is to be a layer's root, the mode, owner and
// time that the root of base has, or those of an empty image.
func Root(fd int, base *tree.Tree) error {
	st, err := base.Root().Stat()
	if errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o755))
	}
	if err != nil {
		return err
	}
	if st.Uid != 0 || st.Gid != 0 {
		if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	return sys.SetTimesAt(fd, "", st.Mtim)
}

// Close closes the directories. The times of those that were written to are right
// only after Finish.
func (l *Layer) Close() {
	for _, d := range l.dirs {
		d.close()
	}
	l.dirs = nil
	l.base.Close()
	l.merged.Close()
}

// Finish sets the directories' times.
func (l *Layer) Finish() error {
	for _, t := range l.times { // of two for one directory the later counts
		d, err := l.directory(t.path, Made{})
		if err == nil {
			err = sys.SetTimesAt(d.fd, "", t.mtime)
		}
		if err != nil {
			return pathError("set the time of", t.path, err)
		}
	}
	return nil
}

// entry looks up name in the directory d as the finished file system has it.
func (l *Layer) entry(d *dir, name string) (tree.Entry, bool, error) {
	e := tree.Entry{Name: name, At: d.fd}
	err := unix.Fstatat(d.fd, name, &e.Stat, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		return e, true, nil
	}
	if err != unix.ENOENT {
		return e, false, err
	}
	if d.below == nil {
		return e, false, nil
	}
	e, err = d.below.Child(name)
	if err == unix.ENOENT {
		return e, false, nil
	}
	return e, err == nil, err
}

// Made says what a directory gets that was not there.
type Made struct {
	Mode  uint32 // with set-id and sticky bits
	Owner Owner
	Mtime unix.Timespec
}

// directory returns the directory p of the layer, making it and those above it: as
// they are below, if they are, and with parents' attributes otherwise. p has no
// links in it.
func (l *Layer) directory(p string, parents Made) (*dir, error) {
	if d := l.dirs[p]; d != nil {
		return d, nil
	}
	if len(l.dirs) > maxDirs {
		for at, d := range l.dirs {
			if at != "" && !strings.HasPrefix(p, at+"/") {
				d.close()
				delete(l.dirs, at)
			}
		}
	}
	up, err := l.directory(parentOf(p), parents)
	if err != nil {
		return nil, err
	}
	name := path.Base(p)
	e, there, err := l.entry(up, name)
	if err != nil {
		return nil, pathError("look at", p, err)
	}
	switch {
	case !there:
		return l.mkdir(up, name, parents, nil)
	case !e.IsDir():
		return nil, errs.New(errs.Invalid, fmt.Sprintf("cannot copy to non-directory: /%s", p))
	case e.At == up.fd:
		return l.open(up, name)
	}
	// It is below: the same once more, so that this layer can add to it.
	same := Made{Mode: e.Stat.Mode & 0o7777, Owner: Owner{e.Stat.Uid, e.Stat.Gid}, Mtime: e.Stat.Mtim}
	attrs, err := attributes(e.At, e.Name)
	if err != nil {
		return nil, pathError("read the attributes of", p, err)
	}
	return l.mkdir(up, name, same, attrs)
}

func parentOf(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (l *Layer) mkdir(up *dir, name string, m Made, attrs map[string][]byte) (*dir, error) {
	if err := unix.Mkdirat(up.fd, name, 0o700); err != nil {
		return nil, pathError("mkdir", join(up.path, name), err)
	}
	d, err := l.open(up, name)
	if err != nil {
		return nil, err
	}
	if err := l.setDir(d, m); err != nil {
		return nil, err
	}
	for attr, value := range attrs {
		if err := unix.Fsetxattr(d.fd, attr, value, 0); err != nil {
			return nil, pathError("set the attribute "+attr+" of", d.path, err)
		}
	}
	return d, nil
}

// setDir sets a directory's attributes; its time counts from Finish on.
func (l *Layer) setDir(d *dir, m Made) error {
	if err := l.own(d.fd, "", m.Owner, m.Mode, "dir"); err != nil {
		return pathError("set the owner of", d.path, err)
	}
	if err := unix.Fchmod(d.fd, m.Mode&0o7777); err != nil {
		return pathError("chmod", d.path, err)
	}
	l.times = append(l.times, dirTime{d.path, m.Mtime})
	return nil
}

func (l *Layer) open(up *dir, name string) (*dir, error) {
	p := join(up.path, name)
	fd, err := sys.OpenDirAt(up.fd, name)
	if err != nil {
		return nil, pathError("open", p, err)
	}
	d := &dir{path: p, fd: fd}
	if up.below != nil {
		d.below, err = up.below.Open(name)
		if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
			_ = unix.Close(fd)
			return nil, pathError("open", p, err)
		}
	}
	l.dirs[p] = d
	return d, nil
}

func pathError(op, p string, err error) error {
	return &os.PathError{Op: op, Path: "/" + p, Err: err}
}

// Mkdir makes the directory p, and those above it, following links: WORKDIR. One
// that is there stays as it is.
func (l *Layer) Mkdir(p string, owner Owner, mode uint32) error {
	at, err := l.merged.Walk(p, true)
	if err != nil {
		return err
	}
	defer at.Close()
	if at.Exists() {
		if at.Dir == nil {
			return errs.New(errs.Invalid, fmt.Sprintf("%s is not a directory", p))
		}
		return nil
	}
	_, err = l.directory(strings.TrimPrefix(at.Full(), "/"), l.made(owner, mode))
	return err
}

func (l *Layer) made(owner Owner, mode uint32) Made {
	return Made{Mode: mode, Owner: owner, Mtime: unix.NsecToTimespec(l.o.Now.UnixNano())}
}

// overrideXattr is where the store keeps owners when there is one id only.
const overrideXattr = "user.containers.override_stat"

// own sets the owner of fd, or of name in fd.
func (l *Layer) own(fd int, name string, o Owner, mode uint32, typ string) error {
	if o == (Owner{}) {
		return nil
	}
	if !l.o.Single {
		var err error
		if name == "" {
			err = unix.Fchown(fd, int(o.UID), int(o.GID))
		} else {
			err = unix.Fchownat(fd, name, int(o.UID), int(o.GID), unix.AT_SYMLINK_NOFOLLOW)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOVERFLOW) {
			err = errs.New(errs.Unsupported, fmt.Sprintf("uid %d, gid %d does not exist in your user namespace", o.UID, o.GID))
			return errs.WithHint(err, "Give the user more subordinate ids (/etc/subuid, /etc/subgid).")
		}
		return err
	}
	if name != "" { // what cannot be opened has no room for it, as in the store
		return nil
	}
	value := fmt.Sprintf("%d:%d:%04o:%s", o.UID, o.GID, mode&0o7777, typ)
	err := unix.Fsetxattr(fd, overrideXattr, []byte(value), 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil // a file system without such attributes: it stays ours
	}
	return err
}

// attributes reads what a directory has that an image keeps.
func attributes(at int, name string) (map[string][]byte, error) {
	return sys.XattrsAt(at, name, func(attr string) bool {
		return attr == "security.capability" || strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
	})
}
