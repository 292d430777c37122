package unpack

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vbatts/tar-split/archive/tar"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

func perm(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
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

// xattrRecord begins the names of the PAX records that hold attributes.
const xattrRecord = "SCHILY.xattr."

func (x *extractor) xattrs(h *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
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

func times(parent int, base string, t unix.Timespec) error {
	err := sys.SetTimesAt(parent, base, t)
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
	if hasPrefix(h.PAXRecords, xattrRecord) {
		p := sys.FDPath(parent) + "/" + base
		if err := x.xattrs(h, func(name string, value []byte) error { return unix.Lsetxattr(p, name, value, 0) }); err != nil {
			return err
		}
	}
	return times(parent, base, mtime)
}
