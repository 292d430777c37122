package plan

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces decides which namespaces are made, shared and joined. A user
// namespace is in the list only if the container is to have one of its own:
// rootless containers live in U, where whoever makes them already is.
func (b *builder) namespaces() error {
	b.add(specs.MountNamespace, "")
	if err := b.userNamespace(); err != nil {
		return err
	}
	cgroup := b.req.CgroupNSMode
	if cgroup == "" && !b.host.Cgroup.Unified {
		cgroup = "host" // Docker's default on v1
	}
	var err error
	join := func(kind specs.LinuxNamespaceType, flag, mode string) (host, joined bool) {
		if err != nil {
			return false, false
		}
		host, joined, err = b.namespace(kind, flag, mode)
		return host, joined
	}
	b.hostNet, b.joinNet = join(specs.NetworkNamespace, "network", b.req.Network)
	b.hostPID, _ = join(specs.PIDNamespace, "pid", b.req.PIDMode)
	b.hostIPC, b.joinIPC = join(specs.IPCNamespace, "ipc", b.req.IPCMode)
	b.hostUTS, b.joinUTS = join(specs.UTSNamespace, "uts", b.req.UTSMode)
	join(specs.CgroupNamespace, "cgroupns", cgroup)
	return err
}

// namespace adds the entry for one kind: a new one, none for the host's, or one
// with a path to join.
func (b *builder) namespace(kind specs.LinuxNamespaceType, flag, mode string) (host, joined bool, err error) {
	switch {
	case mode == "host":
		return true, false, nil
	case strings.HasPrefix(mode, "ns:"):
		b.add(kind, mode[len("ns:"):])
		return false, true, nil
	case strings.HasPrefix(mode, "container:"):
		p := b.in.Namespaces[string(kind)]
		if p == "" {
			return false, false, errs.New(errs.Conflict, fmt.Sprintf("cannot join the %s namespace of container %s: it is not running", flag, mode[len("container:"):]))
		}
		b.add(kind, p)
		return false, true, nil
	}
	b.add(kind, "")
	return false, false, nil
}

func (b *builder) add(kind specs.LinuxNamespaceType, path string) {
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

// checkModes refuses modes that do not exist, and pairs that contradict each
// other, whatever the host.
func checkModes(req Request) error {
	for _, m := range []struct {
		flag, mode string
		words      []string
	}{
		{"pid", req.PIDMode, []string{"host", "private"}},
		{"ipc", req.IPCMode, []string{"host", "private", "shareable", "none"}},
		{"uts", req.UTSMode, []string{"host", "private"}},
		{"cgroupns", req.CgroupNSMode, []string{"host", "private"}},
	} {
		if err := checkMode(m.flag, m.mode, m.words); err != nil {
			return err
		}
	}
	if _, err := ParseUserMode(req.UserNS); err != nil {
		return err
	}
	switch {
	case req.UTSMode != "" && req.UTSMode != "private" && req.Hostname != "":
		return errs.New(errs.Invalid, "conflicting options: hostname and the UTS mode")
	case req.UTSMode != "" && req.UTSMode != "private" && req.Domainname != "":
		return errs.New(errs.Invalid, "conflicting options: domainname and the UTS mode")
	}
	return nil
}

func checkMode(flag, mode string, words []string) error {
	if mode == "" {
		return nil
	}
	for _, w := range words {
		if mode == w {
			return nil
		}
	}
	if p, ok := strings.CutPrefix(mode, "ns:"); ok && strings.HasPrefix(p, "/") {
		return nil
	}
	if name, ok := strings.CutPrefix(mode, "container:"); ok {
		if name == "" {
			return errs.New(errs.Invalid, fmt.Sprintf("--%s: invalid container format container:<name|id>", flag))
		}
		return nil
	}
	return errs.New(errs.Invalid, fmt.Sprintf("--%s: invalid %s mode: %s", flag, strings.ToUpper(flag), mode))
}
