package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/volume"
)

func volumeEvent(action, name string, more ...string) events.Event {
	attrs := map[string]string{}
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	return events.Event{Type: events.Volume, Action: action, ID: name, Attributes: attrs}
}

// mountEvents are what a container's start or end means for its volumes, as
// heads.
func mountEvents(rec *container.Record, action string) []string {
	var heads []string
	for _, v := range rec.Volumes {
		more := []string{"container", rec.ID, "driver", volume.Local}
		if action == "mount" {
			more = append(more, "destination", v.Target, "propagation", "", "read/write", strconv.FormatBool(!v.ReadOnly))
		}
		heads = append(heads, head(volumeEvent(action, v.Name, more...)))
	}
	return heads
}

// Volumes are this user's volumes.
func (s *Service) Volumes() volume.Store { return s.vols }

// CreateVolume makes a volume; one that is there already, made alike, is no
// error. It fails with Conflict if that was made otherwise. A new one's directory
// belongs to uid and gid.
func (s *Service) CreateVolume(ctx context.Context, v *volume.Volume, uid, gid int) (*volume.Volume, error) {
	if v.Name == "" {
		v.Name, v.Anonymous = container.NewID(), true
	}
	if err := volume.Check(v); err != nil {
		return nil, fmt.Errorf("create %s: %w", v.Name, err)
	}
	l, err := s.vols.Lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	for {
		have, err := s.vols.Load(v.Name)
		if err == nil {
			return have, alike(have, v)
		}
		if errs.KindOf(err) != errs.NotFound {
			return nil, err
		}
		dir, err := s.vols.Begin()
		if err != nil {
			return nil, err
		}
		data, err := volume.MakeData(dir)
		if err == nil && (uid != 0 || gid != 0) {
			err = s.inU(ctx, helperOwn, fmt.Sprintf("%d:%d", uid, gid), data)
		}
		if err != nil {
			return nil, errors.Join(err, s.removeTree(ctx, dir))
		}
		made, err := s.vols.Finish(dir, v)
		if err != nil {
			return nil, errors.Join(err, s.removeTree(ctx, dir))
		}
		if made {
			s.note(volumeEvent("create", v.Name, "driver", volume.Local))
			return v, nil
		}
		if err := s.removeTree(ctx, dir); err != nil {
			return nil, err
		}
	}
}

// alike refuses a volume that exists with other options than those asked for.
// One without any is what is asked for as long as it is there.
func alike(have, want *volume.Volume) error {
	if len(want.Options) == 0 {
		return nil
	}
	same := len(have.Options) == len(want.Options)
	for k, v := range want.Options {
		same = same && have.Options[k] == v
	}
	if same {
		return nil
	}
	return errs.WithHint(errs.New(errs.Conflict, fmt.Sprintf("volume %s exists with other options", have.Name)),
		"Choose another name, or remove it first.")
}

// ExportVolume writes a volume's content as a tar.
func (s *Service) ExportVolume(ctx context.Context, name string, w io.Writer) error {
	return s.onVolume(ctx, name, func(data string) error {
		job := &filesJob{Do: "get", Dir: data, Path: "/"}
		return s.files(ctx, job, nil, func(_ filesAnswer, tar io.Reader) error {
			_, err := io.Copy(w, tar)
			return err
		})
	})
}

// ImportVolume adds the files of a tar, compressed or not, to a volume's.
func (s *Service) ImportVolume(ctx context.Context, name string, tar io.Reader) error {
	return s.onVolume(ctx, name, func(data string) error {
		plain, err := compress.Reader(tar)
		if err != nil {
			return err
		}
		job := &filesJob{Do: "put", Dir: data, Path: "/", Owners: true, IntoIt: true}
		err = s.files(ctx, job, func(w io.Writer) error {
			_, err := io.Copy(w, plain)
			return err
		}, func(filesAnswer, io.Reader) error { return nil })
		return errors.Join(err, plain.Close())
	})
}

// onVolume does something with a volume's directory, which stays meanwhile.
func (s *Service) onVolume(ctx context.Context, name string, do func(data string) error) error {
	l, err := s.vols.Lock(ctx, false)
	if err != nil {
		return err
	}
	defer l.Release()
	v, err := s.vols.Load(name)
	if err != nil {
		return err
	}
	if m := v.Mounted(); m.Type != "" {
		err := errs.New(errs.Unsupported, fmt.Sprintf("volume %s is a mount of type %s, which is there only in containers", name, m.Type))
		return errs.WithHint(err, "Let a container do it: cais run --rm -v "+name+":/v IMAGE tar -C /v -c .")
	}
	return do(s.vols.Data(name))
}

// VolumeUsers returns the ids of the containers that use each volume, by name,
// whether they run or not.
func (s *Service) VolumeUsers(ctx context.Context) (map[string][]string, error) {
	all, err := s.List(ctx)
	users := map[string][]string{}
	for _, c := range all {
		for _, v := range c.Record.Volumes {
			if !slices.Contains(users[v.Name], c.ID) {
				users[v.Name] = append(users[v.Name], c.ID)
			}
		}
	}
	return users, err // of a container that cannot be read nobody knows what it uses
}

// RemoveVolume removes a volume that no container uses. It fails with NotFound,
// and with Conflict if one does.
func (s *Service) RemoveVolume(ctx context.Context, name string) error {
	l, err := s.vols.Lock(ctx, true)
	if err != nil {
		return err
	}
	defer l.Release()
	s.collectVolumes(ctx)
	if !s.vols.Exists(name) && !exists(s.vols.Dir(filepath.Base(name))) || volume.CheckName(name) != nil {
		return errs.New(errs.NotFound, "no such volume: "+name)
	}
	users, err := s.VolumeUsers(ctx)
	if err != nil {
		return err
	}
	if ids := users[name]; len(ids) > 0 {
		return &VolumeInUseError{Name: name, Users: ids, Shown: s.names(ids)}
	}
	return s.removeVolume(ctx, name)
}

// VolumeInUseError says which containers use a volume.
type VolumeInUseError struct {
	Name  string
	Users []string // ids
	Shown []string // their names
}

// Error names the first of them.
func (e *VolumeInUseError) Error() string {
	return fmt.Sprintf("volume %s is in use by container %s", e.Name, e.Shown[0])
}

// DockerText is Docker's sentence.
func (e *VolumeInUseError) DockerText() string {
	text := "remove " + e.Name + ": volume is in use - ["
	for i, id := range e.Users {
		if i > 0 {
			text += ", "
		}
		text += id
	}
	return text + "]"
}

// Unwrap gives the error its kind.
func (e *VolumeInUseError) Unwrap() error { return errs.New(errs.Conflict, "volume in use") }

func (s *Service) names(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = container.ShortID(id)
		if c, err := s.store.Load(id); err == nil {
			out[i] = c.Name()
		}
	}
	return out
}

// removeVolume removes one that nobody uses. The caller holds the volumes' lock
// alone.
func (s *Service) removeVolume(ctx context.Context, name string) error {
	if err := sys.NoMounts(s.vols.Dir(name)); err != nil { // now, while it has its name
		return err
	}
	dir, err := s.vols.Remove(name)
	if err != nil {
		return err
	}
	s.note(volumeEvent("destroy", name, "driver", volume.Local))
	return s.removeTree(ctx, dir)
}

// collectVolumes removes what killed commands left. The caller holds the
// volumes' lock alone.
func (s *Service) collectVolumes(ctx context.Context) {
	dirs, err := s.vols.Leftovers()
	for _, dir := range dirs {
		err = errors.Join(err, s.removeTree(ctx, dir))
	}
	if err != nil {
		s.log.Warn("what is left of a volume stays", "error", err)
	}
}

// removeVolumes removes the volumes that were made for a container, as far as no
// other one uses them.
func (s *Service) removeVolumes(ctx context.Context, rec *container.Record) error {
	var mine []string
	for _, v := range rec.Volumes {
		if !v.Named {
			mine = append(mine, v.Name)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	l, err := s.vols.Lock(ctx, true)
	if err != nil {
		return err
	}
	defer l.Release()
	users, err := s.VolumeUsers(ctx)
	if err != nil {
		s.log.Warn("volumes stay: not all containers can be read", "error", err)
		return nil
	}
	for _, name := range mine {
		others := slices.DeleteFunc(users[name], func(id string) bool { return id == rec.ID })
		v, err := s.vols.Load(name)
		if errs.KindOf(err) == errs.NotFound || err == nil && (!v.Anonymous || len(others) > 0) {
			continue
		}
		if err != nil {
			return err
		}
		if err := s.removeVolume(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// PruneVolumes removes the volumes that no container uses and that match: only
// anonymous ones, unless all is set. It returns their names and what they took.
func (s *Service) PruneVolumes(ctx context.Context, all bool, match func(*volume.Volume) bool) (names []string, bytes int64, err error) {
	l, err := s.vols.Lock(ctx, true)
	if err != nil {
		return nil, 0, err
	}
	defer l.Release()
	s.collectVolumes(ctx)
	users, err := s.VolumeUsers(ctx)
	if err != nil {
		return nil, 0, err
	}
	list, err := s.vols.List()
	failed := []error{err}
	for _, v := range list {
		if len(users[v.Name]) > 0 || !all && !v.Anonymous || !match(v) {
			continue
		}
		size, err := s.VolumeSize(ctx, v.Name)
		if err != nil {
			failed = append(failed, err)
		}
		if err := s.removeVolume(ctx, v.Name); err != nil {
			failed = append(failed, err)
			continue
		}
		names, bytes = append(names, v.Name), bytes+size
	}
	s.note(volumeEvent("prune", "", "reclaimed", strconv.FormatInt(bytes, 10)))
	return names, bytes, errors.Join(failed...)
}

// VolumeSize is the sum of the sizes of a volume's files, in bytes, as far as
// they may be read.
func (s *Service) VolumeSize(ctx context.Context, name string) (int64, error) {
	return TreeSize(ctx, s.vols.Data(name))
}
