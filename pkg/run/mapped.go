package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/plan"
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
	v, err := tree.Open(job.Layers...)
	if err != nil {
		return err
	}
	defer v.Close()
	at := filepath.Join(dir, "root")
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	to, err := os.Open(at)
	if err != nil {
		return err
	}
	defer to.Close()
	return v.Root().Copy(ctx, to, func(uid, gid uint32) (uint32, uint32) {
		return outside(job.IDs.UIDs, uid), outside(job.IDs.GIDs, gid)
	})
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
