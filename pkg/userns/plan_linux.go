package userns

import (
	"fmt"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

const (
	slotNS    = wire.SlotUser0
	slotNull  = wire.SlotUser0 + 1
	slotFiles = wire.SlotUser0 + 2
	maxFiles  = wire.NumSlots - slotFiles
)

// plan lists what the child does. A Go program cannot join a user namespace,
// because it has several threads; its raw clone can.
func (c *Cmd) plan(join bool, m *Mapping) (*wire.Plan, error) {
	if len(c.Files) > maxFiles {
		return nil, errs.New(errs.Internal, fmt.Sprintf("more than %d files to pass", maxFiles))
	}
	var b wire.Builder
	env := c.Env
	var maps Mapping
	if m != nil {
		maps = *m
		// The map must be there before the execve, which would otherwise drop the
		// new namespace's capabilities.
		b.WaitForMap(unix.SYS_WRITE, unix.SYS_READ)
	}
	if join {
		b.Call("join the user namespace", unix.SYS_SETNS, wire.InSlot(slotNS), unix.CLONE_NEWUSER)
	}
	prefix := b.Len()
	if join || m != nil {
		b.Call("become group 0 of the user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		b.Call("become user 0 of the user namespace", unix.SYS_SETRESUID, 0, 0, 0)
		env = append(env[:len(env):len(env)], Environ()...)
	}
	if c.Pdeathsig != 0 { // after the change of ids, which clears it
		b.Call("ask for a signal at the parent's death", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(c.Pdeathsig))
	}
	if c.MountNS {
		b.Call("make a mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
		b.Call("keep our mounts from the host", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	}
	if c.Setsid {
		b.Call("start a session", unix.SYS_SETSID)
	}
	if c.Dir != "" {
		b.Call("change to "+c.Dir, unix.SYS_CHDIR, c.Dir)
	}
	// Out of the way first: a descriptor may have a number that another gets.
	regs := make([]wire.Arg, max(len(c.Files), 3))
	for i := range regs {
		regs[i] = b.NewReg()
		slot := slotNull
		if i < len(c.Files) && c.Files[i] != nil {
			slot = slotFiles + i
		}
		b.Call("move a descriptor", unix.SYS_FCNTL, wire.InSlot(slot), unix.F_DUPFD_CLOEXEC, len(regs)).To(regs[i])
	}
	for i, r := range regs {
		b.Call("pass a descriptor", unix.SYS_DUP3, r, i, 0)
	}
	b.Call("pass nothing else", unix.SYS_CLOSE_RANGE, len(regs), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	b.Call("exec "+c.Path, unix.SYS_EXECVE, c.Path, b.Texts(c.Args), b.Texts(env)).Final = true

	p, err := b.Plan()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p.Prefix, p.RestoreNofile = prefix, true
	if m != nil {
		p.CloneFlags = unix.CLONE_NEWUSER
		p.UIDs, p.GIDs = wireMap(maps.UIDs), wireMap(maps.GIDs)
		p.DenySetgroups, p.MapHelpers = maps.Single, !maps.Single && !maps.Own
	}
	return p, nil
}

func wireMap(m []IDMap) []wire.IDMap {
	out := make([]wire.IDMap, len(m))
	for i, r := range m {
		out[i] = wire.IDMap(r)
	}
	return out
}
