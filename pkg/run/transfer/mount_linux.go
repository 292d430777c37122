package transfer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a container's tree as its next start would mount it. It goes into JSON
// for the process that mounts it.
type Tree struct {
	Lower     []string `json:"lower"` // top first
	Upper     string   `json:"upper"`
	Work      string   `json:"work"`
	At        string   `json:"at"` // an empty directory
	UserXattr bool     `json:"userXattr,omitempty"`
	ReadOnly  bool     `json:"readOnly,omitempty"`
	Binds     []Bind   `json:"binds,omitempty"` // parents first
	// Workdir is a directory that a start makes where it is missing, and so does
	// Mount; "": none.
	Workdir string `json:"workdir,omitempty"`
}

// Bind is a directory or a file of this machine's that is seen in the tree.
type Bind struct {
	Source   string `json:"source"`
	Subpath  string `json:"subpath,omitempty"` // below it, as if it was the root
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Mount mounts t in this process's mount namespace, which must be its own, and
// opens its root. What cannot be bound is left out: it is not there either when
// nobody runs.
func (t *Tree) Mount() (*os.File, error) {
	fs, err := t.overlay()
	if err != nil {
		return nil, fmt.Errorf("mount the container's files: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.MoveMount(fs, "", unix.AT_FDCWD, t.At, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, &os.PathError{Op: "move_mount", Path: t.At, Err: err}
	}
	f, err := os.OpenFile(t.At, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for _, b := range t.Binds {
		if err := b.mount(NewRoot(f)); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, errors.Join(fmt.Errorf("mount %s at %s: %w", b.Source, b.Target, err), f.Close())
		}
	}
	if t.Workdir != "" {
		_ = NewRoot(f).mkdirs(t.Workdir) // what is in its way, the start will tell
	}
	if t.ReadOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fs, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return nil, errors.Join(os.NewSyscallError("mount_setattr", err), f.Close())
		}
	}
	return f, nil
}

func (t *Tree) overlay() (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			err = unix.FsconfigSetString(fs, key, value)
		}
	}
	for _, l := range t.Lower {
		set("lowerdir+", l)
	}
	if errors.Is(err, unix.EINVAL) { // before Linux 6.7
		return t.older()
	}
	set("upperdir", t.Upper)
	set("workdir", t.Work)
	if t.UserXattr && err == nil {
		err = unix.FsconfigSetFlag(fs, "userxattr")
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// older mounts with one page of options, and takes a detached copy of that.
func (t *Tree) older() (int, error) {
	options := "lowerdir=" + strings.Join(t.Lower, ":") + ",upperdir=" + t.Upper + ",workdir=" + t.Work
	if t.UserXattr {
		options += ",userxattr"
	}
	if err := unix.Mount("overlay", t.At, "overlay", 0, options); err != nil {
		return -1, os.NewSyscallError("mount", err)
	}
	return unix.OpenTree(unix.AT_FDCWD, t.At, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

func (b *Bind) mount(r Root) error {
	source, err := b.open()
	if err != nil {
		return err
	}
	defer unix.Close(source)
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := r.mkdirs(b.Target); err != nil {
			return err
		}
	}
	target, err := r.open(b.Target, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if b.ReadOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(source, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return os.NewSyscallError("mount_setattr", err)
		}
	}
	return unix.MoveMount(source, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// open returns a detached copy of what is bound.
func (b *Bind) open() (int, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	if b.Subpath == "" {
		return unix.OpenTree(unix.AT_FDCWD, b.Source, flags)
	}
	top, err := unix.Open(b.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(top)
	at, err := Root{top}.open(b.Subpath, unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return unix.OpenTree(at, "", flags|unix.AT_EMPTY_PATH)
}

// mkdirs makes the directory p, and those above it, where they are missing.
func (r Root) mkdirs(p string) error {
	p = path.Clean("/" + p)
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		fd, err := r.open(at, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if err = unix.Mkdirat(fd, part, 0o755); err == nil {
			err = unix.Fchmodat(fd, part, 0o755, 0) // whatever the umask
		}
		_ = unix.Close(fd) // O_PATH
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "mkdir", Path: path.Join(at, part), Err: err}
		}
		at = path.Join(at, part)
	}
	return nil
}
