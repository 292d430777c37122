package run

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/transfer"
)

// GetOptions say what Get copies.
type GetOptions struct {
	Path   string
	Follow bool // a link at the path's end
}

// Get copies a file or a directory out of a container, whether it runs or not:
// the tar that recv reads has the path's last name as its first entry, or, if
// the path ends in "/.", a directory's content alone.
func (s *Service) Get(ctx context.Context, ref string, o GetOptions, recv func(transfer.Info, io.Reader) error) error {
	err := s.onFiles(ctx, ref, "archive-path", func(job *filesJob) error {
		job.Do, job.Path, job.Follow = "get", o.Path, o.Follow
		return s.files(ctx, job, nil, func(a filesAnswer, tar io.Reader) error { return recv(*a.Info, tar) })
	})
	return named(err, o.Path, ref)
}

// onFiles does something with the files of a container. One that ends while they
// are opened is looked at again.
func (s *Service) onFiles(ctx context.Context, ref, action string, do func(*filesJob) error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		c, job, free, err := s.filesOf(ctx, ref)
		if err != nil {
			return err
		}
		job.mounts = c.Record.Request.Mounts
		err = do(job)
		free()
		if err == nil {
			s.tell(c, action)
		}
		if err == nil || err.Error() != endedMeanwhile || pause > time.Second {
			return err
		}
		select { // its monitor is about to say so
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const endedMeanwhile = "the container ended meanwhile"

// PutOptions say where Put copies to.
type PutOptions struct {
	Path   string
	Source transfer.Source
	Owners bool // as in the tar; otherwise root's
	IntoIt bool // the path must be a directory
}

// Put copies a tar's files into a container, whether it runs or not.
func (s *Service) Put(ctx context.Context, ref string, o PutOptions, tar io.Reader) error {
	return s.PutFrom(ctx, ref, o, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, onlyReader{tar}, make([]byte, 256<<10))
		return err
	})
}

// PutFrom is Put with a tar that write writes, to a pipe.
func (s *Service) PutFrom(ctx context.Context, ref string, o PutOptions, write func(io.Writer) error) error {
	err := s.onFiles(ctx, ref, "extract-to-dir", func(job *filesJob) error {
		if err := job.mayPut(o.Path); err != nil {
			return err
		}
		job.Do, job.Path, job.Owners, job.Source, job.IntoIt = "put", o.Path, o.Owners, o.Source, o.IntoIt
		return s.files(ctx, job, write, func(filesAnswer, io.Reader) error { return nil })
	})
	return named(err, o.Path, ref)
}

// mayPut refuses what lies in a mount that shows other owners than its files have:
// they would get the wrong ones.
func (j *filesJob) mayPut(name string) error {
	name = path.Clean("/" + name)
	for _, m := range j.mounts {
		if at := path.Clean(m.Target); m.IDMapped() && (name == at || strings.HasPrefix(name, at+"/")) {
			return errs.WithHint(errs.New(errs.Unsupported, fmt.Sprintf("cannot copy to %s: %s is mounted with idmap", name, at)),
				"Copy to the mount's source, or let the container do it: cais exec -i CONTAINER tar -x.")
		}
	}
	return nil
}

// named says of a path that is missing where that is.
func named(err error, path, ref string) error {
	if errs.KindOf(err) == errs.NotFound && err.Error() == missingPath {
		return errs.New(errs.NotFound, fmt.Sprintf("Could not find the file %s in container %s", path, ref))
	}
	return err
}

const missingPath = "no such path"

// Export writes the container's files as one tar, without what is mounted.
func (s *Service) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return err
	}
	job, err := s.layersOf(c)
	if err != nil {
		return err
	}
	job.Do = "export"
	err = s.files(ctx, job, nil, func(_ filesAnswer, tar io.Reader) error {
		_, err := io.Copy(w, tar)
		return err
	})
	if err == nil {
		s.tell(c, "export")
	}
	return err
}

// Change is a path that a container changed: A added, C changed, D deleted.
type Change struct {
	Kind byte
	Path string
}

// Diff returns what the container changed in its image's files, by path.
func (s *Service) Diff(ctx context.Context, ref string) ([]Change, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := s.aged(ctx, c); err != nil {
		return nil, err
	}
	job, err := s.layersOf(c)
	if err != nil {
		return nil, err
	}
	job.Do = "diff"
	var list []Change
	err = s.files(ctx, job, nil, func(_ filesAnswer, r io.Reader) error {
		text, err := io.ReadAll(r)
		for line := range strings.SplitSeq(string(text), "\x00") {
			if len(line) > 1 {
				list = append(list, Change{line[0], line[1:]})
			}
		}
		return err
	})
	if err != nil {
		if _, gone := s.Find(ctx, ref); gone != nil { // removed while it was read
			return nil, gone
		}
	}
	return list, err
}

// layersOf is the container's tree as it lies in its layers.
func (s *Service) layersOf(c *container.Container) (*filesJob, error) {
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	dir := s.store.Dir(c.ID)
	return &filesJob{IDs: c.Record.IDs, Tree: &transfer.Tree{
		Lower: c.Record.Lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), UserXattr: host.InUserNS,
	}}, nil
}

// filesOf says where the container's files are. One that does not run is locked,
// so that nobody starts it meanwhile.
func (s *Service) filesOf(ctx context.Context, ref string) (*container.Container, *filesJob, func(), error) {
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return nil, nil, nil, err
	}
	free := func() { _ = l.Release() } // it is only locked
	if c.Running() && c.State != nil {
		free()
		if foreign(c.Record.Request) {
			return nil, nil, nil, errs.New(errs.Unsupported, "cannot copy from or to a running container of another runtime ("+c.Record.Request.Runtime+"): stop it first")
		}
		return c, &filesJob{IDs: c.Record.IDs, PID: c.State.PID, PIDStart: c.State.PIDStart}, func() {}, nil
	}
	if c.Status() == container.Exited && c.Record.AutoRemove() { // about to go; its overlay, which was volatile, is not mounted twice
		free()
		return nil, nil, nil, errs.New(errs.NotFound, "no such container: "+ref)
	}
	job, err := s.mountOf(ctx, c, l)
	if err != nil {
		free()
		return nil, nil, nil, err
	}
	return c, job, free, nil
}

// mountOf is the tree that the container's next start would mount.
func (s *Service) mountOf(ctx context.Context, c *container.Container, _ *lock.Lock) (*filesJob, error) {
	job, err := s.layersOf(c)
	if err != nil {
		return nil, err
	}
	if err := s.store.EnsureRunDir(c.ID); err != nil {
		return nil, err
	}
	run, err := os.Readlink(filepath.Join(c.Dir, "run"))
	if err != nil {
		return nil, err
	}
	t := job.Tree
	t.At = filepath.Join(run, "rootfs")
	if err := os.MkdirAll(t.At, 0o700); err != nil {
		return nil, err
	}
	if err := s.volumes(ctx, c.Record); err != nil {
		return nil, err
	}
	spec, err := s.spec(c.ID)
	if err != nil {
		return nil, err
	}
	t.ReadOnly = spec.Root.Readonly
	if spec.Process.Cwd != "/" && !c.Record.IDs.Own() { // else it is not ours to make
		t.Workdir = spec.Process.Cwd
	}
	mine := map[string]bool{}
	for _, m := range c.Record.Request.Mounts {
		mine[path.Clean(m.Target)] = m.Type == "bind"
	}
	for _, v := range c.Record.Volumes {
		mine[path.Clean(v.Target)] = true
	}
	for _, m := range spec.Mounts {
		if m.Type != "bind" || !mine[path.Clean(m.Destination)] {
			continue // the kernel's file systems are not there when nobody runs
		}
		b := transfer.Bind{Source: m.Source, Target: m.Destination}
		for _, o := range m.Options {
			if below, ok := strings.CutPrefix(o, plan.Subpath); ok {
				b.Subpath = below
			}
			b.ReadOnly = b.ReadOnly || o == "ro"
		}
		t.Binds = append(t.Binds, b)
	}
	return job, nil
}

// BaseOf is the name of the first entry in the tar of p: its last name; "" if it
// ends in a dot, which means what is in a directory.
func BaseOf(p string) string {
	if p == "." || strings.HasSuffix(p, "/.") {
		return ""
	}
	base := path.Base(path.Clean("/" + p))
	if base == "/" {
		return ""
	}
	return base
}
