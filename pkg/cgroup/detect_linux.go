package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/sys"
	"golang.org/x/sys/unix"
)

// Host is where the hierarchies of this machine are mounted, and which of them
// we may make directories in.
type Host struct {
	hierarchies []*hierarchy
	unified     bool // v2 is the only one
	swap        func() bool
	deviceBPF   bool // root of the machine: v2's device programs can be loaded

	// scoped: nothing was delegated to our own session, but the user's manager can
	// make scopes in what was delegated to it.
	scoped bool
}

// hierarchy is one tree of cgroups.
type hierarchy struct {
	version     int
	controllers []string // that limit something in a directory of ours
	mount       string
	base        string      // our directories go below it
	usable      func() bool // we may make them; asked for when it is needed
	unified     bool        // v2, and no v1 hierarchy beside it
}

// Detect finds them, from /proc/self/mountinfo and /proc/self/cgroup.
func Detect() (*Host, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, errs.E("find the cgroup hierarchies", errs.Internal, err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return &Host{swap: func() bool { return false }}, nil // a kernel without cgroups
	}
	if err != nil {
		return nil, errs.E("find the cgroup hierarchies", errs.Internal, err)
	}
	h := &Host{}
	h.hierarchies = parse(string(mounts), string(own))
	root := os.Geteuid() == 0 && !inUserNS()
	v1 := slices.ContainsFunc(h.hierarchies, func(hy *hierarchy) bool { return hy.version == 1 && len(hy.controllers) > 0 })
	for _, hy := range h.hierarchies {
		own := hy.base
		if root || hy.version == 1 && os.Geteuid() == 0 {
			hy.base = hy.mount
		} else {
			hy.base = delegated(hy.mount, own)
		}
		if hy.base == "" && hy.version == 2 && !v1 && !inUserNS() {
			hy.base = userManager(hy.mount)
			h.scoped = hy.base != ""
		}
		hy.usable = sync.OnceValue(func() bool { return hy.base != "" && writable(hy.base) })
		if hy.version == 2 {
			hy.unified = !v1
			h.unified = hy.unified
			hy.controllers = available(hy.base)
		}
	}
	h.deviceBPF = root
	h.swap = sync.OnceValue(h.accountsSwap)
	return h, nil
}

// Plan returns what planning has to know.
func (h *Host) Plan() plan.Cgroups {
	c := plan.Cgroups{Unified: h.unified, Controllers: map[string]plan.Controller{}, Swap: h.swap()}
	for _, hy := range h.hierarchies {
		if !hy.usable() {
			continue
		}
		for _, name := range hy.controllers {
			switch name {
			case "io":
				name = "blkio"
			case "memory", "cpu", "cpuset", "pids", "blkio", "devices", "freezer":
			default:
				continue // nothing of Docker's is in it
			}
			c.Controllers[name] = plan.Controller{Version: hy.version}
		}
		if hy.unified {
			c.Controllers["freezer"] = plan.Controller{Version: 2}
			if h.deviceBPF {
				c.Controllers["devices"] = plan.Controller{Version: 2}
			}
		}
	}
	return c
}

// Path returns where the container's cgroup goes below each hierarchy: parent
// (--cgroup-parent, may be empty; a slice becomes systemd's path for it) and a
// name made from the id. It is "" when no hierarchy can be used.
func (h *Host) Path(parent, id string) (string, error) {
	if !slices.ContainsFunc(h.hierarchies, func(hy *hierarchy) bool { return hy.usable() }) {
		if parent != "" {
			err := errs.New(errs.Unsupported, "no cgroup hierarchy can be used here, so --cgroup-parent means nothing")
			return "", errs.WithHint(err, "Leave it out; 'cais doctor' tells what cgroups need.")
		}
		return "", nil
	}
	if h.scoped && parent != "" {
		return "", errs.New(errs.Unsupported, "--cgroup-parent needs a cgroup of your own: 'systemd-run --user --scope -p Delegate=yes' gives one")
	}
	if slices.Contains(strings.Split(parent, "/"), "..") || strings.ContainsAny(parent, "\n\x00") {
		return "", errs.New(errs.Invalid, fmt.Sprintf("invalid cgroup parent %q", parent))
	}
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		parent = slicePath(parent)
	}
	if h.scoped {
		return path.Join("/", scopeSlice, scopeName(id), prefix+id), nil
	}
	if parent != "" {
		return path.Join("/", parent, id), nil
	}
	return path.Join("/", prefix+id), nil
}

// slicePath: a-b.slice lies in a.slice, systemd.slice(5).
func slicePath(slice string) string {
	parts := strings.Split(strings.TrimSuffix(slice, ".slice"), "-")
	p := ""
	for i := range parts {
		p = path.Join(p, strings.Join(parts[:i+1], "-")+".slice")
	}
	return p
}

// parse joins the two files: what is mounted, and where we are in it. base is
// our own directory. Without a line in mountinfo a hierarchy is out of reach.
func parse(mountinfo, own string) []*hierarchy {
	self := map[string]string{} // by controller; "" for v2
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for c := range strings.SplitSeq(f[1], ",") {
			self[c] = f[2]
		}
	}
	var list []*hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 || r[0] != "cgroup" && r[0] != "cgroup2" {
			continue
		}
		hy := &hierarchy{version: 1, mount: sys.UnescapeMount(l[4])}
		key := ""
		if r[0] == "cgroup2" {
			hy.version = 2
		} else {
			for o := range strings.SplitSeq(r[2], ",") {
				if _, ok := self[o]; ok && o != "" {
					hy.controllers = append(hy.controllers, o)
				}
			}
			if len(hy.controllers) == 0 {
				continue // systemd's own, or unknown
			}
			key = hy.controllers[0]
			hy.controllers = slices.DeleteFunc(hy.controllers, func(c string) bool { return strings.HasPrefix(c, "name=") })
		}
		if seen[key] || len(hy.controllers) == 0 && hy.version == 1 {
			continue // mounted twice: a bind mount of some container's
		}
		where, ok := self[key]
		if !ok {
			continue
		}
		seen[key] = true
		// mountinfo says which directory of the hierarchy the mount shows.
		hy.base = hy.mount
		if rel, ok := relative(sys.UnescapeMount(l[3]), where); ok {
			hy.base = filepath.Join(hy.mount, rel)
		}
		list = append(list, hy)
	}
	return list
}

func relative(root, p string) (string, bool) {
	if root == "/" {
		return p, !strings.HasPrefix(p, "/..")
	}
	if p == root {
		return "/", true
	}
	return strings.CutPrefix(p, root+"/")
}

// delegated returns the highest directory above our own that was given to us
// with all below it: a process moves only between directories whose common
// parent the mover may write. "" if not even our own was.
func delegated(mount, own string) string {
	found := ""
	for dir := own; writable(dir); dir = filepath.Dir(dir) {
		found = dir
		if dir == mount || len(dir) <= len(mount) {
			break
		}
	}
	return found
}

// writable says whether we may make children of dir and move processes there.
func writable(dir string) bool {
	for _, p := range []string{dir, filepath.Join(dir, "cgroup.procs")} {
		if unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, unix.AT_EACCESS) != nil {
			return false
		}
	}
	return true
}

// available returns the v2 controllers that children of dir have or can be
// given. The kernel gives none to the children of a directory that holds
// processes itself, unless it is the root.
func available(dir string) []string {
	read := func(file string) []string {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil
		}
		return strings.Fields(string(text))
	}
	if dir == "" {
		return nil
	}
	on, all := read("cgroup.subtree_control"), read("cgroup.controllers")
	if len(on) == len(all) {
		return on
	}
	_, err := os.Lstat(filepath.Join(dir, "cgroup.type"))
	isRoot := errors.Is(err, fs.ErrNotExist)
	if writable(dir) && (isRoot || len(read("cgroup.procs")) == 0) {
		return all
	}
	return on
}

// accountsSwap says whether memory+swap can be limited.
func (h *Host) accountsSwap() bool {
	for _, hy := range h.hierarchies {
		if !slices.Contains(hy.controllers, "memory") {
			continue
		}
		if hy.version == 1 {
			return exists(filepath.Join(hy.mount, "memory.memsw.limit_in_bytes"))
		}
		// The root has no such file: there, CONFIG_SWAP decides.
		if exists(filepath.Join(hy.base, "memory.max")) {
			return exists(filepath.Join(hy.base, "memory.swap.max"))
		}
		return exists("/proc/swaps")
	}
	return false
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}

// inUserNS says whether we are in another user namespace than the first.
func inUserNS() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}

// Mode is "v1", "v2", "hybrid" for both, or "none".
func (h *Host) Mode() string {
	var v1, v2 bool
	for _, hy := range h.hierarchies {
		v1, v2 = v1 || hy.version == 1, v2 || hy.version == 2
	}
	switch {
	case v1 && v2:
		return "hybrid"
	case v1:
		return "v1"
	case v2:
		return "v2"
	}
	return "none"
}
