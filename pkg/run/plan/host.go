package plan

// Host is what planning must know of this machine. pkg/run/probe reads it; a
// test writes it by hand.
type Host struct {
	// Rootless says that an ordinary user runs the command: containers live in
	// that user's namespace U, and what the kernel grants is bounded by it.
	Rootless bool
	// InUserNS says that containers are made inside a user namespace: always
	// when Rootless, and also as "root" of a nested one. No device node can be
	// made there, and a hard limit cannot be raised.
	InUserNS bool
	// SingleID says that only one id is mapped there: container root is the
	// caller, and no other id exists.
	SingleID bool
	UID, GID int // the caller's
	// UIDs and GIDs are the ids that exist in the namespace containers are made
	// in, as ranges of container ids. Empty means every id.
	UIDs, GIDs []IDMap

	// Caps are the capabilities that whoever makes the container holds there,
	// as a mask of 1<<CAP_*: our bounding set as root, all the kernel knows in
	// a user namespace of our own.
	Caps uint64
	// Rlimits are our own limits by Docker's name ("nofile"). Unlimited is -1.
	Rlimits map[string]Rlimit
	// RaiseLimits says that a hard limit may be raised: CAP_SYS_RESOURCE
	// outside every user namespace.
	RaiseLimits bool

	Kernel   Kernel
	Arch     string // GOARCH of this machine
	CPUs     int    // online
	Seccomp  bool   // the kernel has seccomp filters
	AppArmor bool   // enabled, and profiles can be given
	SELinux  bool   // enabled
	OOMScore int    // our own oom_score_adj: without RaiseLimits no child can go below it

	Mqueue bool // /dev/mqueue is mounted here, for containers that share our IPC namespace

	Cgroup Cgroups
	// Throttle are the per-cpu thermal_throttle directories of sysfs to mask.
	Throttle []string
}

// IDMap is one range of an id mapping.
type IDMap struct {
	Container uint32 // first id in the namespace
	Host      uint32 // first id outside
	Size      uint32
}

// Rlimit is a limit that a process has. -1 is unlimited.
type Rlimit struct {
	Soft, Hard int64
}

// Kernel is a kernel version: {6, 12}.
type Kernel struct {
	Major, Minor int
}

// atLeast says whether k is major.minor or newer.
func (k Kernel) atLeast(major, minor int) bool {
	return k.Major > major || k.Major == major && k.Minor >= minor
}

// Cgroups is what can be limited here.
type Cgroups struct {
	// Unified says that cgroup v2 is the only hierarchy, so that a container
	// gets a cgroup namespace of its own by default.
	Unified bool
	// Controllers are those in which a directory of the container's own can be
	// made and configured: memory, cpu, cpuset, pids, blkio (v2's io), devices,
	// freezer. A controller that is absent cannot limit anything here.
	Controllers map[string]Controller
	Swap        bool // swap is accounted, so memory+swap can be limited
}

// Controller is one cgroup controller.
type Controller struct {
	Version int // of the cgroup interface: 1 or 2
}

// DeviceNode is a device of this machine.
type DeviceNode struct {
	Path         string // on the host
	Block        bool
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// Volume is what is mounted for a volume.
type Volume struct {
	Source  string // absolute host path; with Type what mount(8) calls the device
	Subpath string // below it, resolved as if Source was the root
	// Type is the file system to mount; "": Source is bound.
	Type    string
	Options []string // of a volume that mounts something
}

// Inputs are what planning needs beyond request, image and machine: facts that
// only whoever creates the container can know.
type Inputs struct {
	ID     string // the container's, 64 hex digits
	Rootfs string // for Root.Path; the lowering mounts there

	// Passwd and Group are the contents of the image's /etc/passwd and
	// /etc/group, read beneath its root; nil when absent. A longer one than
	// [MaxUserFile] is refused.
	Passwd, Group []byte

	// IDs are those of the container's own user namespace, or of the one it joins.
	IDs IDs

	// Namespaces are paths of namespaces to join, by the kind that
	// container:<id> was given for: "network", "pid", "ipc", "uts", "user",
	// "cgroup". A mode that names a container and has no path here is an error.
	Namespaces map[string]string

	// Volumes are directories for the image's volumes and for mounts of type
	// volume, by target. See [Volumes] for the targets that need one.
	Volumes map[string]Volume

	// Devices are the nodes that each Request.Devices[].Host stands for (a
	// directory has several), HostDevices all of this machine's (for
	// --privileged), BlockDevices those that blkio limits name.
	Devices      map[string][]DeviceNode
	HostDevices  []DeviceNode
	BlockDevices map[string]DeviceNode

	// Edits are what the descriptions of Request.CDI say.
	Edits Edits

	// CgroupPath is where the container's cgroup is below each hierarchy; ""
	// without one.
	CgroupPath string
	// HostHostname is this machine's name, for --uts host and --network host.
	HostHostname string
	// NetHostname and NetDomainname are the names of the container whose network is
	// joined, and so those of this one.
	NetHostname, NetDomainname string
}

// Warning is a request that this host, or Docker's rules, answer only in part.
type Warning struct {
	Flag string // "memory", without dashes; empty when no flag is behind it
	Text string // the line for the person, without a prefix
}

// MaxUserFile is the longest passwd or group file of an image that is read.
const MaxUserFile = 1 << 20
