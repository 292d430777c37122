package lower

import (
	"path"
	"strings"

	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

// How paths below the container's root are resolved. An absolute link starts at
// that root again, and "magic" links like /proc/self/fd/3 are refused.
const (
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// noLinks is for places that only a hostile image makes a link of: /proc.
	noLinks = inRoot | unix.RESOLVE_NO_SYMLINKS
)

// lookup opens name below dir and returns the descriptor's register, which holds
// -errno if the error is one of expected. A rename anywhere on the machine can
// make the kernel unsure about a ".." in a link: it says EAGAIN, and is asked again.
func (b *builder) lookup(what string, dir wire.Arg, name string, flags, resolve uint64, expected ...uint16) wire.Arg {
	r := b.NewReg()
	b.lookupInto(r, what, dir, name, flags, resolve, expected...)
	return r
}

func (b *builder) lookupInto(r wire.Arg, what string, dir wire.Arg, name string, flags, resolve uint64, expected ...uint16) {
	how := b.how(flags|unix.O_CLOEXEC, 0, resolve)
	b.Call(what, unix.SYS_OPENAT2, dir, name, how, unix.SizeofOpenHow).Expect(append([]uint16{uint16(unix.EAGAIN)}, expected...)...).To(r)
	b.Do(wire.OpJumpEq, what, 0, r, -int(unix.EAGAIN)).Skip = -2
}

func (b *builder) how(flags, mode, resolve uint64) wire.Arg {
	return b.Words(wire.Num(int64(flags)), wire.Num(int64(mode)), wire.Num(int64(resolve)))
}

// kind says what a mount's target is to be if it is missing.
type kind uint8

const (
	aDir kind = iota
	aFile
	likeSource // what the source's descriptor turns out to be
)

// target opens the place of a mount below the root, and makes it, and what
// leads to it, if it is missing. Each component is looked up from the root and
// made in the directory that the one before it turned out to be, so a link that
// appears meanwhile leads nowhere but below the root.
func (b *builder) target(what, name string, k kind, source wire.Arg, resolve uint64) wire.Arg {
	name = path.Clean("/" + name)
	r := b.lookup(what, b.root, name, unix.O_PATH, resolve, uint16(unix.ENOENT))
	if name == "/" {
		return r
	}
	found := b.Jump(wire.OpJumpNe, r, -int(unix.ENOENT))
	mark := b.Mark()
	parts := strings.Split(name[1:], "/")
	dir := b.root
	for i, part := range parts {
		last := i == len(parts)-1
		prefix := "/" + strings.Join(parts[:i+1], "/")
		next := r
		if !last {
			next = b.NewReg()
		}
		b.lookupInto(next, what, b.root, prefix, unix.O_PATH, resolve, uint16(unix.ENOENT))
		there := b.Jump(wire.OpJumpNe, next, -int(unix.ENOENT))
		switch {
		case !last || k == aDir:
			b.mkdir(what, dir, part)
		case k == aFile:
			b.create(what, dir, part)
		default:
			isDir := b.Jump(wire.OpJumpEq, b.typeOf(what, source), unix.S_IFDIR)
			b.create(what, dir, part)
			over := b.Jump(wire.OpJumpEq, 0, 0)
			b.Land(isDir)
			b.mkdir(what, dir, part)
			b.Land(over)
		}
		b.lookupInto(next, what, b.root, prefix, unix.O_PATH, resolve)
		b.Land(there)
		if i > 0 {
			b.close(dir)
		}
		dir = next
	}
	b.Free(mark)
	b.Land(found)
	return r
}

func (b *builder) mkdir(what string, dir wire.Arg, name string) {
	b.Call(what, unix.SYS_MKDIRAT, dir, name, 0o755).Expect(uint16(unix.EEXIST))
}

func (b *builder) create(what string, dir wire.Arg, name string) {
	m := b.Mark()
	fd := b.NewReg()
	b.Call(what, unix.SYS_OPENAT, dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o644).
		Expect(uint16(unix.EEXIST)).To(fd)
	b.close(fd)
	b.Free(m)
}

// typeOf returns a register with the S_IFMT bits of what fd refers to.
func (b *builder) typeOf(what string, fd wire.Arg) wire.Arg {
	const mode = 28 // offsetof(struct statx, stx_mode), the same on every architecture
	r := b.NewReg()
	b.statx(what, fd)
	b.Do(wire.OpLoad, what, 0, b.stat.Plus(mode), 2).To(r)
	b.Do(wire.OpAnd, what, 0, r, unix.S_IFMT).To(r)
	return r
}

func (b *builder) statx(what string, fd wire.Arg) {
	b.Call(what, unix.SYS_STATX, fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_MODE, b.stat)
}
