package plan

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// noDeviceRules says that nothing can keep the container from using a device
// node that it makes itself: root of the machine, and no devices controller.
func (b *builder) noDeviceRules() bool {
	_, rules := b.host.Cgroup.Controllers["devices"]
	return !b.host.InUserNS && (!rules || b.req.Cgroups == "disabled")
}

// devices decides the nodes beyond the usual ones (null, zero, full, random,
// urandom, tty, ptmx, console), which whoever makes the container adds, and what
// the devices cgroup lets through.
func (b *builder) devices() error {
	rules := defaultDeviceRules()
	if b.req.Privileged {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		for _, n := range b.in.HostDevices {
			b.device(n, n.Path, "rwm")
		}
	}
	devices := make([]EditedNode, 0, len(b.req.Devices)+len(b.in.Edits.Nodes))
	for _, d := range b.req.Devices {
		devices = append(devices, EditedNode{Device: d})
	}
	for _, d := range append(devices, b.in.Edits.Nodes...) {
		nodes := b.in.Devices[d.Host]
		if len(nodes) == 0 {
			return errs.New(errs.Invalid, fmt.Sprintf("error gathering device information while adding custom device %q: no such device", d.Host))
		}
		for _, n := range d.nodes(nodes) {
			target := path.Join(d.Container, strings.TrimPrefix(n.Path, path.Clean(d.Host)))
			b.device(n, target, d.Perms)
			if !b.req.Privileged {
				rules = append(rules, allow(deviceType(n), n.Major, n.Minor, d.Perms))
			}
		}
	}
	for _, text := range b.req.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		if b.host.InUserNS || b.noDeviceRules() {
			if err := b.short("device-cgroup-rule", "device rules need privileges that this session does not have; --device-cgroup-rule "+text+" ignored"); err != nil {
				return err
			}
			continue
		}
		rules = append(rules, rule)
	}
	if b.host.InUserNS || b.noDeviceRules() {
		return nil
	}
	if b.spec.Linux.Resources == nil {
		b.spec.Linux.Resources = &specs.LinuxResources{}
	}
	b.spec.Linux.Resources.Devices = rules
	return nil
}

// device adds a node. In a user namespace none can be made: the machine's own
// is bound, and its permissions decide.
func (b *builder) device(n DeviceNode, target, perms string) {
	if b.host.InUserNS {
		options := []string{"bind", "rprivate", "nosuid", "noexec"}
		if !strings.Contains(perms, "w") {
			options = append(options, "ro")
		}
		m := specs.Mount{Destination: target, Type: "bind", Source: n.Path, Options: options}
		b.deviceMounts = slices.DeleteFunc(b.deviceMounts, func(have specs.Mount) bool { return have.Destination == target })
		b.deviceMounts = append(b.deviceMounts, m)
		return
	}
	mode, uid, gid := fs.FileMode(n.Mode), n.UID, n.GID
	d := specs.LinuxDevice{Path: target, Type: deviceType(n), Major: n.Major, Minor: n.Minor, FileMode: &mode, UID: &uid, GID: &gid}
	b.spec.Linux.Devices = slices.DeleteFunc(b.spec.Linux.Devices, func(have specs.LinuxDevice) bool { return have.Path == target })
	b.spec.Linux.Devices = append(b.spec.Linux.Devices, d)
}

func deviceType(n DeviceNode) string {
	if n.Block {
		return "b"
	}
	return "c"
}

// defaultDeviceRules: any node may be made, few may be used.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		allow("c", -1, -1, "m"),
		allow("b", -1, -1, "m"),
		allow("c", 1, 3, "rwm"),    // null
		allow("c", 1, 5, "rwm"),    // zero
		allow("c", 1, 7, "rwm"),    // full
		allow("c", 1, 8, "rwm"),    // random
		allow("c", 1, 9, "rwm"),    // urandom
		allow("c", 5, 0, "rwm"),    // tty
		allow("c", 5, 1, "rwm"),    // console
		allow("c", 5, 2, "rwm"),    // ptmx
		allow("c", 136, -1, "rwm"), // pts/*
	}
}

// allow is one rule; -1 is any number.
func allow(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// parseDeviceRule reads "c 1:3 rwm"; "*" is any number, and "a" any type.
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	bad := errs.New(errs.Invalid, fmt.Sprintf("invalid device cgroup format '%s'", text))
	f := strings.Split(text, " ")
	if len(f) != 3 || !slices.Contains([]string{"a", "b", "c"}, f[0]) || !ValidAccess(f[2]) {
		return specs.LinuxDeviceCgroup{}, bad
	}
	maj, min, ok := strings.Cut(f[1], ":")
	major, err1 := deviceNumber(maj)
	minor, err2 := deviceNumber(min)
	if !ok || err1 != nil || err2 != nil {
		return specs.LinuxDeviceCgroup{}, bad
	}
	return allow(f[0], major, minor, f[2]), nil
}

func deviceNumber(s string) (int64, error) {
	if s == "*" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return int64(n), err
}

// ValidAccess says whether s is one to three different letters of "rwm".
func ValidAccess(s string) bool {
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return s != ""
}
