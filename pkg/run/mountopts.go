package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// chownMounts gives the sources of mounts with the option U, and all that is in
// them, to the container's user.
func (s *Service) chownMounts(ctx context.Context, p *decided) error {
	var dirs []string
	for _, m := range p.record.Request.Mounts {
		if !slices.Contains(m.Options, "U") {
			continue
		}
		switch m.Type {
		case "bind":
			if err := mayChown(m.Source); err != nil {
				return err
			}
			dirs = append(dirs, m.Source)
		case "volume":
			for _, v := range p.record.Volumes {
				if v.Target == path.Clean(m.Target) {
					dirs = append(dirs, s.vols.Data(v.Name))
				}
			}
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	u, g := p.spec.Process.User.UID, p.spec.Process.User.GID
	if p.record.IDs.Own() {
		u, g = outside(p.record.IDs.UIDs, u), outside(p.record.IDs.GIDs, g)
	}
	if err := s.inU(ctx, append([]string{helperChown, fmt.Sprintf("%d:%d", u, g)}, dirs...)...); err != nil {
		return fmt.Errorf("mount option U: %w", err)
	}
	return nil
}

// mayChown refuses what belongs to the machine and not to one container.
func mayChown(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for _, d := range []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var"} {
		if real == d || path.Dir(real) == "/home" {
			return errs.New(errs.Invalid, fmt.Sprintf("mount option U: changing the owner of %s is not allowed: it is a system directory", dir))
		}
	}
	return nil
}

// giveTrees changes the owner of trees. They may be a container's: no link of
// theirs is followed.
func giveTrees(ctx context.Context, owner string, dirs []string) error {
	var u, g int
	if _, err := fmt.Sscanf(owner, "%d:%d", &u, &g); err != nil {
		return err
	}
	for _, dir := range dirs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			if err == nil {
				err = os.Chown(dir, u, g)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := giveTree(ctx, dir, u, g); err != nil {
			return err
		}
	}
	return nil
}

func giveTree(ctx context.Context, dir string, u, g int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		return root.Lchown(name, u, g)
	})
	return errors.Join(err, root.Close())
}

// overlays makes, empty at each start, what is written over the sources of mounts
// with the option O.
func (s *Service) overlays(ctx context.Context, rec *container.Record) error {
	dir := s.store.Dir(rec.ID)
	if over := filepath.Join(dir, "over"); exists(over) {
		if err := s.removeTree(ctx, over); err != nil {
			return err
		}
	}
	for _, m := range rec.Request.Mounts {
		if m.Type != "bind" || !slices.Contains(m.Options, "O") {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Stat(m.Source, &st); err != nil {
			return &os.PathError{Op: "stat", Path: m.Source, Err: err}
		}
		at := plan.OverlayDir(dir, m.Target)
		if err := errors.Join(os.MkdirAll(filepath.Join(at, "upper"), 0o700), os.MkdirAll(filepath.Join(at, "work"), 0o700)); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(filepath.Join(at, "upper"), int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
		if err := syscall.Chmod(filepath.Join(at, "upper"), st.Mode&0o7777); err != nil {
			return err
		}
	}
	return nil
}
