// Package seccomp turns a profile, in Docker's or the OCI's JSON, into the
// kernel's filter program.
package seccomp

import "cais.dev/cais/pkg/errs"

// Filter is what the kernel loads.
type Filter struct {
	Code  []byte // struct sock_filter, one after another, in this machine's byte order
	Flags uint32 // SECCOMP_FILTER_FLAG_*
}

// Options say for what a profile is compiled: its rules depend on them.
type Options struct {
	Caps         []string // the container's bounding set: "CAP_SYS_ADMIN"
	Arch         string   // GOARCH
	Major, Minor int      // the kernel's version
}

// Load returns the filter for a profile as Request.Security.Seccomp has it: ""
// is the default profile, "unconfined" none (an empty filter), anything else
// the profile's JSON. The default profile with Docker's default capabilities
// is compiled already.
func Load(profile string, o Options) (Filter, error) {
	return Filter{}, errs.New(errs.Unsupported, "seccomp filters are not written yet")
}
