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
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/plainjson"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
)

// CreateOptions are what Create makes a container from.
type CreateOptions struct {
	Ref     string // the image as the user typed it
	Image   *Image
	Name    string // empty: a random one
	Replace bool   // remove the container that has the name
	Request plan.Request

	// Ephemeral is a --rm container of `run`, which nobody will start later.
	Ephemeral bool
	Attach    bool // whoever starts it will attach to it at once, for the events
}

// Created is what Create made.
type Created struct {
	ID       string
	Name     string
	Warnings []plan.Warning

	lock     *lock.Lock
	record   *container.Record
	spec     *specs.Spec
	settings *container.Settings
}

// Create makes a container and leaves it not started. If it fails, nothing is
// left.
func (s *Service) Create(ctx context.Context, o CreateOptions) (*Created, error) {
	c, err := s.create(ctx, o)
	if err != nil {
		return nil, err
	}
	if !o.Request.AutoRemove {
		err = s.store.Sync(c.ID)
	}
	return c, errors.Join(err, c.lock.Release())
}

// create returns the container locked.
func (s *Service) create(ctx context.Context, o CreateOptions) (c *Created, err error) {
	if o.Name != "" {
		if err := container.CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	if err := checkCIDFile(o.Request.CIDFile); err != nil {
		return nil, err
	}
	if o.Replace && o.Name != "" {
		err := s.Remove(ctx, o.Name, RemoveOptions{Force: true})
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return nil, err
		}
	}
	id := container.NewID()
	p, err := s.decide(ctx, id, o)
	if err != nil {
		return nil, err // nothing exists yet
	}
	defer func() { _ = p.release() }() // it is only locked
	free := func() {}
	if len(p.record.Volumes) > 0 { // until the record says that they are in use
		l, err := s.vols.Lock(ctx, false)
		if err != nil {
			return nil, err
		}
		free = func() { _ = l.Release() } // it is only locked
	}
	defer func() { free() }()

	var u undo
	defer func() { u.on(ctx, &err) }()

	l, err := s.store.Create(ctx, id)
	if err != nil {
		return nil, err
	}
	u.add(func(ctx context.Context) error { return errors.Join(s.discard(ctx, id), l.Release()) })

	if err := s.fill(ctx, p); err != nil {
		return nil, err
	}
	name, err := s.claim(o.Name, id)
	if err != nil {
		return nil, err
	}
	u.add(func(context.Context) error { return s.store.ReleaseName(name, id) })

	err = s.o.Images.Protect(ctx, Protection{
		ID: id, Name: name, ImageID: o.Image.ID, ImageRef: o.Image.Ref,
		Created: p.record.Created, Volatile: o.Request.AutoRemove,
	})
	if err != nil {
		return nil, fmt.Errorf("protect the image: %w", err)
	}
	u.add(func(ctx context.Context) error { return s.o.Images.Unprotect(ctx, id) })

	settings := &container.Settings{Name: name, Restart: o.Request.Restart, Networks: p.networks}
	if err := s.store.WriteSettings(id, settings, false); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // Ctrl-C so far: nothing is left
		return nil, context.Cause(ctx)
	}
	if err := writeCIDFile(p.record.Request.CIDFile, id); err != nil {
		return nil, err
	}
	u.add(func(context.Context) error { return removeCIDFile(p.record.Request.CIDFile) })
	// From here on it is a container: what comes before is collected if we are killed.
	if err := s.store.WriteRecord(p.record, false); err != nil {
		return nil, err
	}
	u.add(func(ctx context.Context) error { return s.store.Forget(id) })
	u.add(func(ctx context.Context) error {
		free()
		return s.removeVolumes(ctx, p.record)
	})
	if err := s.fillVolumes(ctx, p.record); err != nil {
		return nil, err
	}
	if err := s.chownMounts(ctx, p); err != nil {
		return nil, err
	}
	s.note(s.created(p.record, name, o.Attach)...)
	return &Created{ID: id, Name: name, Warnings: p.warnings, lock: l, record: p.record, spec: p.spec, settings: settings}, nil
}

// claim takes the name, or finds a free one.
func (s *Service) claim(name, id string) (string, error) {
	if name != "" {
		return name, s.store.ClaimName(name, id)
	}
	for try := 0; ; try++ {
		name := container.RandomName(try)
		err := s.store.ClaimName(name, id)
		if _, taken := errors.AsType[*container.NameTakenError](err); !taken || try == 1000 {
			return name, err
		}
	}
}

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
	req, err := plan.ForImage(o.Request, config)
	if err != nil {
		return nil, err
	}
	if req.Restart.Name == "" {
		req.Restart.Name = "no"
	}
	if err := checkForeign(req); err != nil {
		return nil, err
	}
	if err := s.joined(&req, o.Name); err != nil {
		return nil, err
	}
	if err := s.volumesFrom(&req); err != nil {
		return nil, err
	}
	noSocket := leaveSocket(&req)
	networks, err := s.o.Networks.Attachments(req)
	if err != nil {
		return nil, err
	}
	if err := s.o.Networks.CheckLinks(req); err != nil {
		return nil, err
	}
	secrets, err := s.findSecrets(req)
	if err != nil {
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
	d := &decided{networks: networks, secrets: secrets, users: map[string]string{}}
	if err := d.look(lower, &in); err != nil {
		return nil, err
	}
	if in.HostHostname, err = os.Hostname(); err != nil {
		return nil, err
	}
	if other, ok := strings.CutPrefix(req.Network, "container:"); ok {
		spec, err := s.spec(other)
		if err != nil {
			return nil, err
		}
		in.NetHostname, in.NetDomainname = spec.Hostname, spec.Domainname
	}
	if in.Edits, err = cdi.Find(s.o.CDIDirs, req.CDI); err != nil {
		return nil, err
	}
	if err := probe.Devices(req, &in); err != nil {
		return nil, err
	}
	if req.Cgroups != "disabled" {
		if in.CgroupPath, err = s.cgroupPath(req.CgroupParent, id); err != nil {
			return nil, err
		}
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
	rec := &container.Record{
		ID: id, Created: time.Now().UTC(), ImageRef: o.Ref, ImageID: o.Image.ID,
		Image: config, Platform: o.Image.Config.Platform, Request: req,
		Cgroup: in.CgroupPath, Ephemeral: o.Ephemeral, IDs: in.IDs,
	}
	if _, err := StopSignal("", rec); err != nil { // an image's, too
		return nil, err
	}
	if in.Volumes, err = s.decideVolumes(ctx, rec, config); err != nil {
		return nil, err
	}
	if d.spec, d.warnings, err = plan.Spec(req, config, host, in); err != nil {
		return nil, err
	}
	d.warnings = append(d.warnings, noSocket...)
	if err := bindSources(req.Mounts, false); err != nil {
		return nil, err
	}
	if argv := d.spec.Process.Args; len(argv) > 0 {
		rec.Path, rec.Args = argv[0], argv[1:]
	}
	base, err := mountPoints(s.store.Root)
	if err != nil {
		return nil, err
	}
	rec.Lower = append(lower, base)
	if plan.KeepsLog(req.LogDriver, req.LogOpts) {
		rec.LogPath = filepath.Join(s.store.Dir(id), id+"-json.log")
	}
	hostname := d.spec.Hostname
	if hostname == "" {
		hostname = in.HostHostname
	}
	if d.files, err = etcFiles(req, hostname); err != nil {
		return nil, err
	}
	if req.Timezone != "" {
		if d.files[localtimeFile], err = zone(req.Timezone); err != nil {
			return nil, err
		}
	}
	d.record = rec
	return d, nil
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

// fill puts everything but the record into the container's directory.
func (s *Service) fill(ctx context.Context, p *decided) error {
	id, dir := p.record.ID, s.store.Dir(p.record.ID)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "work"), 0o700), s.fillUpper(ctx, p)); err != nil {
		return err
	}
	if err := writeEtc(dir, p.files); err != nil {
		return err
	}
	if len(p.secrets) > 0 {
		if err := s.copySecrets(ctx, p.record, p.secrets); err != nil {
			return err
		}
	}
	text, err := plainjson.Marshal(p.spec)
	if err != nil {
		return err
	}
	if err := s.store.WriteSpec(id, text, false); err != nil {
		return err
	}
	return bindSources(p.record.Request.Mounts, true)
}

// fillUpper makes the upper layer. The container's own passwd and group are files in
// it, which programs like usermod can replace; where they cannot be, they are mounted.
func (s *Service) fillUpper(ctx context.Context, p *decided) error {
	dir := s.store.Dir(p.record.ID)
	upper := filepath.Join(dir, "upper")
	made := []string{upper}
	if err := p.upperDir(upper, p.rootMode); err != nil { // the overlay's root shows the upper one's mode
		return err
	}
	if len(p.users) > 0 && p.etcMode != 0 && !p.record.Request.ReadOnly {
		dir = filepath.Join(upper, "etc")
		if err := p.upperDir(dir, p.etcMode); err != nil {
			return err
		}
		made = append(made, dir)
	}
	if err := writeEtc(dir, p.users); err != nil {
		return err
	}
	for name := range p.users {
		made = append(made, filepath.Join(dir, name))
	}
	return s.own(ctx, p.record.IDs, 0, 0, made...)
}

// upperDir makes a directory that has the owner of the image's root.
func (d *decided) upperDir(dir string, mode fs.FileMode) error {
	if err := makeDir(dir, mode); err != nil {
		return err
	}
	if d.rootUID != os.Geteuid() && os.Geteuid() == 0 && !d.record.IDs.Own() {
		return os.Chown(dir, d.rootUID, d.rootGID)
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

// bindSources looks for the sources of bind mounts. A missing one is made as a
// directory if the flag says so (and make does), and is an error otherwise.
func bindSources(mounts []plan.Mount, make bool) error {
	for _, m := range mounts {
		if m.Type != "bind" {
			continue
		}
		_, err := os.Stat(m.Source)
		switch {
		case err == nil || errors.Is(err, fs.ErrPermission): // U may reach what we may not
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("look at the mount's source: %w", err)
		case !m.CreateSrc:
			return errs.New(errs.Invalid, `invalid mount config for type "bind": bind source path does not exist: `+m.Source)
		case make:
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return errs.WithHint(fmt.Errorf("make the mount's source: %w", err), "The directory of a -v that does not exist is made: give one that exists, or one you may make.")
			}
		}
	}
	return nil
}

// modes are the requests that may name another container.
func modes(req *plan.Request) map[string]*string {
	return map[string]*string{
		"network": &req.Network, "pid": &req.PIDMode, "ipc": &req.IPCMode,
		"uts": &req.UTSMode, "user": &req.UserNS, "cgroup": &req.CgroupNSMode,
	}
}

// joined replaces the names of other containers in req, which is of the one called
// name, by their ids.
func (s *Service) joined(req *plan.Request, name string) error {
	for kind, mode := range modes(req) {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		if ref == name && name != "" {
			return errs.New(errs.Invalid, "cannot join own "+kind+" namespace")
		}
		id, err := s.store.Find(ref)
		if err != nil {
			return err
		}
		if kind == "ipc" {
			if err := s.shareable(id, ref); err != nil {
				return err
			}
		}
		*mode = "container:" + id
	}
	return nil
}

// shareable refuses a container whose IPC is its own, as Docker's is unless it
// was asked to be shareable.
func (s *Service) shareable(id, ref string) error {
	c, err := s.store.Load(id)
	if err != nil {
		return err
	}
	switch c.Record.Request.IPCMode {
	case "", "private", "none":
		err := errs.New(errs.Conflict, fmt.Sprintf("can't join IPC of container %s: non-shareable IPC", ref))
		return errs.WithHint(err, "Make that container with --ipc shareable.")
	}
	return nil
}

// others returns the ids of the containers whose namespaces req joins, by kind.
func others(req plan.Request) map[string]string {
	ids := map[string]string{}
	for kind, mode := range modes(&req) {
		if id, ok := strings.CutPrefix(*mode, "container:"); ok {
			ids[kind] = id
		}
	}
	return ids
}

// namespaces returns the paths of the namespaces of other containers that req
// joins. One that does not run yet gets pid 0; start looks again.
func (s *Service) namespaces(req plan.Request) map[string]string {
	paths := map[string]string{}
	for kind, id := range others(req) {
		pid := 0
		if c, err := s.store.Load(id); err == nil && c.Running() {
			pid = c.State.PID
		}
		paths[kind] = nsPath(pid, kind)
	}
	return paths
}

func nsPath(pid int, kind string) string {
	if kind == "network" {
		kind = "net"
	}
	return fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
}

func checkCIDFile(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return errs.New(errs.Conflict, "container ID file found, make sure the other container isn't running or delete "+path)
	}
	return nil
}

func writeCIDFile(path, id string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return checkCIDFile(path)
	}
	if err != nil {
		return fmt.Errorf("write the container ID file: %w", err)
	}
	_, err = f.WriteString(id)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func removeCIDFile(path string) error {
	if path == "" {
		return nil
	}
	return os.Remove(path)
}
