package plan

import (
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ExecRequest is what a user asks of `exec`.
type ExecRequest struct {
	Args       []string
	Env        []string // K=V, later wins
	Workdir    string
	User       string // name|uid[:group|gid]
	TTY        bool
	Privileged bool
}

// Container is what a running container was made from.
type Container struct {
	Spec    *specs.Spec
	Request Request
	Image   oci.Config
}

// Exec returns the process that an exec in a running container is. What the
// request leaves open is the container's: environment, directory, user, limits,
// capabilities. in.Passwd and in.Group are only looked at when it names a user.
func Exec(c Container, req ExecRequest, host Host, in Inputs) (*specs.Process, error) {
	if len(req.Args) == 0 {
		return nil, errs.New(errs.Invalid, "no command specified")
	}
	for _, a := range req.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, errs.New(errs.Invalid, "the command contains a NUL byte")
		}
	}
	own := c.Spec.Process
	p := *own
	p.Args, p.Terminal, p.ConsoleSize = slices.Clone(req.Args), req.TTY, nil
	var err error
	if p.Cwd, err = workdir(req.Workdir, own.Cwd); err != nil {
		return nil, err
	}
	env := envList(slices.Clone(own.Env))
	switch {
	case !req.TTY && c.Request.TTY && !setsVar(c, "TERM"):
		env.unset("TERM") // it told of the container's own terminal
	case req.TTY && !env.has("TERM"):
		env.set("TERM=xterm")
	}
	if req.User != "" {
		user, err := resolve(req.User, nil, in.Passwd, in.Group)
		if err != nil {
			return nil, err
		}
		if err := host.mapped(&user); err != nil {
			return nil, err
		}
		p.User = user.spec()
		p.User.Umask = own.User.Umask
		if !setsVar(c, "HOME") {
			env.set("HOME=" + user.home)
		}
	}
	for _, kv := range req.Env {
		env.set(kv)
	}
	p.Env = env
	var mask uint64
	if own.Capabilities != nil {
		mask = capMask(own.Capabilities.Bounding)
	}
	if req.Privileged {
		mask = host.Caps
	}
	p.Capabilities = capSets(mask, p.User.UID)
	return &p, nil
}

// setsVar says whether image or user set a variable, so that its value is not of
// our making.
func setsVar(c Container, key string) bool {
	is := func(kv string) bool { return strings.HasPrefix(kv, key+"=") }
	return slices.ContainsFunc(c.Image.Env, is) || slices.ContainsFunc(c.Request.Env, is)
}
