package unpack

import (
	"os"

	"github.com/vbatts/tar-split/archive/tar"
	"golang.org/x/sys/unix"
)

// twin is a directory with the same entries.
type twin struct {
	o    Options
	root int
	path string // of the directory that is open: most entries follow one of the same
	fd   int    // -1: none is
}

func openTwin(o Options) (*twin, error) {
	root, err := unix.Open(o.Twin, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: o.Twin, Err: err}
	}
	return &twin{o: o, root: root, fd: -1}, nil
}

func (t *twin) close() {
	_ = unix.Close(t.root) // O_PATH: nothing to lose
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
	}
}

// link makes the file base of dir a name in parent, too, if it is what writing it
// would make: its owner may have been another when the store had other ids. Any
// error means that it must be written.
func (t *twin) link(dir, base string, parent int, h *tar.Header) error {
	if t.fd < 0 || t.path != dir {
		fd, err := openDir(t.root, dir)
		if err != nil {
			return err
		}
		if t.fd >= 0 {
			_ = unix.Close(t.fd)
		}
		t.path, t.fd = dir, fd
	}
	var st unix.Stat_t
	if err := unix.Fstatat(t.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	uid, gid := h.Uid, h.Gid
	if t.o.Single {
		uid, gid = 0, 0
	}
	if st.Mode != unix.S_IFREG|perm(h) || int(st.Uid) != uid || int(st.Gid) != gid || st.Size != h.Size {
		return unix.ESTALE
	}
	return unix.Linkat(t.fd, base, parent, base, 0)
}
