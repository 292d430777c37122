package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/sys"
)

// A container with a user namespace of its own sees other owners than the image's
// layers have. It gets a copy of the image's tree with the owners that its ids
// have outside: <root>/idmapped/<key>/root, one for all containers with the same
// layers and ids. It stays until no container uses it and somebody prunes, or its
// layers are gone.

func (s *Service) mappedDir() string { return filepath.Join(s.store.Root, "idmapped") }

// lockMapped keeps the copies and the ids that nobody has as they are, for a
// container that may need some.
func (s *Service) lockMapped(ctx context.Context, req plan.Request) (*lock.Lock, error) {
	if (req.UserNS == "" || req.UserNS == "host") && len(req.UIDMaps)+len(req.GIDMaps) == 0 && req.SubUIDName == "" && req.SubGIDName == "" {
		return nil, nil //nolint:nilnil // nothing to keep
	}
	dir := s.mappedDir()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	return lock.Acquire(ctx, filepath.Join(dir, "lock"), true)
}

func (d *decided) release() error {
	if d.mapped == nil {
		return nil
	}
	return d.mapped.Release()
}

// mapped returns the lower directories that show layers with the owners that ids
// makes them. The caller holds lockMapped's lock.
func (s *Service) mapped(ctx context.Context, layers []string, ids plan.IDs) ([]string, error) {
	if !ids.Own() || ids.Plain() {
		return layers, nil
	}
	dir := s.mappedDir()
	text, err := json.Marshal(mapJob{Layers: layers, IDs: ids})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	at := filepath.Join(dir, hex.EncodeToString(sum[:16]))
	if _, err := os.Lstat(at); err == nil {
		return []string{filepath.Join(at, "root")}, nil
	}
	s.log.Info("copying the image's files for the container's ids: once for these ids")
	tmp := filepath.Join(dir, "new-"+container.NewID()[:12])
	if err := s.makeMapped(ctx, tmp, at, text); err != nil {
		return nil, errors.Join(fmt.Errorf("copy the image's files for the container's ids: %w", err), s.removeTree(ctx, tmp))
	}
	return []string{filepath.Join(at, "root")}, nil
}

func (s *Service) makeMapped(ctx context.Context, tmp, at string, job []byte) error {
	if err := os.Mkdir(tmp, 0o711); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "job.json"), job, 0o600); err != nil { //nolint:forbidigo // the directory appears at once
		return err
	}
	if err := s.inU(ctx, helperMap, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, at)
}

// mapJob is what a copy is made of.
type mapJob struct {
	Layers []string `json:"layers"`
	IDs    plan.IDs `json:"ids"`
}

// mapTree makes the copy in dir.
func mapTree(ctx context.Context, dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "job.json"))
	if err != nil {
		return err
	}
	var job mapJob
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	v, err := openView(job.Layers)
	if err != nil {
		return err
	}
	defer v.Close()
	e, err := v.lookup("/")
	if err != nil {
		return err
	}
	defer e.close()
	m := &mapper{ids: job.IDs, links: map[inode]string{}}
	return m.entry(ctx, e, filepath.Join(dir, "root"))
}

type inode struct{ dev, ino uint64 }

// mapper copies entries with other owners. Nobody else reaches what it makes yet.
type mapper struct {
	ids   plan.IDs
	links map[inode]string // files with several names, by where the first went
}

func (m *mapper) entry(ctx context.Context, e entry, dst string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st := &e.stat
	kind := st.Mode & syscall.S_IFMT
	if kind != syscall.S_IFDIR && st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // its type is the architecture's
		if first, ok := m.links[key]; ok {
			return os.Link(first, dst)
		}
		m.links[key] = dst
	}
	var err error
	switch kind {
	case syscall.S_IFDIR:
		if err = os.Mkdir(dst, 0o700); err == nil {
			err = m.children(ctx, e, dst)
		}
	case syscall.S_IFREG:
		err = cloneFile(e.leaf, dst)
	case syscall.S_IFLNK:
		var to string
		if to, err = sys.ReadLink(e.leaf); err == nil {
			err = os.Symlink(to, dst)
		}
	default:
		err = syscall.Mknod(dst, st.Mode, int(st.Rdev))
		if errors.Is(err, syscall.EPERM) && kind != syscall.S_IFIFO {
			return nil // a device, which a user namespace may not have
		}
	}
	if err != nil {
		return err
	}
	st.Uid, st.Gid = outside(m.ids.UIDs, st.Uid), outside(m.ids.GIDs, st.Gid)
	if err := copyMeta(e, dst); err != nil {
		return err
	}
	return m.capability(e, dst)
}

// outside is the id of an owner; one that the container does not have becomes
// its root's.
func outside(maps []plan.IDMap, id uint32) uint32 {
	if to, ok := plan.Map(maps, id); ok {
		return to
	}
	to, _ := plan.Map(maps, 0)
	return to
}

func (m *mapper) children(ctx context.Context, e entry, dst string) error {
	names, err := e.dir.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		c, err := e.dir.child(name)
		if err != nil {
			return err
		}
		if err := errors.Join(m.entry(ctx, c, filepath.Join(dst, name)), c.close()); err != nil {
			return err
		}
	}
	return nil
}

// capability gives a file's capabilities to the container's root instead of ours:
// struct vfs_ns_cap_data of linux/capability.h ends in the id that they are for.
func (m *mapper) capability(e entry, dst string) error {
	if e.leaf == nil || e.stat.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil
	}
	const name, v2, size = "security.capability", 2, 20
	value := sys.Xattr(e.leaf, name)
	if len(value) != size || value[3] != v2 {
		return nil
	}
	root, _ := plan.Map(m.ids.UIDs, 0)
	value = append(slices.Clone(value), byte(root), byte(root>>8), byte(root>>16), byte(root>>24))
	value[3] = 3
	if err := syscall.Setxattr(dst, name, value, 0); err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOTSUP) {
		return &os.PathError{Op: "setxattr " + name, Path: dst, Err: err}
	}
	return nil
}

// cloneFile copies a file's content, without its blocks where the file system can
// share them.
func cloneFile(leaf *os.File, dst string) error {
	src, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(leaf.Fd())))
	if err != nil {
		return err
	}
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	const ficlone = 0x40049409 // linux/fs.h
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, out.Fd(), ficlone, src.Fd()); errno != 0 {
		_, err = io.Copy(out, src)
	}
	return errors.Join(err, out.Close())
}

// own gives what is the container's own, outside of its namespace, to its root.
func (s *Service) own(ctx context.Context, ids plan.IDs, uid, gid int, paths ...string) error {
	if !ids.Own() || ids.Plain() {
		return nil
	}
	u, g := outside(ids.UIDs, uint32(uid)), outside(ids.GIDs, uint32(gid))
	return s.inU(ctx, append([]string{helperOwn, fmt.Sprintf("%d:%d", u, g)}, paths...)...)
}

// giveTo is own, where it may be done.
func giveTo(owner string, paths []string) error {
	var u, g int
	if _, err := fmt.Sscanf(owner, "%d:%d", &u, &g); err != nil {
		return err
	}
	for _, p := range paths {
		if err := os.Lchown(p, u, g); err != nil {
			return err
		}
	}
	return nil
}

// PruneMapped removes the copies of images that no container uses, and what
// killed commands left of some.
func (s *Service) PruneMapped(ctx context.Context) error {
	dir := s.mappedDir()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return ignoreNotExist(err)
	}
	l, err := lock.Acquire(ctx, filepath.Join(dir, "lock"), true)
	if err != nil {
		return err
	}
	defer l.Release()
	all, err := s.store.List()
	if err != nil {
		return nil //nolint:nilerr // not all can be read: what they use is not known
	}
	used := map[string]bool{"lock": true}
	for _, c := range all {
		for _, l := range c.Record.Lower {
			if rel, err := filepath.Rel(dir, l); err == nil {
				used[strings.SplitN(rel, "/", 2)[0]] = true
			}
		}
	}
	var failed []error
	for _, e := range entries {
		if !used[e.Name()] {
			failed = append(failed, s.removeTree(ctx, filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
