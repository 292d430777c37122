package plan

import (
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec returns the OCI spec for req on host, for an image with config img, and
// what the person should be told. It fails with Invalid or, if this host cannot
// do it, Unsupported; nothing exists yet that would have to be undone.
//
// The seccomp filter is not part of it: Linux.Seccomp stays nil, and
// Request.Security.Seccomp says which one start compiles.
func Spec(req Request, img oci.Config, host Host, in Inputs) (*specs.Spec, []Warning, error) {
	return nil, nil, errs.New(errs.Unsupported, "planning is not written yet")
}

// Volumes returns the targets that need a directory of their own, in mount
// order: anonymous volumes asked for, and the image's that no mount replaces.
func Volumes(req Request, img oci.Config) []string {
	return nil
}

// Command returns what the container executes. Docker's rule: naming an
// entrypoint drops the image's Cmd, naming only arguments keeps its entrypoint.
func Command(req Request, img oci.Config) ([]string, error) {
	return nil, errs.New(errs.Unsupported, "planning is not written yet")
}

// ExecRequest is what a user asks of `exec`.
type ExecRequest struct {
	Args       []string
	Env        []string // K=V, later wins
	Workdir    string
	User       string // name|uid[:group|gid]
	TTY        bool
	Privileged bool
}

// Exec returns the process that an exec in a running container is. spec is the
// container's own; what the request leaves open is inherited from it.
func Exec(spec *specs.Spec, req ExecRequest, host Host, in Inputs) (*specs.Process, error) {
	return nil, errs.New(errs.Unsupported, "planning is not written yet")
}
