package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cdi"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
)

// decided is a container that does not exist yet.
type decided struct {
	record   *container.Record
	spec     *specs.Spec
	warnings []plan.Warning
	networks []plan.Attachment
	files    map[string]string // in etc
	rootMode fs.FileMode
	rootUID  int
	rootGID  int
	etcMode  fs.FileMode       // 0: the image's /etc is a link, or not its root's owner's
	secrets  [][]byte          // as the request has them
	users    map[string]string // passwd and group of the container's own
	mapped   *lock.Lock        // keeps ids and the image's copy until the record does; may be nil
}

// decide makes of a request what the container will be. It changes nothing.
func (s *Service) decide(ctx context.Context, id string, o CreateOptions) (_ *decided, err error) {
	config := o.Image.Config.Config
	req, err := s.whole(o)
	if err != nil {
		return nil, err
	}
	noSocket := leaveSocket(&req)
	d := &decided{users: map[string]string{}}
	if d.networks, err = s.o.Networks.Attachments(req); err != nil {
		return nil, err
	}
	if err := s.o.Networks.CheckLinks(req); err != nil {
		return nil, err
	}
	if d.secrets, err = s.findSecrets(req); err != nil {
		return nil, err
	}
	host, err := s.planHost()
	if err != nil {
		return nil, err
	}
	lower, err := s.o.Images.LowerDirs(ctx, o.Image.ID)
	if err != nil {
		return nil, err
	}
	in := plan.Inputs{ID: id, Rootfs: filepath.Join(s.store.Dir(id), "rootfs"), Namespaces: s.namespaces(req)}
	if err := d.look(lower, &in); err != nil {
		return nil, err
	}
	if err := s.lookAround(req, &in); err != nil {
		return nil, err
	}
	if d.mapped, err = s.lockMapped(ctx, req); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.release())
		}
	}()
	if in.IDs, err = s.decideIDs(req, host, in); err != nil {
		return nil, err
	}
	d.keepID(&req, host, config.WorkingDir, &in)
	d.entries(req, cmp.Or(req.Workdir, config.WorkingDir), &in)
	if lower, err = s.mapped(ctx, lower, in.IDs); err != nil {
		return nil, err
	}
	d.record = &container.Record{
		ID: id, Created: time.Now().UTC(), ImageRef: o.Ref, ImageID: o.Image.ID,
		Image: config, Platform: o.Image.Config.Platform, Request: req,
		Cgroup: in.CgroupPath, Ephemeral: o.Ephemeral, IDs: in.IDs,
	}
	if _, err := StopSignal("", d.record); err != nil { // an image's, too
		return nil, err
	}
	if in.Volumes, err = s.decideVolumes(ctx, d.record, config); err != nil {
		return nil, err
	}
	if d.spec, d.warnings, err = plan.Spec(req, config, host, in); err != nil {
		return nil, err
	}
	d.warnings = append(d.warnings, noSocket...)
	if err := bindSources(req.Mounts, false); err != nil {
		return nil, err
	}
	if err := d.setFiles(req, in); err != nil {
		return nil, err
	}
	return d, s.complete(d.record, d.spec, lower)
}

// whole is the request with what the image and other containers add to it.
func (s *Service) whole(o CreateOptions) (plan.Request, error) {
	req, err := plan.ForImage(o.Request, o.Image.Config.Config)
	if err != nil {
		return req, err
	}
	req.Restart.Name = cmp.Or(req.Restart.Name, "no")
	if err := checkForeign(req); err != nil {
		return req, err
	}
	if err := s.joined(&req, o.Name); err != nil {
		return req, err
	}
	return req, s.volumesFrom(&req)
}

// lookAround reads what planning needs from this machine and other containers.
func (s *Service) lookAround(req plan.Request, in *plan.Inputs) (err error) {
	if in.HostHostname, err = os.Hostname(); err != nil {
		return err
	}
	if other, ok := strings.CutPrefix(req.Network, "container:"); ok {
		spec, err := s.spec(other)
		if err != nil {
			return err
		}
		in.NetHostname, in.NetDomainname = spec.Hostname, spec.Domainname
	}
	if in.Edits, err = cdi.Find(s.o.CDIDirs, req.CDI); err != nil {
		return err
	}
	if err := probe.Devices(req, in); err != nil {
		return err
	}
	if req.Cgroups != "disabled" {
		in.CgroupPath, err = s.cgroupPath(req.CgroupParent, in.ID)
	}
	return err
}

// setFiles decides what is in the files of /etc that the container has of its own.
func (d *decided) setFiles(req plan.Request, in plan.Inputs) (err error) {
	if d.files, err = etcFiles(req, cmp.Or(d.spec.Hostname, in.HostHostname)); err != nil {
		return err
	}
	if req.Timezone != "" {
		d.files[localtimeFile], err = zone(req.Timezone)
	}
	return err
}

// complete adds to the record what follows from the plan.
func (s *Service) complete(rec *container.Record, spec *specs.Spec, lower []string) error {
	if argv := spec.Process.Args; len(argv) > 0 {
		rec.Path, rec.Args = argv[0], argv[1:]
	}
	base, err := mountPoints(s.store.Root)
	if err != nil {
		return err
	}
	rec.Lower = append(lower, base)
	if plan.KeepsLog(rec.Request.LogDriver, rec.Request.LogOpts) {
		rec.LogPath = filepath.Join(s.store.Dir(rec.ID), rec.ID+"-json.log")
	}
	return nil
}

// look reads what planning needs from the image's tree.
func (d *decided) look(lower []string, in *plan.Inputs) error {
	d.rootMode, d.etcMode = 0o755, 0o755
	image, err := tree.Open(lower...)
	if err != nil {
		return err
	}
	defer image.Close()
	if root := image.Root(); !root.Empty() {
		st, err := root.Stat()
		if err != nil {
			return err
		}
		d.rootMode = fs.FileMode(st.Mode & 0o777)
		if st.Mode&syscall.S_ISVTX != 0 {
			d.rootMode |= fs.ModeSticky
		}
		d.rootUID, d.rootGID = int(st.Uid), int(st.Gid)
		if etc, err := root.Child("etc"); err == nil {
			d.etcMode = fs.FileMode(etc.Stat.Mode & 0o777)
			if !etc.IsDir() || etc.Stat.Uid != st.Uid || etc.Stat.Gid != st.Gid {
				d.etcMode = 0
			}
		}
	}
	in.Passwd, err = image.ReadFile("/etc/passwd", plan.MaxUserFile)
	if err == nil {
		in.Group, err = image.ReadFile("/etc/group", plan.MaxUserFile)
	}
	if err != nil {
		return fmt.Errorf("read the image's users: %w", err)
	}
	return nil
}

// leaveSocket takes a -v of Docker's socket out of req if there is none: CI runners
// add one to each container that they start, and the directory that -v makes
// instead would be in the way of a daemon that comes later.
func leaveSocket(req *plan.Request) (left []plan.Warning) {
	req.Mounts = slices.DeleteFunc(slices.Clone(req.Mounts), func(m plan.Mount) bool {
		if !m.CreateSrc || filepath.Base(m.Source) != "docker.sock" {
			return false
		}
		_, err := os.Stat(m.Source)
		if !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		left = append(left, plan.Warning{Flag: "volume", Text: m.Source + " is not there, and is not mounted: no daemon of Docker's runs, and cais has none"})
		return true
	})
	return left
}
