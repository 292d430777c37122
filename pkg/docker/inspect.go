package docker

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
)

// ContainerFacts are what an inspected container is made from.
type ContainerFacts struct {
	Container     *container.Container
	Hostname      string   // as the spec has it
	Env           []string // the container's whole environment
	Masked        []string
	ReadOnly      []string
	Driver        string
	VolumeDir     func(name string) string
	CgroupPrivate bool // it has a cgroup namespace of its own
	SizeRw        *int64
	SizeRootFs    *int64
	Sandbox       *network.Sandbox // its network while it runs; nil: none of its own
}

// NewContainer returns the JSON form of a container.
func NewContainer(f ContainerFacts) *Container {
	c, rec := f.Container, f.Container.Record
	own := func(name string) string { return path.Join(c.Dir, name) }
	out := &Container{
		ID: c.ID, Created: stamp(rec.Created), Path: rec.Path, Args: notNil(rec.Args),
		State: newState(c), Image: "sha256:" + rec.ImageID,
		ResolvConfPath: own("resolv.conf"), HostnamePath: own("hostname"), HostsPath: own("hosts"),
		LogPath: rec.LogPath, Name: "/" + c.Name(), RestartCount: Restarts(c), Driver: f.Driver,
		Platform: "linux", AppArmorProfile: rec.Request.Security.AppArmor,
		HostConfig: hostConfig(f), GraphDriver: containerDriver(f), SizeRw: f.SizeRw, SizeRootFs: f.SizeRootFs,
		Mounts: MountPoints(rec, f.VolumeDir), Config: containerConfig(f), NetworkSettings: networkSettings(f),
		ImageName: rec.ImageRef, OCIRuntime: first(rec.Request.Runtime, "cais"), PidFile: rec.Request.PIDFile,
	}
	if c.State != nil && c.Running() {
		out.ExecIDs = c.State.Execs
	}
	switch rec.Request.LogDriver {
	case "local", "journald", "syslog":
		out.LogPath = "" // as Docker says it: the file is the driver's own
	}
	return out
}

// stamp is a moment as Docker's JSON has it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func notNil(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func newState(c *container.Container) *State {
	status := c.Status()
	s := &State{
		Status: string(status), Running: status == container.Running || status == container.Paused || status == container.Restarting,
		Paused: status == container.Paused, Restarting: status == container.Restarting, Dead: status == container.Dead,
		StartedAt: stamp(c.StartedAt()), FinishedAt: stamp(time.Time{}),
		StoppedByUser: c.Settings != nil && c.Settings.StoppedByUser,
	}
	if c.Running() {
		s.Pid, s.ConmonPid = c.State.PID, c.State.MonitorPID
	}
	if plan.Health(c.Record.Request, c.Record.Image) != nil {
		s.Health = &Health{Status: "starting", Log: []HealthResult{}}
		if h := c.Health(); h != nil {
			s.Health.Status, s.Health.FailingStreak = h.Status, h.FailingStreak
			for _, p := range h.Log {
				s.Health.Log = append(s.Health.Log, HealthResult{stamp(p.Start), stamp(p.End), p.ExitCode, p.Output})
			}
		}
	}
	s.Healthcheck = s.Health
	if e := c.LastExit(); e != nil {
		s.FinishedAt = stamp(e.FinishedAt)
		if status != container.Running && status != container.Paused {
			s.ExitCode, s.OOMKilled, s.Error = e.Code, e.OOMKilled, e.Error
		}
	}
	return s
}

// Restarts is how often the restart policy started the container again.
func Restarts(c *container.Container) int {
	if c.State != nil {
		return c.State.RestartCount
	}
	if c.Exit != nil {
		return c.Exit.Restarts
	}
	return 0
}

func containerDriver(f ContainerFacts) GraphDriver {
	dir := f.Container.Dir
	merged := path.Join(dir, "run", "rootfs")
	if f.Container.Running() { // it is mounted where only the container's processes see it
		merged = "/proc/" + strconv.Itoa(f.Container.State.PID) + "/root"
	}
	return GraphDriver{Name: f.Driver, Data: map[string]string{
		"LowerDir": strings.Join(f.Container.Record.Lower, ":"), "UpperDir": path.Join(dir, "upper"),
		"WorkDir": path.Join(dir, "work"), "MergedDir": merged,
	}}
}

func containerConfig(f ContainerFacts) *ContainerConfig {
	rec := f.Container.Record
	req, img := rec.Request, rec.Image
	c := &ContainerConfig{
		Hostname: f.Hostname, Domainname: req.Domainname, User: first(req.User, img.User),
		AttachStdin: req.AttachStdin, AttachStdout: req.AttachStdout, AttachStderr: req.AttachStderr,
		ExposedPorts: exposed(rec), MacAddress: req.MacAddress, Tty: req.TTY, OpenStdin: req.OpenStdin, StdinOnce: req.StdinOnce,
		Env: notNil(configEnv(req, img, f.Env)), Cmd: req.Args, Healthcheck: plan.MergeHealth(req.Health, img.Healthcheck), ArgsEscaped: img.ArgsEscaped,
		Image: rec.ImageRef, Volumes: volumes(rec), WorkingDir: first(req.Workdir, img.WorkingDir), Entrypoint: img.Entrypoint,
		OnBuild: img.OnBuild, Labels: rec.Labels(), StopSignal: first(req.StopSignal, img.StopSignal),
		StopTimeout: req.StopTimeout, Shell: img.Shell, HealthcheckOnFailureAction: first(req.HealthOnFailure, "none"),
	}
	if req.Entrypoint != nil {
		c.Entrypoint = append([]string(nil), *req.Entrypoint...) // null when it was cleared
	}
	if len(c.Cmd) == 0 && req.Entrypoint == nil {
		c.Cmd = img.Cmd
	}
	return c
}

// configEnv is the environment as Docker shows it: without what only the
// container's own start adds.
func configEnv(req plan.Request, img oci.Config, all []string) []string {
	given := map[string]bool{}
	for _, kv := range slices.Concat(req.Env, img.Env) {
		name, _, _ := strings.Cut(kv, "=")
		given[name] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !given[name] && name != "PATH"
	})
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

func volumes(rec *container.Record) map[string]struct{} {
	var out map[string]struct{}
	for _, v := range rec.Volumes {
		from := slices.ContainsFunc(rec.Request.Mounts, func(m plan.Mount) bool {
			return m.Target == v.Target && (m.Flag == "from" || m.Flag == "mount")
		})
		if v.Named || from {
			continue
		}
		if out == nil {
			out = map[string]struct{}{}
		}
		out[v.Target] = struct{}{}
	}
	return out
}

// MountPoints are a container's mounts: its own and its anonymous volumes, by
// destination.
func MountPoints(rec *container.Record, volumeDir func(string) string) []MountPoint {
	points := []MountPoint{}
	for _, m := range rec.Request.Mounts {
		switch {
		case m.Type == "tmpfs" && m.Flag == "mount":
			points = append(points, MountPoint{Type: "tmpfs", Destination: m.Target, RW: !m.ReadOnly})
		case m.Type == "image":
			points = append(points, MountPoint{Type: "image", Source: m.Source, Destination: m.Target})
		}
		if m.Type != "bind" {
			continue // --tmpfs is not listed; a volume is below
		}
		p := MountPoint{Type: "bind", Source: m.Source, Destination: m.Target, Mode: mode(m), RW: !m.ReadOnly, Propagation: m.Propagation}
		if p.Propagation == "" {
			p.Propagation = "rprivate"
		}
		points = append(points, p)
	}
	for _, v := range rec.Volumes {
		p := MountPoint{
			Type: "volume", Name: v.Name, Source: path.Join(volumeDir(v.Name), "_data"), Destination: v.Target, Driver: "local", RW: !v.ReadOnly,
		}
		for _, m := range rec.Request.Mounts {
			if path.Clean(m.Target) == v.Target {
				p.RW, p.Mode = p.RW && !m.ReadOnly, mode(m)
				if v.Named && m.Flag != "from" && p.Mode == "" {
					p.Mode = "z" // what Docker says of every volume that has a name
				}
			}
		}
		points = append(points, p)
	}
	slices.SortFunc(points, func(a, b MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return points
}

// mode is the third part of -v as typed.
func mode(m plan.Mount) string {
	if m.Flag != "v" {
		return ""
	}
	if parts := strings.SplitN(m.Raw, ":", 3); len(parts) == 3 {
		return parts[2]
	}
	return ""
}

func hostConfig(f ContainerFacts) *HostConfig {
	req := f.Container.Record.Request
	r := f.Container.Limits()
	h := &HostConfig{
		ContainerIDFile: req.CIDFile, VolumesFrom: req.VolumesFrom, VolumeDriver: req.VolumeDriver, LogConfig: LogConfig{Type: first(req.LogDriver, "json-file"), Config: map[string]string{}},
		NetworkMode: NetworkMode(networkMode(req)), PortBindings: portBindings(req), PublishAllPorts: req.PublishAll, AutoRemove: req.AutoRemove,
		RestartPolicy: RestartPolicy{Name: first(f.Container.Settings.Restart.Name, "no"), MaximumRetryCount: f.Container.Settings.Restart.Max},
		Annotations:   req.Annotations, CapAdd: capNames(req.CapAdd), CapDrop: capNames(req.CapDrop),
		CgroupnsMode: Mode(first(req.CgroupNSMode, "host")), DNS: notNil(req.DNS), DNSOptions: notNil(req.DNSOptions), DNSSearch: notNil(req.DNSSearch),
		ExtraHosts: req.AddHosts, Links: hostLinks(req.Links, f.Container.Name()),
		GroupAdd: req.GroupAdd, IpcMode: Mode(first(req.IPCMode, "private")), OomScoreAdj: req.OOMScoreAdj, PidMode: Mode(privateless(req.PIDMode)),
		Privileged: req.Privileged, ReadonlyRootfs: req.ReadOnly, SecurityOpt: req.SecurityOpt, StorageOpt: req.StorageOpt,
		UTSMode: Mode(req.UTSMode), UsernsMode: Mode(req.UserNS), ShmSize: req.ShmSize, Sysctls: req.Sysctls, Runtime: first(req.Runtime, "cais"),
		Resources: Resources{
			CPUShares: r.CPUShares, Memory: r.Memory, NanoCPUs: r.NanoCPUs, CgroupParent: req.CgroupParent, BlkioWeight: r.BlkioWeight,
			BlkioWeightDevice: []WeightDevice{}, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota,
			CPURealtimePeriod: r.CPURTPeriod, CPURealtimeRuntime: r.CPURTRuntime, CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
			Devices: []DeviceMapping{}, DeviceCgroupRules: req.DeviceCgroupRules,
			MemoryReservation: r.MemoryReservation, MemorySwap: memorySwap(r), MemorySwappiness: r.MemorySwappiness,
			OomKillDisable: req.OOMKillDisable, PidsLimit: r.PidsLimit, Ulimits: ulimits(req.Ulimits),
			BlkioDeviceReadBps: throttles(r.ReadBPS), BlkioDeviceWriteBps: throttles(r.WriteBPS),
			BlkioDeviceReadIOps: throttles(r.ReadIOPS), BlkioDeviceWriteIOps: throttles(r.WriteIOPS),
		},
	}
	if h.MaskedPaths, h.ReadonlyPaths = f.Masked, f.ReadOnly; !req.Privileged { // null then, in Docker, too
		h.MaskedPaths, h.ReadonlyPaths = notNil(f.Masked), notNil(f.ReadOnly)
	}
	if f.CgroupPrivate {
		h.CgroupnsMode = "private"
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if req.Init {
		yes := true
		h.Init = &yes
	}
	for k, v := range req.LogOpts {
		h.LogConfig.Config[k] = v
	}
	h.LogConfig.Path, h.LogConfig.Size, h.LogConfig.Tag = f.Container.Record.LogPath, first(req.LogOpts["max-size"], "0B"), req.LogOpts["tag"]
	for _, w := range r.BlkioWeightDevice {
		h.BlkioWeightDevice = append(h.BlkioWeightDevice, WeightDevice(w))
	}
	for _, d := range req.Devices {
		h.Devices = append(h.Devices, DeviceMapping{d.Host, d.Container, d.Perms})
	}
	if len(req.CDI) > 0 {
		h.DeviceRequests = []DeviceRequest{{Driver: "cdi", DeviceIDs: req.CDI}}
	}
	hostMounts(h, req)
	return h
}

// hostMounts sorts the request's mounts into where Docker keeps each flag's.
func hostMounts(h *HostConfig, req plan.Request) {
	for _, m := range req.Mounts {
		switch {
		case m.Flag == "v" && m.Source != "":
			h.Binds = append(h.Binds, first(m.Raw, m.Source+":"+m.Target))
		case m.Flag == "tmpfs":
			if h.Tmpfs == nil {
				h.Tmpfs = map[string]string{}
			}
			h.Tmpfs[m.Target] = strings.Join(m.Options, ",")
		case m.Flag == "mount":
			h.Mounts = append(h.Mounts, newMount(m))
		}
	}
}

// newMount is one --mount with the options that were given.
func newMount(m plan.Mount) Mount {
	out := Mount{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case "bind":
		if m.Propagation != "" || m.Recursive != "" || m.CreateSrc {
			out.BindOptions = &BindOptions{
				Propagation: m.Propagation, NonRecursive: m.Recursive == "disabled", CreateMountpoint: m.CreateSrc,
				ReadOnlyNonRecursive: m.Recursive == "writable", ReadOnlyForceRecursive: m.Recursive == "readonly",
			}
		}
	case "volume":
		o := VolumeOptions{NoCopy: slices.Contains(m.Options, "nocopy"), Labels: m.Labels, Subpath: m.Subpath}
		if m.Driver != "" || len(m.DriverOpts) > 0 {
			o.DriverConfig = &DriverConfig{Name: m.Driver, Options: m.DriverOpts}
		}
		if o.NoCopy || o.Labels != nil || o.Subpath != "" || o.DriverConfig != nil {
			out.VolumeOptions = &o
		}
	case "image":
		if m.Subpath != "" {
			out.ImageOptions = &ImageOptions{m.Subpath}
		}
	case "tmpfs":
		var o TmpfsOptions
		for _, opt := range m.Options {
			if v, ok := strings.CutPrefix(opt, "size="); ok {
				o.SizeBytes, _ = strconv.ParseInt(v, 10, 64) // the flag was a number
			}
			if v, ok := strings.CutPrefix(opt, "mode="); ok {
				mode, _ := strconv.ParseUint(v, 8, 32) // likewise
				o.Mode = uint32(mode)
			}
		}
		if o != (TmpfsOptions{}) {
			out.TmpfsOptions = &o
		}
	}
	return out
}

func networkMode(req plan.Request) string { return first(req.Network, "default") }

// privateless is a mode in Docker's words, where private is the empty one.
func privateless(mode string) string {
	if mode == "private" {
		return ""
	}
	return mode
}

func capNames(list []string) []string {
	var out []string
	for _, c := range list {
		c = strings.ToUpper(c)
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		out = append(out, c)
	}
	return out
}

// memorySwap is memory and swap together: twice the memory, unless something
// else was asked for.
func memorySwap(r plan.Resources) int64 {
	if r.MemorySwap == 0 {
		return 2 * r.Memory
	}
	return r.MemorySwap
}

func ulimits(list []plan.Ulimit) []Ulimit {
	out := []Ulimit{}
	for _, u := range list {
		out = append(out, Ulimit(u))
	}
	return out
}

func throttles(rates []plan.Rate) []ThrottleDevice {
	out := []ThrottleDevice{}
	for _, r := range rates {
		out = append(out, ThrottleDevice(r))
	}
	return out
}

func networkSettings(f ContainerFacts) *NetworkSettings {
	c, req := f.Container, f.Container.Record.Request
	n := &NetworkSettings{Ports: Ports(c, f.Sandbox), Networks: map[string]*Endpoint{}}
	if req.Network == "host" || req.Network == "none" && len(c.Networks()) == 0 {
		n.Networks[req.Network] = &Endpoint{NetworkID: network.BuiltinID(req.Network)}
		return n
	}
	running := c.Running() && f.Sandbox != nil
	if running {
		n.SandboxID, n.SandboxKey = c.ID, "/proc/"+strconv.Itoa(c.State.PID)+"/ns/net"
	}
	for _, a := range c.Networks() {
		e := newEndpoint(a)
		if have := f.Sandbox.Endpoint(a.ID); have != nil && running {
			e.fill(have)
		}
		n.Networks[a.Network] = e
		if a.Network == network.Bridge {
			n.EndpointID, n.Gateway, n.IPAddress, n.IPPrefixLen, n.MacAddress = e.EndpointID, e.Gateway, e.IPAddress, e.IPPrefixLen, e.MacAddress
			n.IPv6Gateway, n.GlobalIPv6Address, n.GlobalIPv6PrefixLen = e.IPv6Gateway, e.GlobalIPv6Address, e.GlobalIPv6PrefixLen
		}
	}
	return n
}

func newEndpoint(a plan.Attachment) *Endpoint {
	e := &Endpoint{Aliases: a.Aliases, DriverOpts: a.DriverOpts, GwPriority: a.GwPriority, NetworkID: a.ID}
	e.Links = append(e.Links, a.Links...)
	if a.IP != "" || a.IP6 != "" || a.LinkLocal != nil {
		e.IPAMConfig = &EndpointIPAM{IPv4Address: a.IP, IPv6Address: a.IP6, LinkLocalIPs: a.LinkLocal}
	}
	e.MacAddress = a.MAC
	return e
}

// fill adds what a container has while it runs.
func (e *Endpoint) fill(have *network.Endpoint) {
	text := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	e.EndpointID, e.MacAddress, e.DNSNames = have.ID, have.MAC, have.Names
	e.Gateway, e.IPAddress, e.IPPrefixLen = text(have.Gateway), text(have.IP), have.Bits
	e.IPv6Gateway, e.GlobalIPv6Address, e.GlobalIPv6PrefixLen = text(have.Gateway6), text(have.IP6), have.Bits6
}

// Ports are the ports of a container that runs, by "80/tcp": where they are
// published; nil for those that are only exposed.
func Ports(c *container.Container, box *network.Sandbox) map[string][]PortBinding {
	ports := map[string][]PortBinding{}
	if !c.Running() || NoPorts(c.Record) {
		return ports
	}
	for _, key := range plan.Exposed(c.Record.Request, c.Record.Image.ExposedPorts) {
		ports[key] = nil
	}
	if box == nil {
		return ports
	}
	for _, b := range box.Ports {
		key := strconv.Itoa(b.Port) + "/" + b.Proto
		ports[key] = append(ports[key], PortBinding{b.HostIP, strconv.Itoa(b.HostPort)})
	}
	return ports
}

func portBindings(req plan.Request) map[string][]PortBinding {
	m := map[string][]PortBinding{}
	for _, p := range req.Ports {
		m[p.Key()] = append(m[p.Key()], PortBinding{p.HostIP, p.HostText()})
	}
	return m
}

func exposed(rec *container.Record) map[string]struct{} {
	keys := plan.Exposed(rec.Request, rec.Image.ExposedPorts)
	if len(keys) == 0 {
		return nil
	}
	m := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

// hostLinks are --link as Docker shows them: "/other:/name/alias".
func hostLinks(links []string, name string) []string {
	var out []string
	for _, l := range links {
		target, alias, _ := strings.Cut(l, ":")
		out = append(out, "/"+target+":/"+name+"/"+alias)
	}
	return out
}

// NoPorts reports whether the container's network is one whose ports Docker does
// not list: none, the host's or another container's.
func NoPorts(rec *container.Record) bool {
	n := rec.Request.Network
	return n == "none" || n == "host" || strings.HasPrefix(n, "container:")
}

// Command is a container's command line on one line.
func Command(rec *container.Record) string {
	args := slices.Concat([]string{rec.Path}, rec.Args)
	for i, a := range args {
		if strings.ContainsAny(a, " \t\n") {
			args[i] = "'" + a + "'"
		}
	}
	return strings.Join(args, " ")
}
