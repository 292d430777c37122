package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"

	"cais.dev/cais/pkg/errs"
)

// specProfile is a profile as the OCI spec has it, without what depends on the
// container.
type specProfile struct {
	DefaultAction   string     `json:"defaultAction"`
	DefaultErrnoRet *uint32    `json:"defaultErrnoRet,omitempty"`
	Architectures   []string   `json:"architectures,omitempty"`
	Flags           []string   `json:"flags,omitempty"`
	Syscalls        []specRule `json:"syscalls,omitempty"`
}

type specRule struct {
	Names    []string `json:"names"`
	Action   string   `json:"action"`
	ErrnoRet *uint32  `json:"errnoRet,omitempty"`
	Args     []Arg    `json:"args,omitempty"`
}

// Spec returns the linux.seccomp of a config.json for a profile that [Load] takes,
// for runtimes that compile it themselves; nil for none.
func Spec(profile string, o Options) (json.RawMessage, error) {
	switch profile {
	case "unconfined":
		return nil, nil
	case "":
		profile = defaultProfile
	}
	p, err := Parse([]byte(profile))
	if err != nil {
		return nil, err
	}
	native := archOf(o.Arch)
	if native == nil {
		return nil, errs.New(errs.Unsupported, fmt.Sprintf("seccomp profiles are not supported on %s yet", o.Arch))
	}
	rules, err := p.rules(o, native)
	if err != nil {
		return nil, err
	}
	out := specProfile{DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet, Flags: p.Flags}
	if out.DefaultErrnoRet, err = number(p.DefaultErrnoRet, p.DefaultErrno); err != nil {
		return nil, err
	}
	for _, a := range p.arches(native) {
		out.Architectures = append(out.Architectures, a.token)
	}
	for _, r := range rules {
		to := specRule{Names: slices.Clone(r.Names), Action: r.Action, Args: r.Args}
		if to.ErrnoRet, err = number(r.ErrnoRet, r.Errno); err != nil {
			return nil, err
		}
		out.Syscalls = append(out.Syscalls, to)
	}
	return json.Marshal(out)
}

// number is an errno given as a number, or else by its name.
func number(ret *uint32, name string) (*uint32, error) {
	if ret != nil || name == "" {
		return ret, nil
	}
	n, err := errnoOf(name)
	return &n, err
}
