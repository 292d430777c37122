package plan

import (
	"fmt"
	"hash/fnv"
	"path"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultShmSize is /dev/shm's where nothing else is asked.
const defaultShmSize = 64 << 20

// mounts decides what is mounted: the kernel's file systems first, then the
// user's, parents before children. A mount of the user's on a default one's
// target replaces it.
func (b *builder) mounts() error {
	user, err := b.userMounts()
	if err != nil {
		return err
	}
	at := make(map[string]bool, len(user))
	for _, m := range user {
		at[m.Destination] = true
	}
	for _, m := range b.defaultMounts() {
		// Whoever brings a /dev of his own brings what is below it, too.
		if !at[m.Destination] && !(at["/dev"] && strings.HasPrefix(m.Destination, "/dev/")) {
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
	}
	b.spec.Mounts = append(append(b.spec.Mounts, b.deviceMounts...), user...)
	return nil
}

// defaultMounts are Docker's. Some of them need the namespace they show to be
// owned by our user namespace; where it is the machine's, what is mounted there
// already is bound instead.
func (b *builder) defaultMounts() []specs.Mount {
	bind := func(target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: target, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	fs := func(target, kind, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: kind, Source: source, Options: options}
	}
	access := "ro"
	if b.req.Privileged {
		access = "rw"
	}
	proc := fs("/proc", "proc", "proc", append([]string{"nosuid", "noexec", "nodev"}, b.req.Security.ProcOpts...)...)
	if b.hostPID && b.host.InUserNS {
		proc = bind("/proc", "nosuid", "noexec", "nodev")
	}
	sys := fs("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access)
	if (b.hostNet || b.joinNet && b.in.IDs.Own()) && b.host.InUserNS {
		sys = bind("/sys", "nosuid", "noexec", "nodev", access)
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if inMap(b.host.GIDs, 5) {
		pts = append(pts, "gid=5") // tty, by every distribution's custom
	}
	list := []specs.Mount{
		proc,
		fs("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		fs("/dev/pts", "devpts", "devpts", pts...),
		sys,
		fs("/sys/fs/cgroup", "cgroup", "cgroup", b.cgroupAccess(), "nosuid", "noexec", "nodev"),
	}
	switch {
	case b.hostIPC && b.host.InUserNS && b.host.Mqueue:
		list = append(list, bind("/dev/mqueue", "nosuid", "noexec", "nodev"))
	case b.hostIPC && b.host.InUserNS: // queues work without it being mounted
	default:
		list = append(list, fs("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))
	}
	if b.req.ShmSize != 0 && (b.hostIPC || b.joinIPC || b.req.IPCMode == "none") {
		b.warnings = append(b.warnings, Warning{Flag: "shm-size", Text: "with --ipc " + b.req.IPCMode + " the container has no /dev/shm of its own: --shm-size is without effect"})
	}
	switch {
	case b.hostIPC:
		list = append(list, bind("/dev/shm", "nosuid", "noexec", "nodev"))
	case b.joinIPC && b.shm() != "":
		list = append(list, specs.Mount{Destination: shm, Type: "bind", Source: b.shm(), Options: []string{"bind", "rprivate", "nosuid", "noexec", "nodev"}})
	case b.req.IPCMode == "none":
	default:
		size := b.req.ShmSize
		if size == 0 {
			size = defaultShmSize
		}
		list = append(list, fs("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)))
	}
	return list
}

const shm = "/dev/shm"

// shm is where the /dev/shm of the container is whose IPC namespace is joined.
func (b *builder) shm() string { return ShmOf(b.in.Namespaces["ipc"]) }

// ShmOf is the /dev/shm of the container with the IPC namespace at path,
// /proc/PID/ns/ipc; "" for another path. It is in another mount namespace: the
// lowering enters that for a moment.
func ShmOf(path string) string {
	proc, ok := strings.CutSuffix(path, "/ns/ipc")
	if !ok || !strings.HasPrefix(proc, "/proc/") {
		return ""
	}
	return proc + "/root" + shm
}

func (b *builder) cgroupAccess() string {
	switch {
	case b.req.Privileged:
		return "rw"
	case b.req.Security.WritableCgroups:
		return OwnCgroups
	}
	return "ro"
}

// OwnCgroups is the option of the cgroups' mount by which only those are writable
// that the container has for itself: with cgroup v1 it has some of the machine's, too.
const OwnCgroups = "x-cais.own"

// userMounts returns the request's mounts and the directories of volumes,
// parents first.
func (b *builder) userMounts() ([]specs.Mount, error) {
	var list []specs.Mount
	for _, m := range b.req.Mounts {
		sm, err := b.mount(m)
		if err != nil {
			return nil, err
		}
		list = append(list, sm)
	}
	for _, target := range imageVolumes(b.req, b.img) {
		sm, err := b.volume(Mount{Target: target})
		if err != nil {
			return nil, err
		}
		list = append(list, sm)
	}
	slices.SortStableFunc(list, func(x, y specs.Mount) int { return depth(x.Destination) - depth(y.Destination) })
	return list, nil
}

func depth(p string) int { return strings.Count(p, "/") }

func (b *builder) mount(m Mount) (specs.Mount, error) {
	m.Target = path.Clean(m.Target)
	switch m.Type {
	case "tmpfs":
		options, err := TmpfsOptions(m.Options, m.ReadOnly)
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}, err
	case "bind":
		return b.bind(m)
	case "volume", "image":
		return b.volume(m)
	case "devpts", "ramfs":
		return specs.Mount{Destination: m.Target, Type: m.Type, Source: m.Type, Options: append(access(m), m.Options...)}, nil
	}
	return specs.Mount{}, errs.New(errs.Invalid, fmt.Sprintf("mount type unknown: %q", m.Type))
}

func (b *builder) volume(m Mount) (specs.Mount, error) {
	v, ok := b.in.Volumes[m.Target]
	if !ok {
		return specs.Mount{}, errs.New(errs.Internal, "no directory was made for the volume at "+m.Target)
	}
	m.Source = v.Source
	if v.Type != "" && v.Type != "bind" {
		sm := specs.Mount{Destination: m.Target, Type: v.Type, Source: v.Source, Options: append(access(m), v.Options...)}
		return v.below(sm), nil
	}
	m.Options = slices.Concat(m.Options, v.Options)
	m.ReadOnly = m.ReadOnly || slices.Contains(v.Options, "ro")
	sm, err := b.bind(m)
	return v.below(sm), err
}

func (v Volume) below(m specs.Mount) specs.Mount {
	if v.Subpath != "" {
		m.Options = append(m.Options, Subpath+v.Subpath)
	}
	return m
}

// Subpath begins the option of a mount that says what below its root is mounted; it
// is resolved as if that was the root.
const Subpath = "x-cais.subpath="

func access(m Mount) []string {
	if m.ReadOnly {
		return []string{"ro"}
	}
	return nil
}

// bind spells a bind mount. Read-only is recursive where the kernel can
// (mount_setattr, 5.12): otherwise a mount below the source stays writable.
func (b *builder) bind(m Mount) (specs.Mount, error) {
	if slices.Contains(m.Options, "O") {
		return b.overlay(m), nil
	}
	options := []string{"rbind"}
	if m.Recursive == "disabled" {
		options[0] = "bind"
	}
	prop := m.Propagation
	if prop == "" {
		prop = "rprivate"
	}
	options = append(options, prop)
	recursive := b.host.Kernel.atLeast(5, 12) && options[0] == "rbind"
	switch {
	case !m.ReadOnly:
		options = append(options, "rw")
	case m.Recursive == "readonly" && !recursive:
		return specs.Mount{}, errs.WithHint(errs.New(errs.Unsupported, "bind-recursive=readonly needs Linux 5.12"), "Without it, what is mounted below stays writable.")
	case m.Recursive == "writable" || !recursive:
		options = append(options, "ro")
	default:
		options = append(options, "ro", "rro")
	}
	for _, o := range m.Options {
		switch o {
		case "z", "Z":
			if b.host.SELinux {
				err := errs.New(errs.Unsupported, "SELinux is enabled, and the mount option "+o+" (relabel) is not supported yet")
				return specs.Mount{}, errs.WithHint(err, "Label it first: chcon -R -t container_file_t "+m.Source+".")
			}
		case "nosuid", "suid", "nodev", "dev", "noexec", "exec":
			options = append(options, o)
		}
	}
	b.rootPropagation(prop)
	sm := specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: options}
	return sm, b.idmap(&sm, m.Options)
}

// overlay lets the container write over a directory of the host's without
// changing it.
func (b *builder) overlay(m Mount) specs.Mount {
	dir := OverlayDir(path.Dir(b.in.Rootfs), m.Target)
	options := append(access(m), "lowerdir+="+m.Source, "upperdir="+dir+"/upper", "workdir="+dir+"/work")
	if b.inUserNS {
		options = append(options, "userxattr")
	}
	return specs.Mount{Destination: m.Target, Type: "overlay", Source: "overlay", Options: options}
}

// OverlayDir is where what a container writes to a mount with the option O is
// kept, in the container's directory dir, until its next start.
func OverlayDir(dir, target string) string {
	h := fnv.New64a()
	h.Write([]byte(path.Clean(target)))
	return path.Join(dir, "over", strconv.FormatUint(h.Sum64(), 16))
}

// rootPropagation: a mount that shall pass events on needs a root that does.
func (b *builder) rootPropagation(prop string) {
	l := b.spec.Linux
	switch prop {
	case "shared", "rshared":
		l.RootfsPropagation = "shared"
	case "slave", "rslave":
		if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
	}
}

// Volumes returns the mounts that are volumes: those asked for, and the image's
// that no mount of the user's replaces, which have no name.
func Volumes(req Request, img oci.Config) []Mount {
	var list []Mount
	for _, m := range req.Mounts {
		if m.Type == "volume" {
			m.Target = path.Clean(m.Target)
			list = append(list, m)
		}
	}
	for _, target := range imageVolumes(req, img) {
		list = append(list, Mount{Type: "volume", Target: target, Flag: "image"})
	}
	return list
}

// imageVolumes are the image's volumes that no mount replaces. An image may not
// put one over the kernel's file systems: that would take the masks off /proc
// and the deny rules off /dev.
func imageVolumes(req Request, img oci.Config) []string {
	var list []string
	if req.ImageVolume == "ignore" {
		return nil
	}
	for v := range img.Volumes {
		target := path.Clean("/" + v)
		if target == "/" || below(target, "/proc") || below(target, "/sys") || below(target, "/dev") || strings.IndexByte(target, 0) >= 0 {
			continue
		}
		if !slices.ContainsFunc(req.Mounts, func(m Mount) bool { return path.Clean(m.Target) == target }) && !slices.Contains(list, target) {
			list = append(list, target)
		}
	}
	slices.Sort(list)
	return list
}

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// checkMounts refuses targets that cannot be, or are given twice.
func checkMounts(mounts []Mount) error {
	seen := make(map[string]bool, len(mounts))
	for _, m := range mounts {
		target := path.Clean(m.Target)
		switch {
		case !path.IsAbs(m.Target):
			return errs.New(errs.Invalid, fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", m.Target))
		case target == "/":
			return errs.New(errs.Invalid, "invalid specification: destination can't be '/'")
		case seen[target]:
			return errs.New(errs.Invalid, "Duplicate mount point: "+target)
		case strings.IndexByte(m.Target, 0) >= 0 || strings.IndexByte(m.Source, 0) >= 0:
			return errs.New(errs.Invalid, "a mount's path contains a NUL byte")
		}
		seen[target] = true
		if m.Type == "tmpfs" {
			if _, err := TmpfsOptions(m.Options, m.ReadOnly); err != nil {
				return err
			}
		}
	}
	return nil
}

// TmpfsOptions puts Docker's defaults before the user's options; of two that
// contradict each other the later wins.
func TmpfsOptions(options []string, readOnly bool) ([]string, error) {
	all := []string{"noexec", "nosuid", "nodev", "rprivate"}
	if readOnly {
		all = append(all, "ro")
	}
	for _, o := range options {
		key, _, valued := strings.Cut(o, "=")
		switch {
		case valued && slices.Contains([]string{"mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol", "huge"}, key):
		case !valued && opposite(o) != "":
		case o == "relatime", o == "norelatime", o == "atime", o == "noatime", o == "diratime", o == "nodiratime", o == "strictatime",
			o == "sync", o == "async", o == "dirsync", o == "mand", o == "nomand", o == "silent", o == "loud", o == "defaults", o == "notmpcopyup":
		case slices.Contains([]string{"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}, o):
		default:
			return nil, errs.New(errs.Invalid, fmt.Sprintf("invalid tmpfs option %q", o))
		}
		if o == "defaults" || o == "notmpcopyup" {
			continue
		}
		all = slices.DeleteFunc(all, func(have string) bool {
			k, _, _ := strings.Cut(have, "=")
			return k == key || have == opposite(o)
		})
		all = append(all, o)
	}
	return all, nil
}

// opposite returns the option that o takes back; "" if it is not one of a pair.
func opposite(o string) string {
	switch o {
	case "ro":
		return "rw"
	case "rw":
		return "ro"
	case "exec", "suid", "dev":
		return "no" + o
	case "noexec", "nosuid", "nodev":
		return o[2:]
	}
	return ""
}
