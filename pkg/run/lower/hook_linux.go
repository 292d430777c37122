package lower

import (
	"path"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hook returns the plan of a hook that runs in the namespaces of the container
// that spec describes, whose first process is [wire.SlotInit]. Its path is looked
// for in what is that process's root at the moment.
func Hook(spec *specs.Spec, h specs.Hook, env []string) (*wire.Plan, error) {
	if !path.IsAbs(h.Path) {
		return nil, errs.New(errs.Invalid, "the path of a hook must be absolute: "+h.Path)
	}
	ns, err := namespacesOf(spec)
	if err != nil {
		return nil, err
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	b := &builder{spec: spec, ns: ns, proc: &specs.Process{Args: args, Env: env, Cwd: "/"}, running: true}
	b.stat = b.Bytes(make([]byte, 256))
	b.dieWithParent()
	b.Call("join the container's namespaces", unix.SYS_SETNS, wire.InSlot(wire.SlotInit), b.ns.all)
	if b.ns.all&unix.CLONE_NEWUSER != 0 {
		b.becomeRoot()
	}
	if b.ns.all&unix.CLONE_NEWPID != 0 {
		b.Do(wire.OpFork, "enter the pid namespace", 0, 0)
		b.dieWithParent()
	}
	prefix := b.Len()
	b.stdio()
	b.Call("leave no descriptor open", unix.SYS_CLOSE_RANGE, 3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	b.Call("exec "+h.Path, unix.SYS_EXECVE, h.Path, b.Texts(args), b.Texts(env)).Final = true
	p, err := b.Plan()
	if err != nil {
		return nil, errs.E("lower the hook", errs.Internal, err)
	}
	p.Prefix, p.RestoreNofile = prefix, true
	return p, nil
}
