// Package plan decides what a container will be. It opens no file, starts no
// process and reads neither clock nor environment: what it must know of this
// machine arrives in [Host], what it decides leaves in the OCI spec.
package plan

import "cais.dev/cais/pkg/oci"

// Request is what a user asks of `run` or `create`, with every flag parsed and
// every value that depends on the caller (environment, working directory, env
// files, seccomp profile files) already resolved. It is stored in the container's
// record, so its JSON form may only grow.
type Request struct {
	Args       []string  `json:"args,omitempty"`       // the command after the image; nil: the image's
	Entrypoint *[]string `json:"entrypoint,omitempty"` // nil: the image's; empty: none

	Env         []string          `json:"env,omitempty"` // K=V, later wins
	UnsetEnv    []string          `json:"unsetEnv,omitempty"`
	UnsetEnvAll bool              `json:"unsetEnvAll,omitempty"`
	HostEnv     []string          `json:"-"`                   // the caller's environment, beaten by the image's
	HostNames   []string          `json:"hostNames,omitempty"` // of the variables that came of HostEnv
	EnvMerge    []string          `json:"-"`                   // K=V, where V may name the image's variables: [ForImage]
	Workdir     string            `json:"workdir,omitempty"`
	User        string            `json:"user,omitempty"` // name|uid[:group|gid]
	GroupAdd    []string          `json:"groupAdd,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Domainname  string            `json:"domainname,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	TTY          bool   `json:"tty,omitempty"`
	OpenStdin    bool   `json:"openStdin,omitempty"` // -i
	StdinOnce    bool   `json:"stdinOnce,omitempty"` // close stdin when the first attacher leaves
	AttachStdin  bool   `json:"attachStdin,omitempty"`
	AttachStdout bool   `json:"attachStdout,omitempty"`
	AttachStderr bool   `json:"attachStderr,omitempty"`
	DetachKeys   string `json:"detachKeys,omitempty"`

	AutoRemove  bool          `json:"autoRemove,omitempty"`  // --rm
	RemoveImage bool          `json:"removeImage,omitempty"` // --rmi, which implies --rm
	Restart     RestartPolicy `json:"restart"`
	Init        bool          `json:"init,omitempty"`
	StopSignal  string        `json:"stopSignal,omitempty"`
	StopTimeout *int          `json:"stopTimeout,omitempty"` // seconds; nil: 10
	Umask       *uint32       `json:"umask,omitempty"`       // nil: 022
	Timeout     int           `json:"timeout,omitempty"`     // seconds after which the container is killed; 0: never
	CIDFile     string        `json:"cidFile,omitempty"`
	PIDFile     string        `json:"pidFile,omitempty"`     // gets the process's pid at each start
	MonitorFile string        `json:"monitorFile,omitempty"` // gets the monitor's
	Systemd     string        `json:"-"`                     // "", "true" (if the command is systemd), "always"

	Health          *oci.Healthcheck `json:"health,omitempty"`          // what overrides the image's
	HealthOnFailure string           `json:"healthOnFailure,omitempty"` // none, kill, stop, restart

	ReadOnly    bool    `json:"readOnly,omitempty"`
	Mounts      []Mount `json:"mounts,omitempty"`
	ShmSize     int64   `json:"shmSize,omitempty"`     // bytes; 0: 64 MiB
	ImageVolume string  `json:"imageVolume,omitempty"` // "" (anonymous volumes), tmpfs, ignore
	// Passwd is "true" or "false" if --passwd was given. PasswdEntry and GroupEntry are
	// lines for the container's user, without newlines.
	Passwd      string `json:"passwd,omitempty"`
	PasswdEntry string `json:"passwdEntry,omitempty"`
	GroupEntry  string `json:"groupEntry,omitempty"`

	Timezone     string            `json:"timezone,omitempty"` // "local", or a name below /usr/share/zoneinfo
	StorageOpt   map[string]string `json:"storageOpt,omitempty"`
	VolumesFrom  []string          `json:"volumesFrom,omitempty"` // as typed: container[:ro]
	VolumeDriver string            `json:"volumeDriver,omitempty"`

	Secrets []Secret `json:"secrets,omitempty"`

	// Network is "" (the default), none, host, container:<id>, ns:PATH, or the first
	// of Networks. Those say what is wanted of each network; nil if nothing is.
	Network    string       `json:"network,omitempty"`
	Networks   []Attachment `json:"networks,omitempty"`
	Ports      []Port       `json:"ports,omitempty"`      // -p
	PublishAll bool         `json:"publishAll,omitempty"` // -P
	Expose     []string     `json:"expose,omitempty"`     // "80/tcp"
	Links      []string     `json:"links,omitempty"`      // CONTAINER:ALIAS, on the default network
	MacAddress string       `json:"macAddress,omitempty"`
	DNS        []string     `json:"dns,omitempty"`
	DNSSearch  []string     `json:"dnsSearch,omitempty"` // ".": none
	DNSOptions []string     `json:"dnsOptions,omitempty"`
	AddHosts   []string     `json:"addHosts,omitempty"` // NAME:IP, NAME:host-gateway
	NoHosts    bool         `json:"noHosts,omitempty"`
	NoHostname bool         `json:"noHostname,omitempty"`

	Privileged  bool     `json:"privileged,omitempty"`
	CapAdd      []string `json:"capAdd,omitempty"`
	CapDrop     []string `json:"capDrop,omitempty"`
	Security    Security `json:"security"`
	SecurityOpt []string `json:"securityOpt,omitempty"` // as typed, for inspect

	UserNS       string   `json:"userNS,omitempty"`  // what [ParseUserMode] reads
	UIDMaps      []string `json:"uidMaps,omitempty"` // --uidmap, as typed
	GIDMaps      []string `json:"gidMaps,omitempty"`
	SubUIDName   string   `json:"subUIDName,omitempty"`
	SubGIDName   string   `json:"subGIDName,omitempty"`
	PIDMode      string   `json:"pidMode,omitempty"` // "", private, host, container:<id>, ns:PATH
	IPCMode      string   `json:"ipcMode,omitempty"`
	UTSMode      string   `json:"utsMode,omitempty"`
	CgroupNSMode string   `json:"cgroupNSMode,omitempty"`
	CgroupParent string   `json:"cgroupParent,omitempty"`
	Cgroups      string   `json:"cgroups,omitempty"` // "", enabled, disabled

	Devices           []Device          `json:"devices,omitempty"`
	CDI               []string          `json:"cdi,omitempty"` // devices that their vendor describes: vendor.com/class=name
	DeviceCgroupRules []string          `json:"deviceCgroupRules,omitempty"`
	Sysctls           map[string]string `json:"sysctls,omitempty"`
	Ulimits           []Ulimit          `json:"ulimits,omitempty"`
	OOMScoreAdj       int               `json:"oomScoreAdj,omitempty"`
	OOMKillDisable    *bool             `json:"oomKillDisable,omitempty"`
	Resources         Resources         `json:"resources"`
	StrictLimits      bool              `json:"strictLimits,omitempty"` // a limit this host cannot apply is an error

	LogDriver string            `json:"logDriver,omitempty"` // "": json-file
	LogOpts   map[string]string `json:"logOpts,omitempty"`
	Platform  string            `json:"platform,omitempty"`
	Runtime   string            `json:"runtime,omitempty"` // as typed; "": cais itself

	// RuntimeArgv is the command line of a Runtime that is not cais itself.
	RuntimeArgv []string `json:"runtimeArgv,omitempty"`
}

// RestartPolicy is --restart: no, always, unless-stopped, on-failure[:Max].
type RestartPolicy struct {
	Name string `json:"name"` // never empty once parsed
	Max  int    `json:"max,omitempty"`
}

// Mount is one -v, --mount or --tmpfs.
type Mount struct {
	Type        string            `json:"type"`             // bind, volume, tmpfs, image
	Source      string            `json:"source,omitempty"` // bind: absolute host path; volume: name, empty if anonymous
	Target      string            `json:"target"`
	ReadOnly    bool              `json:"readOnly,omitempty"`
	Options     []string          `json:"options,omitempty"`     // tmpfs: mount options as typed; bind: z, Z, U, nocopy, noexec …
	Propagation string            `json:"propagation,omitempty"` // bind: rprivate by default
	Recursive   string            `json:"recursive,omitempty"`   // bind-recursive: enabled, disabled, writable, readonly
	Subpath     string            `json:"subpath,omitempty"`     // volume, image: what of it is mounted
	Labels      map[string]string `json:"labels,omitempty"`      // volume: of one that is made
	Driver      string            `json:"driver,omitempty"`      // volume: likewise
	DriverOpts  map[string]string `json:"driverOpts,omitempty"`  // volume: likewise
	CreateSrc   bool              `json:"createSrc,omitempty"`   // a missing bind source is made as a directory (-v)
	Flag        string            `json:"flag"`                  // "v", "mount", "tmpfs", "image": where it came from, for inspect
	Raw         string            `json:"raw,omitempty"`         // as typed, for inspect's Binds
}

// Secret is one --secret: which, and how the container gets it. What it is is
// written nowhere but in the file that the container finds.
type Secret struct {
	Name   string `json:"name"` // or id
	Env    bool   `json:"env,omitempty"`
	Target string `json:"target"` // an absolute path, or a variable's name
	UID    int    `json:"uid,omitempty"`
	GID    int    `json:"gid,omitempty"`
	Mode   uint32 `json:"mode,omitempty"`
}

// Security is --security-opt, parsed.
type Security struct {
	NoNewPrivileges bool     `json:"noNewPrivileges,omitempty"`
	Seccomp         string   `json:"seccomp,omitempty"` // "": the default profile; "unconfined"; else a profile's JSON text
	AppArmor        string   `json:"appArmor,omitempty"`
	Label           []string `json:"label,omitempty"`
	SystemPaths     string   `json:"systemPaths,omitempty"` // "unconfined"
	Mask            []string `json:"mask,omitempty"`
	Unmask          []string `json:"unmask,omitempty"`
	WritableCgroups bool     `json:"writableCgroups,omitempty"`
	ProcOpts        []string `json:"procOpts,omitempty"` // of the mount of /proc
}

// Device is one --device.
type Device struct {
	Host      string `json:"host"`
	Container string `json:"container"`
	Perms     string `json:"perms"` // of "rwm"
}

// Ulimit is one --ulimit. -1 is unlimited.
type Ulimit struct {
	Name string `json:"name"` // "nofile", as Docker names it
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Resources are a container's limits. Zero, or nil, is "not given".
type Resources struct {
	Memory            int64    `json:"memory,omitempty"` // bytes
	MemoryReservation int64    `json:"memoryReservation,omitempty"`
	MemorySwap        int64    `json:"memorySwap,omitempty"` // memory + swap; -1 unlimited
	MemorySwappiness  *int64   `json:"memorySwappiness,omitempty"`
	NanoCPUs          int64    `json:"nanoCPUs,omitempty"` // --cpus × 1e9
	CPUShares         int64    `json:"cpuShares,omitempty"`
	CPUPeriod         int64    `json:"cpuPeriod,omitempty"` // µs
	CPUQuota          int64    `json:"cpuQuota,omitempty"`  // µs per period
	CPURTPeriod       int64    `json:"cpuRTPeriod,omitempty"`
	CPURTRuntime      int64    `json:"cpuRTRuntime,omitempty"`
	CpusetCpus        string   `json:"cpusetCpus,omitempty"`
	CpusetMems        string   `json:"cpusetMems,omitempty"`
	PidsLimit         *int64   `json:"pidsLimit,omitempty"` // ≤ 0: unlimited
	BlkioWeight       uint16   `json:"blkioWeight,omitempty"`
	BlkioWeightDevice []Weight `json:"blkioWeightDevice,omitempty"`
	ReadBPS           []Rate   `json:"readBPS,omitempty"`
	WriteBPS          []Rate   `json:"writeBPS,omitempty"`
	ReadIOPS          []Rate   `json:"readIOPS,omitempty"`
	WriteIOPS         []Rate   `json:"writeIOPS,omitempty"`
}

// Weight is PATH:WEIGHT of --blkio-weight-device.
type Weight struct {
	Path   string `json:"path"`
	Weight uint16 `json:"weight"`
}

// Rate is PATH:RATE of the --device-*-bps and -iops flags, per second.
type Rate struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}
