package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

// Edits are what devices that their vendor describes (CDI) add to a container.
type Edits struct {
	Env    []string
	Nodes  []EditedNode
	Mounts []specs.Mount
	Hooks  *specs.Hooks
	GIDs   []uint32
}

// EditedNode is a device node of [Edits]; what is nil is as on the host.
type EditedNode struct {
	Device
	Mode, UID, GID *uint32
}

// nodes are the host's nodes for d as the container gets them.
func (d EditedNode) nodes(host []DeviceNode) []DeviceNode {
	host = slices.Clone(host)
	for i := range host {
		for to, v := range map[*uint32]*uint32{&host[i].Mode: d.Mode, &host[i].UID: d.UID, &host[i].GID: d.GID} {
			if v != nil {
				*to = *v
			}
		}
	}
	return host
}

// edits adds what is no device node: those are with the others. The mounts
// replace what is at their targets.
func (b *builder) edits() error {
	e := b.in.Edits
	env := envList(b.spec.Process.Env)
	for _, kv := range e.Env {
		env.set(kv)
	}
	b.spec.Process.Env = env
	for _, m := range e.Mounts {
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(have specs.Mount) bool { return have.Destination == m.Destination })
		b.spec.Mounts = append(b.spec.Mounts, m)
	}
	b.spec.Process.User.AdditionalGids = append(b.spec.Process.User.AdditionalGids, e.GIDs...)
	switch {
	case e.Hooks == nil:
	case len(b.req.RuntimeArgv) > 0:
		b.spec.Hooks = e.Hooks
	default:
		// They are the host's programs, with its rights, at moments at which ours
		// have nothing to do with the container.
		b.warnings = append(b.warnings, Warning{Flag: "device", Text: "the description of " + strings.Join(b.req.CDI, ", ") +
			" has hooks, which are not run: if a library of the device is not found inside, add --runtime crun"})
	}
	return nil
}

// CheckCDI refuses a device's name that cannot be: vendor.com/class=name.
func CheckCDI(name string) error {
	kind, device, _ := strings.Cut(name, "=")
	vendor, class, ok := strings.Cut(kind, "/")
	odd := func(s string) bool { return s == "" || strings.ContainsAny(s, "/ =,") }
	if !ok || odd(vendor) || odd(class) || odd(device) {
		return errs.New(errs.Invalid, fmt.Sprintf("invalid device %q: want HOST[:CONTAINER][:rwm] or vendor.com/class=name", name))
	}
	return nil
}

// GPUs returns the CDI names of what --gpus asks for: all, a number, or fields
// driver=, count=, device=, capabilities= and options=.
func GPUs(fields []string) ([]string, error) {
	vendor, count := "nvidia", ""
	var ids []string
	for _, f := range fields {
		key, val, valued := strings.Cut(f, "=")
		if !valued {
			key, val = "count", f
		}
		switch key {
		case "driver":
			vendor = val
		case "count":
			count = val
		case "device":
			ids = append(ids, strings.Split(val, ",")...)
		case "capabilities": // a description has all of them
		default:
			return nil, errs.New(errs.Unsupported, fmt.Sprintf("--gpus %s is not supported: there are all, a number, driver=, count=, device= and capabilities=", f))
		}
	}
	if vendor != "nvidia" && vendor != "amd" {
		return nil, errs.WithHint(errs.New(errs.Unsupported, "--gpus driver="+vendor+" is not supported: there are nvidia and amd"),
			"Name the device with --device vendor.com/class=name.")
	}
	switch n, err := strconv.Atoi(count); {
	case count != "" && len(ids) > 0:
		return nil, errs.New(errs.Invalid, "cannot set both Count and DeviceIDs on device request")
	case len(ids) > 0:
	case count == "all" || count == "-1" || count == "" && len(fields) > 0:
		ids = []string{"all"}
	case err != nil || n < 0:
		return nil, errs.New(errs.Invalid, "count must be an integer or \"all\", not "+strconv.Quote(count))
	default:
		for i := range n {
			ids = append(ids, strconv.Itoa(i))
		}
	}
	for i := range ids {
		ids[i] = vendor + ".com/gpu=" + ids[i]
	}
	return ids, nil
}
