package run

import (
	"encoding/json"
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// specFile is a spec for reading config.json. Package encoding/json looks at every
// type that a value could contain before it reads the first byte, and a spec could
// contain those of five operating systems: a sixth of the time that `exec` has. So
// what is hardly ever there is hidden behind fields of the same names, which outer
// structs have, and is looked at only if it is there. (Package plainjson is the
// same for writing.)
type specFile struct {
	specs.Spec
	Process *processFile    `json:"process,omitempty"`
	Linux   *linuxFile      `json:"linux,omitempty"`
	Hooks   json.RawMessage `json:"hooks,omitempty"`
	Solaris json.RawMessage `json:"solaris,omitempty"`
	Windows json.RawMessage `json:"windows,omitempty"`
	VM      json.RawMessage `json:"vm,omitempty"`
	ZOS     json.RawMessage `json:"zos,omitempty"`
	FreeBSD json.RawMessage `json:"freebsd,omitempty"`
}

type processFile struct {
	specs.Process
	Scheduler       json.RawMessage `json:"scheduler,omitempty"`
	IOPriority      json.RawMessage `json:"ioPriority,omitempty"`
	ExecCPUAffinity json.RawMessage `json:"execCPUAffinity,omitempty"`
}

type linuxFile struct {
	specs.Linux
	Resources    *resourcesFile  `json:"resources,omitempty"`
	NetDevices   json.RawMessage `json:"netDevices,omitempty"`
	Seccomp      json.RawMessage `json:"seccomp,omitempty"`
	IntelRdt     json.RawMessage `json:"intelRdt,omitempty"`
	MemoryPolicy json.RawMessage `json:"memoryPolicy,omitempty"`
	Personality  json.RawMessage `json:"personality,omitempty"`
	TimeOffsets  json.RawMessage `json:"timeOffsets,omitempty"`
}

type resourcesFile struct {
	specs.LinuxResources
	Memory         json.RawMessage `json:"memory,omitempty"`
	CPU            json.RawMessage `json:"cpu,omitempty"`
	BlockIO        json.RawMessage `json:"blockIO,omitempty"`
	HugepageLimits json.RawMessage `json:"hugepageLimits,omitempty"`
	Network        json.RawMessage `json:"network,omitempty"`
	Rdma           json.RawMessage `json:"rdma,omitempty"`
}

// rare visits what is hidden: the text, and where the value goes.
func (f *specFile) rare(visit func(text json.RawMessage, value any) error) error {
	all := []error{
		visit(f.Hooks, &f.Spec.Hooks), visit(f.Solaris, &f.Spec.Solaris), visit(f.Windows, &f.Spec.Windows),
		visit(f.VM, &f.Spec.VM), visit(f.ZOS, &f.Spec.ZOS), visit(f.FreeBSD, &f.Spec.FreeBSD),
	}
	if p := f.Process; p != nil {
		all = append(all, visit(p.Scheduler, &p.Process.Scheduler), visit(p.IOPriority, &p.Process.IOPriority),
			visit(p.ExecCPUAffinity, &p.Process.ExecCPUAffinity))
	}
	if l := f.Linux; l != nil {
		all = append(all, visit(l.NetDevices, &l.Linux.NetDevices), visit(l.Seccomp, &l.Linux.Seccomp),
			visit(l.IntelRdt, &l.Linux.IntelRdt), visit(l.MemoryPolicy, &l.Linux.MemoryPolicy),
			visit(l.Personality, &l.Linux.Personality), visit(l.TimeOffsets, &l.Linux.TimeOffsets))
		if r := l.Resources; r != nil {
			v := &r.LinuxResources
			all = append(all, visit(r.Memory, &v.Memory), visit(r.CPU, &v.CPU), visit(r.BlockIO, &v.BlockIO),
				visit(r.HugepageLimits, &v.HugepageLimits), visit(r.Network, &v.Network), visit(r.Rdma, &v.Rdma))
		}
	}
	return errors.Join(all...)
}

// decodeSpec reads config.json.
func decodeSpec(text []byte) (*specs.Spec, error) {
	f := new(specFile)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, err
	}
	err := f.rare(func(text json.RawMessage, value any) error {
		if len(text) == 0 {
			return nil
		}
		return json.Unmarshal(text, value)
	})
	if err != nil {
		return nil, err
	}
	spec := &f.Spec
	if f.Process != nil {
		spec.Process = &f.Process.Process
	}
	if f.Linux != nil {
		spec.Linux = &f.Linux.Linux
		if r := f.Linux.Resources; r != nil {
			spec.Linux.Resources = &r.LinuxResources
		}
	}
	return spec, nil
}
