package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/volume"
)

// decideVolumes says which volumes the container uses, and what is mounted for
// each. It makes none.
func (s *Service) decideVolumes(ctx context.Context, rec *container.Record, config oci.Config) (map[string]plan.Volume, error) {
	out := map[string]plan.Volume{}
	for _, m := range plan.Volumes(rec.Request, config) {
		v := container.Volume{
			Name: m.Source, Target: m.Target, Named: m.Source != "" && m.Flag != "from", ReadOnly: m.ReadOnly,
			NoCopy: slices.Contains(m.Options, "nocopy") || m.Flag == "from" || m.IDMapped(), Subpath: m.Subpath,
		}
		if v.Name == "" {
			v.Name = container.NewID()
		}
		if err := volume.Check(&volume.Volume{Name: v.Name, Driver: m.Driver, Options: m.DriverOpts}); err != nil {
			return nil, err
		}
		have, err := s.vols.Load(v.Name)
		switch {
		case errs.KindOf(err) == errs.NotFound:
			have = &volume.Volume{Name: v.Name, Options: m.DriverOpts}
		case err != nil:
			return nil, err
		}
		rec.Volumes = append(rec.Volumes, v)
		out[m.Target] = s.mounted(have, v)
	}
	for _, m := range rec.Request.Mounts {
		if m.Type != "image" {
			continue
		}
		v, err := s.imageMount(ctx, m)
		if err != nil {
			return nil, err
		}
		out[path.Clean(m.Target)] = v
	}
	return out, nil
}

// mounted is what is mounted for a volume.
func (s *Service) mounted(v *volume.Volume, use container.Volume) plan.Volume {
	m := v.Mounted()
	switch m.Type {
	case "":
		return plan.Volume{Source: s.vols.Data(v.Name), Subpath: use.Subpath}
	case "bind":
		return plan.Volume{Type: "bind", Source: m.Device, Options: m.Options, Subpath: use.Subpath}
	}
	return plan.Volume{Type: m.Type, Source: m.Device, Options: m.Options}
}

// imageMount is an image's tree as a mount, which nobody can write to.
func (s *Service) imageMount(ctx context.Context, m plan.Mount) (plan.Volume, error) {
	img, err := s.o.Images.Image(ctx, m.Source)
	if err != nil {
		return plan.Volume{}, err
	}
	layers, err := s.o.Images.LowerDirs(ctx, img.ID)
	if err != nil {
		return plan.Volume{}, err
	}
	base, err := mountPoints(s.store.Root) // an overlay without an upper directory wants two
	if err != nil {
		return plan.Volume{}, err
	}
	v := plan.Volume{Type: "overlay", Source: "overlay", Subpath: m.Subpath}
	for _, dir := range append(layers, base) {
		v.Options = append(v.Options, "lowerdir+="+dir)
	}
	host, err := s.host()
	if err == nil && host.InUserNS {
		v.Options = append(v.Options, "userxattr")
	}
	return v, err
}

// volumesFrom adds the binds and volumes of the containers that --volumes-from
// names. Of two at one place the later counts; a mount of the request's own goes
// before both, unless it is the anonymous volume of a -v.
func (s *Service) volumesFrom(req *plan.Request) error {
	own := map[string]bool{}
	for _, m := range req.Mounts {
		own[path.Clean(m.Target)] = m.Flag != "v" || m.Source != ""
	}
	req.Mounts = slices.Clone(req.Mounts)
	for _, from := range req.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		id, err := s.store.Find(ref)
		if err != nil {
			return err
		}
		c, err := s.store.Load(id)
		if err != nil {
			return err
		}
		var add []plan.Mount
		for _, m := range c.Record.Request.Mounts {
			if m.Type == "bind" {
				m.Raw = ""
				add = append(add, m)
			}
		}
		for _, v := range c.Record.Volumes {
			m := plan.Mount{Type: "volume", Source: v.Name, Target: v.Target, ReadOnly: v.ReadOnly, Subpath: v.Subpath}
			add = append(add, m)
		}
		for _, m := range add {
			target := path.Clean(m.Target)
			if own[target] {
				continue
			}
			req.Mounts = slices.DeleteFunc(req.Mounts, func(m plan.Mount) bool { return path.Clean(m.Target) == target })
			m.Flag = "from"
			m.ReadOnly = m.ReadOnly || mode == "ro" || mode == "ro,z"
			req.Mounts = append(req.Mounts, m)
		}
	}
	return nil
}

// volumes makes those of the container's volumes that do not exist, and fills
// those that are empty with what the image has in their place.
func (s *Service) volumes(ctx context.Context, rec *container.Record) error {
	missing := false
	for _, v := range rec.Volumes {
		missing = missing || !s.vols.Exists(v.Name)
	}
	if !missing {
		return nil
	}
	l, err := s.vols.Lock(ctx, false)
	if err != nil {
		return err
	}
	defer l.Release()
	return s.fillVolumes(ctx, rec)
}

// fillVolumes is volumes for whoever holds the volumes' lock.
func (s *Service) fillVolumes(ctx context.Context, rec *container.Record) error {
	for _, v := range rec.Volumes {
		if err := s.prepareVolume(ctx, rec, v); err != nil {
			return fmt.Errorf("volume %s for %s: %w", v.Name, v.Target, err)
		}
	}
	return nil
}

func (s *Service) prepareVolume(ctx context.Context, rec *container.Record, v container.Volume) error {
	have, err := s.vols.Load(v.Name)
	if errs.KindOf(err) == errs.NotFound {
		return s.newVolume(ctx, rec, v)
	}
	if err != nil || v.NoCopy || v.Subpath != "" || have.Mounted().Type != "" {
		return err
	}
	data := s.vols.Data(v.Name)
	torn := exists(s.vols.Filling(v.Name))
	if !torn && !empty(data) {
		return nil
	}
	plain, err := volume.Plain(v.Target, rec.Lower)
	if err != nil || plain && !torn {
		return err
	}
	// It may be in use: it is filled where it is, with a mark that it is not done.
	if err := os.WriteFile(s.vols.Filling(v.Name), nil, 0o600); err != nil { //nolint:forbidigo // only that it exists counts
		return err
	}
	if err := s.inU(ctx, append([]string{helperFill, data, v.Target}, rec.Lower...)...); err != nil {
		return err
	}
	return os.Remove(s.vols.Filling(v.Name))
}

// empty reports whether a directory has nothing in it. One that we may not read
// has been used.
func empty(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// newVolume makes a volume with its first content, which appears at once.
func (s *Service) newVolume(ctx context.Context, rec *container.Record, v container.Volume) error {
	made := &volume.Volume{Name: v.Name, Anonymous: !v.Named}
	mapped := false
	for _, m := range rec.Request.Mounts {
		if m.Type == "volume" && path.Clean(m.Target) == v.Target {
			made.Labels, made.Options, mapped = m.Labels, m.DriverOpts, m.IDMapped()
		}
	}
	dir, err := s.vols.Begin()
	if err != nil {
		return err
	}
	target := v.Target
	if v.NoCopy || v.Subpath != "" || made.Mounted().Type != "" {
		target = ""
	}
	data, err := s.makeVolume(ctx, dir, target, rec.Lower)
	if err == nil && made.Mounted().Type == "" && !mapped {
		err = s.ownVolume(ctx, rec, data)
	}
	if err != nil {
		return errors.Join(err, s.removeTree(ctx, dir))
	}
	ok, err := s.vols.Finish(dir, made)
	if err != nil || !ok {
		return errors.Join(err, s.removeTree(ctx, dir))
	}
	s.note(volumeEvent("create", v.Name, "driver", volume.Local))
	return nil
}

// ownVolume gives the container's root a new volume that has none of the
// container's ids as its owner.
func (s *Service) ownVolume(ctx context.Context, rec *container.Record, data string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(data, &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() {
		return nil // the image's directory was copied
	}
	return s.own(ctx, rec.IDs, 0, 0, data)
}

// makeVolume makes the content of a new volume in dir. Only one that has content,
// or another owner, needs the user's namespace.
func (s *Service) makeVolume(ctx context.Context, dir, target string, layers []string) (data string, err error) {
	if data, err = volume.MakeData(dir); err != nil || target == "" {
		return data, err
	}
	plain, err := volume.Plain(target, layers)
	if err != nil || plain {
		return data, err
	}
	return data, s.inU(ctx, append([]string{helperFill, data, target}, layers...)...)
}
