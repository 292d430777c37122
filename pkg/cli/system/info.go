package system

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/volume"
)

// info is what info prints, with Docker's names. What cais does not have is
// there with its empty value, because scripts look for the key.
type info struct {
	ID                 string
	Containers         int
	ContainersRunning  int
	ContainersPaused   int
	ContainersStopped  int
	Images             int
	Driver             string
	DriverStatus       [][2]string
	Plugins            plugins
	MemoryLimit        bool
	SwapLimit          bool
	CPUCfsPeriod       bool `json:"CpuCfsPeriod"`
	CPUCfsQuota        bool `json:"CpuCfsQuota"`
	CPUShares          bool
	CPUSet             bool
	PidsLimit          bool
	IPv4Forwarding     bool
	Debug              bool
	NFd                int
	OomKillDisable     bool
	NGoroutines        int
	SystemTime         string
	LoggingDriver      string
	CgroupDriver       string
	CgroupVersion      string
	NEventsListener    int
	KernelVersion      string
	OperatingSystem    string
	OSVersion          string
	OSType             string
	Architecture       string
	IndexServerAddress string
	RegistryConfig     registryConfig
	NCPU               int
	MemTotal           int64
	GenericResources   []string
	DockerRootDir      string
	HTTPProxy          string `json:"HttpProxy"`
	HTTPSProxy         string `json:"HttpsProxy"`
	NoProxy            string
	Name               string
	Labels             []string
	ExperimentalBuild  bool
	ServerVersion      string
	Runtimes           map[string]runtimeInfo
	DefaultRuntime     string
	Swarm              swarm
	LiveRestoreEnabled bool
	Isolation          string
	InitBinary         string
	ContainerdCommit   commit
	RuncCommit         commit
	InitCommit         commit
	FirewallBackend    firewall
	CDISpecDirs        []string
	SecurityOptions    []string
	Warnings           []string
	ClientInfo         clientInfo
	// Those of a daemon's configuration; each network's are in its record.
	DefaultAddressPools []struct{ Base, Size string } `json:",omitempty"`

	NetworkEngine string // how containers get out, with what the kernel has for it

	// What Podman's templates name: not in the JSON, which is Docker's.
	Host  host  `json:"-"`
	Store store `json:"-"`
}

// host is what `podman info` says of the machine.
type host struct {
	Arch, OS, Kernel, Hostname      string
	CPUs                            int
	MemTotal                        int64
	CgroupManager, CgroupsVersion   string
	NetworkBackend, DatabaseBackend string
	LogDriver, EventLogger          string
	ServiceIsRemote                 bool
	OCIRuntime                      struct{ Name, Path, Version string }
	Distribution                    struct{ Distribution, Version string }
	Slirp4NetNS, Pasta              struct{ Executable string } // never: the network is cais' own
	RemoteSocket                    struct {
		Exists bool // never
		Path   string
	}
	Security struct{ Rootless, SeccompEnabled, AppArmorEnabled, SELinuxEnabled bool }
}

// store is what it says of images and containers.
type store struct {
	GraphDriverName, GraphRoot, RunRoot, VolumePath string
	ImageStore                                      struct{ Number int }
	ContainerStore                                  struct{ Number, Running, Paused, Stopped int }
}

// forPodman fills both from what is known.
func (i *info) forPodman(root string, o storage.Options) {
	h := &i.Host
	h.Arch, h.OS, h.Kernel, h.Hostname, h.CPUs, h.MemTotal = runtime.GOARCH, i.OSType, i.KernelVersion, i.Name, i.NCPU, i.MemTotal
	h.CgroupManager, h.CgroupsVersion = i.CgroupDriver, "v"+i.CgroupVersion
	h.NetworkBackend, h.DatabaseBackend, h.LogDriver, h.EventLogger = "cais", "files", i.LoggingDriver, "file"
	h.OCIRuntime.Name, h.OCIRuntime.Version = i.DefaultRuntime, i.ClientInfo.Version
	h.OCIRuntime.Path, _ = os.Executable() // only shown
	h.Distribution.Distribution, h.Distribution.Version = osRelease("/etc/os-release", "ID"), i.OSVersion
	h.Security.Rootless, h.Security.SeccompEnabled = o.Rootless, true
	s := &i.Store
	s.GraphDriverName, s.GraphRoot, s.RunRoot, s.VolumePath = i.Driver, o.GraphRoot, o.RunRoot, volume.In(root).Root
	s.ImageStore.Number = i.Images
	s.ContainerStore.Number, s.ContainerStore.Running = i.Containers, i.ContainersRunning
	s.ContainerStore.Paused, s.ContainerStore.Stopped = i.ContainersPaused, i.ContainersStopped
}

type plugins struct {
	Volume, Network, Authorization, Log []string
}

type registryConfig struct {
	IndexConfigs          map[string]indexConfig
	InsecureRegistryCIDRs []string
	Mirrors               []string
}

type indexConfig struct {
	Name     string
	Mirrors  []string
	Secure   bool
	Official bool
}

type runtimeInfo struct {
	Path string `json:"path"`
}

// commit is the revision of a program of Docker's, of which there is none here.
type commit struct{ ID string }

// firewall is what networks' rules are made with.
type firewall struct{ Driver string }

type swarm struct {
	NodeID           string
	NodeAddr         string
	LocalNodeState   string
	ControlAvailable bool
	Error            string
	RemoteManagers   []string
}

type clientInfo struct {
	Debug    bool
	Version  string
	Context  string
	Plugins  []string
	Warnings []string
}

// NewInfo makes "info", "system info".
func NewInfo(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "info [OPTIONS]",
		Short:             "Show what cais found on this machine",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := gather(cmd.Context(), e)
			if err != nil {
				return err
			}
			if format != "" {
				return ui.Print(s.Out, i, format, ui.CodeTemplate)
			}
			if err := writeInfo(s.Out, i); err != nil {
				return err
			}
			for _, w := range i.Warnings {
				fmt.Fprintln(s.Err, w)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	return cmd
}

// gather asks this machine.
func gather(ctx context.Context, e *engine.Engine) (*info, error) {
	paths, err := e.Paths()
	if err != nil {
		return nil, err
	}
	o, err := e.StorageOptions()
	if err != nil {
		return nil, err
	}
	i := &info{
		DriverStatus:       [][2]string{{"Graph Root", o.GraphRoot}, {"Run Root", o.RunRoot}},
		Plugins:            plugins{Volume: []string{"local"}, Network: []string{"bridge", "host", "ipvlan", "macvlan", "null"}, Log: []string{"journald", "json-file", "local", "none", "syslog"}},
		Debug:              e.Options().Debug,
		NGoroutines:        runtime.NumGoroutine(),
		LoggingDriver:      "json-file",
		CgroupDriver:       "cgroupfs",
		KernelVersion:      kernelVersion(),
		OperatingSystem:    "Linux",
		OSType:             runtime.GOOS,
		Architecture:       machine(),
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: registryConfig{
			IndexConfigs:          map[string]indexConfig{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
			InsecureRegistryCIDRs: []string{"::1/128", "127.0.0.0/8"},
			Mirrors:               []string{},
		},
		IPv4Forwarding:  true, // between networks it is switched on where it is needed
		NCPU:            runtime.NumCPU(),
		FirewallBackend: firewall{"nftables"},
		DockerRootDir:   paths.Root,
		HTTPProxy:       proxy(e.Getenv, "HTTP_PROXY"),
		HTTPSProxy:      proxy(e.Getenv, "HTTPS_PROXY"),
		NoProxy:         proxy(e.Getenv, "NO_PROXY"),
		Labels:          []string{},
		ServerVersion:   Emulated,
		Runtimes:        map[string]runtimeInfo{"cais": {Path: "cais"}},
		DefaultRuntime:  "cais",
		Swarm:           swarm{LocalNodeState: "inactive"},
		SecurityOptions: []string{"name=seccomp,profile=builtin"},
		ClientInfo:      clientInfo{Debug: e.Options().Debug, Version: newVersions(e, "").Client.Version, Context: "default", Plugins: []string{}},
	}
	if o.Rootless {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(b), "Y") {
		i.Warnings = append(i.Warnings, "WARNING: AppArmor is enabled, but containers get a profile of it only by --security-opt apparmor=NAME")
	}
	groups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	i.limits(groups.Plan())
	if i.CgroupVersion == "2" {
		i.SecurityOptions = append(i.SecurityOptions, "name=cgroupns")
	}
	if name := osRelease("/etc/os-release", "PRETTY_NAME"); name != "" {
		i.OperatingSystem, i.OSVersion = name, osRelease("/etc/os-release", "VERSION_ID")
	}
	if i.Name, err = os.Hostname(); err != nil {
		return nil, err
	}
	var si syscall.Sysinfo_t
	if err := syscall.Sysinfo(&si); err == nil {
		i.MemTotal = int64(si.Totalram) * int64(si.Unit)
	}
	if i.CDISpecDirs, err = e.CDIDirs(); err != nil {
		return nil, err
	}
	i.NetworkEngine = networkEngine(e, filepath.Join(paths.Run, "net"), o.Rootless)
	i.ID = identity(paths.Root, i.Name)
	err = count(ctx, e, i)
	i.forPodman(paths.Root, o)
	return i, err
}

// limits says in what containers can be limited: by cgroups that are ours to make.
func (i *info) limits(c plan.Cgroups) {
	has := func(name string) bool { return c.Controllers[name].Version > 0 }
	i.CgroupVersion = "1" // and what Docker says of mixtures
	if c.Unified {
		i.CgroupVersion = "2"
	}
	i.MemoryLimit, i.SwapLimit, i.OomKillDisable = has("memory"), has("memory") && c.Swap, c.Controllers["memory"].Version == 1
	i.CPUCfsPeriod, i.CPUCfsQuota, i.CPUShares = has("cpu"), has("cpu"), has("cpu")
	i.CPUSet, i.PidsLimit = has("cpuset"), has("pids")
}

// count counts containers and images.
func count(ctx context.Context, e *engine.Engine, i *info) error {
	r, err := e.Reader()
	if err != nil {
		return err
	}
	i.Driver = e.DriverName(r.Driver())
	var imgs []*storage.Image
	if imgs, err = r.Images(ctx); err != nil {
		return err
	}
	i.Images = len(imgs)
	if other := r.Beside(); other != "" {
		o, err := e.StorageOptions()
		if err != nil {
			return err
		}
		i.Warnings = append(i.Warnings, unshared(other, o.GraphRoot))
	}
	store, err := e.ContainerStore()
	if err != nil {
		return err
	}
	all, err := store.List()
	if err != nil {
		return err
	}
	i.Containers = len(all)
	for _, c := range all {
		switch c.Status() {
		case container.Running, container.Restarting:
			i.ContainersRunning++
		case container.Paused:
			i.ContainersPaused++
		default:
			i.ContainersStopped++
		}
	}
	return nil
}

// unshared says why Podman and cais do not see each other's images, and what
// changes it. Podman remembers its driver with its containers.
func unshared(driver, root string) string {
	memory := "libpod/bolt_state.db"
	if _, err := os.Stat(filepath.Join(root, "db.sql")); err == nil {
		memory = "db.sql"
	}
	return fmt.Sprintf("WARNING: Podman keeps its images in %s with the driver %s, and cais its own with overlay: neither sees the other's. "+
		"To share, set driver = \"overlay\" below [storage] in storage.conf, remove Podman's containers, then %s", root, driver, filepath.Join(root, memory))
}

// identity is stable for one user's containers on one machine, and says
// nothing else.
func identity(parts ...string) string {
	h := sha256.New()
	if id, err := os.ReadFile("/etc/machine-id"); err == nil {
		h.Write(id)
	}
	for _, p := range parts {
		fmt.Fprintf(h, "\x00%s", p)
	}
	s := fmt.Sprintf("%x", h.Sum(nil))
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:32]}, "-")
}

// proxy is a proxy variable in either case, without the password in it.
func proxy(getenv func(string) string, name string) string {
	v := getenv(name)
	if v == "" {
		v = getenv(strings.ToLower(name))
	}
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		return v
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = "xxxxx:xxxxx" + rest[at:]
	}
	return scheme + "://" + rest
}

// machine is what uname -m says, which is what Docker prints.
func machine() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return runtime.GOARCH
	}
	return cString(u.Machine[:])
}

// osRelease reads os-release(5).
func osRelease(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, _ := strings.Cut(lines.Text(), "="); k == key {
			if s, err := strconv.Unquote(v); err == nil {
				return s
			}
			return v
		}
	}
	return ""
}

// networkEngine says how containers get out. What the kernel has for a relay is
// found out, and noted until the next boot, by the first container with a network.
func networkEngine(e *engine.Engine, dir string, rootless bool) string {
	if !rootless {
		if networks, err := e.Connections(); err == nil {
			if relays, err := networks.RelaysPorts(); err == nil && relays {
				return "bridge, without fib: ports published at all addresses are relayed"
			}
		}
		return "bridge"
	}
	if b, err := os.ReadFile(filepath.Join(dir, "engine")); err == nil {
		return string(b)
	}
	features, err := os.ReadFile(filepath.Join(dir, "gw", "features"))
	if err != nil {
		return "relay"
	}
	has := strings.Split(strings.Trim(string(features), ","), ",")
	text := "relay (tproxy, " + strings.Join(has, ", ") + ")"
	if !slices.Contains(has, "queue") && !slices.Contains(has, "nfqueue") {
		text += ", without queues: connections are accepted before they are made"
	}
	return text
}

// writeInfo prints Docker's text form.
func writeInfo(w io.Writer, i *info) error {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("Client:\n Version:    %s\n Context:    %s\n Debug Mode: %t\n", i.ClientInfo.Version, i.ClientInfo.Context, i.ClientInfo.Debug)
	p("Server:\n Containers: %d\n  Running: %d\n  Paused: %d\n  Stopped: %d", i.Containers, i.ContainersRunning, i.ContainersPaused, i.ContainersStopped)
	p(" Images: %d\n Server Version: %s\n Storage Driver: %s", i.Images, i.ServerVersion, i.Driver)
	for _, s := range i.DriverStatus {
		p("  %s: %s", s[0], s[1])
	}
	p(" Logging Driver: %s\n Cgroup Driver: %s\n Cgroup Version: %s", i.LoggingDriver, i.CgroupDriver, i.CgroupVersion)
	p(" Plugins:\n  Volume: %s\n  Network: %s\n  Log: %s", strings.Join(i.Plugins.Volume, " "), strings.Join(i.Plugins.Network, " "), strings.Join(i.Plugins.Log, " "))
	p(" Network Engine: %s", i.NetworkEngine)
	p(" Swarm: %s\n Runtimes: cais\n Default Runtime: %s\n Security Options:", i.Swarm.LocalNodeState, i.DefaultRuntime)
	for _, o := range i.SecurityOptions {
		name, rest, _ := strings.Cut(strings.TrimPrefix(o, "name="), ",")
		p("  %s", name)
		if key, value, ok := strings.Cut(rest, "="); ok {
			p("   %s: %s", title(key), value)
		}
	}
	p(" Kernel Version: %s\n Operating System: %s\n OSType: %s\n Architecture: %s", i.KernelVersion, i.OperatingSystem, i.OSType, i.Architecture)
	p(" CPUs: %d\n Total Memory: %s\n Name: %s\n ID: %s\n Docker Root Dir: %s", i.NCPU, units.BinarySize(i.MemTotal), i.Name, i.ID, i.DockerRootDir)
	p(" Debug Mode: %t", i.Debug)
	for _, v := range [][2]string{{"HTTP Proxy", i.HTTPProxy}, {"HTTPS Proxy", i.HTTPSProxy}, {"No Proxy", i.NoProxy}} {
		if v[1] != "" {
			p(" %s: %s", v[0], v[1])
		}
	}
	p(" Experimental: %t\n Insecure Registries:", i.ExperimentalBuild)
	for _, c := range i.RegistryConfig.InsecureRegistryCIDRs {
		p("  %s", c)
	}
	p(" Live Restore Enabled: %t", i.LiveRestoreEnabled)
	_, err := io.WriteString(w, b.String())
	return err
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
