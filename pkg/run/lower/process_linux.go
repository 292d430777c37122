package lower

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process turns the child into what the container's program is to be: limits,
// descriptors, directory, ids, capabilities, filter. Behind it only the execve
// is left, so the filter has nothing else to allow.
func (b *builder) process(filter []byte, filterFlags uint32, singleID bool) error {
	p := b.proc
	if err := b.rlimits(); err != nil {
		return err
	}
	caps, err := capSets(p.Capabilities)
	if err != nil {
		return err
	}
	b.stdio()
	cwd := b.workdir()
	if err := b.label(); err != nil {
		return err
	}
	if p.NoNewPrivileges {
		b.Call("forbid new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	// Beyond the last capability that we know, so that a newer kernel's go, too.
	names := capNames()
	for c := range uint64(48) {
		if caps.bounding&(1<<c) == 0 {
			b.Call("drop capability "+capName(names, c)+" for good", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0).Expect(uint16(unix.EINVAL))
		}
	}
	b.ids(singleID)
	b.enterDir(cwd)
	if b.o.Init {
		if err := b.openReaper(); err != nil {
			return err
		}
	}
	b.Call("leave no descriptor open", unix.SYS_CLOSE_RANGE, 3+b.o.PreserveFDs, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	mask := uint32(0o022)
	if p.User.Umask != nil {
		mask = *p.User.Umask
	}
	b.Call("set the umask", unix.SYS_UMASK, mask)
	b.dieWithParent() // the change of ids cleared it
	if b.o.Detached && !b.running {
		b.awaitStart()
	}
	// Without no_new_privs a filter needs CAP_SYS_ADMIN, which goes next.
	if len(filter) > 0 && !p.NoNewPrivileges {
		if err := b.seccomp(filter, filterFlags); err != nil {
			return err
		}
	}
	b.capset(caps)
	if len(filter) > 0 && p.NoNewPrivileges {
		return b.seccomp(filter, filterFlags)
	}
	return nil
}

// awaitStart says that the container is ready, and waits for its start. A program
// that is not there is told while somebody listens.
func (b *builder) awaitStart() {
	b.findProgram()
	b.Gate(unix.SYS_WRITE, unix.SYS_READ)
	const what = "wait for the start"
	n := b.NewReg()
	b.Call(what, unix.SYS_READ, wire.InSlot(SlotStart), b.Bytes(make([]byte, 8)), 1).Retry(uint16(unix.EINTR)).To(n)
	if len(b.proc.Args) == 0 || b.proc.Args[0] == "" {
		b.Do(wire.OpFail, "start a container without a process", 0, int(unix.ENOEXEC)).Final = true
	}
}

// findProgram fails as the later execve would where its file is missing.
func (b *builder) findProgram() {
	if len(b.proc.Args) == 0 || b.proc.Args[0] == "" {
		return
	}
	name := b.proc.Args[0]
	what := fmt.Sprintf("exec %q", name)
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, dir := range searchPath(b.proc.Env) {
			candidates = append(candidates, path.Join(dir, name))
		}
	}
	denied, r := b.NewReg(), b.NewReg()
	b.Do(wire.OpSet, what, 0, int(unix.ENOENT)).To(denied)
	var found []int
	for _, c := range candidates {
		b.Call(what, unix.SYS_FACCESSAT2, unix.AT_FDCWD, c, unix.X_OK, unix.AT_EACCESS).
			Expect(uint16(unix.ENOENT), uint16(unix.ENOTDIR), uint16(unix.EACCES), uint16(unix.ELOOP)).To(r)
		found = append(found, b.Jump(wire.OpJumpEq, r, 0))
		skip := b.Jump(wire.OpJumpNe, r, -int(unix.EACCES))
		b.Do(wire.OpSet, what, 0, int(unix.EACCES)).To(denied)
		b.Land(skip)
	}
	b.Do(wire.OpFail, what, 0, denied).Final = true
	for _, f := range found {
		b.Land(f)
	}
}

func (b *builder) seccomp(filter []byte, flags uint32) error {
	const each = 8 // sizeof(struct sock_filter)
	if len(filter)%each != 0 || len(filter)/each > unix.BPF_MAXINSNS {
		return errs.New(errs.Internal, "the seccomp filter is malformed or too long")
	}
	prog := b.Words(wire.Num(int64(len(filter)/each)), b.Bytes(filter)) // struct sock_fprog: a short, padding, a pointer
	b.Call("load the seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, prog)
	return nil
}

// Rlimit returns the kernel's number of a limit by its OCI name.
func Rlimit(name string) (number int, ok bool) { return rlimit(name) }

func rlimit(name string) (int, bool) {
	i := slices.Index([]string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"},
		strings.TrimPrefix(name, "RLIMIT_"))
	return i, i >= 0 && strings.HasPrefix(name, "RLIMIT_")
}

func (b *builder) rlimits() error {
	for _, l := range b.proc.Rlimits {
		n, ok := rlimit(l.Type)
		if !ok {
			return errs.New(errs.Invalid, fmt.Sprintf("unknown limit %q", l.Type))
		}
		if l.Soft > l.Hard {
			return errs.New(errs.Invalid, fmt.Sprintf("the soft limit of %s is above the hard one", l.Type))
		}
		b.Call("set the limit "+l.Type, unix.SYS_PRLIMIT64, 0, n, b.Words(wire.Num(int64(l.Soft)), wire.Num(int64(l.Hard))), 0)
	}
	return nil
}

// limitsFiles says that the spec sets the limit of open files itself.
func (b *builder) limitsFiles() bool {
	return slices.ContainsFunc(b.proc.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_NOFILE" })
}

// stdio gives the process its descriptors 0 to 2, and gives them to its user, so
// that a program that has left root behind can still open /dev/stderr.
func (b *builder) stdio() {
	uid := b.proc.User.UID
	if b.proc.Terminal {
		for i := range 3 {
			b.Call("pass the terminal", unix.SYS_DUP3, b.slave, i, 0)
		}
		b.Call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
		if uid != 0 {
			b.Call("give the terminal to the user", unix.SYS_FCHOWN, 0, uid, -1)
		}
		return
	}
	var regs [3]wire.Arg
	for i := range regs { // out of the way first: one may have the number of another
		regs[i] = b.NewReg()
		b.Call("pass a stream", unix.SYS_FCNTL, wire.InSlot(wire.SlotStdin+i), unix.F_DUPFD_CLOEXEC, 3).To(regs[i])
	}
	for i, r := range regs {
		b.Call("pass a stream", unix.SYS_DUP3, r, i, 0)
		b.close(r)
		if uid == 0 {
			continue
		}
		// Pipes only: anything else is the host's, and stays whose it is.
		const what = "give a stream to the user"
		other := b.Jump(wire.OpJumpNe, b.typeOf(what, wire.Num(int64(i))), unix.S_IFIFO)
		b.Call(what, unix.SYS_FCHOWN, i, uid, -1).Ignore()
		b.Land(other)
	}
}

// workdir opens the working directory, and makes a new container's if it is
// missing. A link of /proc/*/fd in it would lead to a directory of the host's:
// magic links are refused.
func (b *builder) workdir() wire.Arg {
	dir := path.Clean(b.proc.Cwd)
	what := "open the working directory " + dir
	if b.running {
		return b.lookup(what, b.root, dir, unix.O_PATH|unix.O_DIRECTORY, inRoot)
	}
	return b.target(what, dir, aDir, wire.Arg{}, inRoot)
}

// enterDir changes to the working directory as the user who will work there, or
// else as root, which may have to reach what the user may not.
func (b *builder) enterDir(dir wire.Arg) {
	what := "change to the working directory " + b.proc.Cwd
	b.Call(what, unix.SYS_FCHDIR, dir)
	size := 4096
	buf, r := b.Bytes(make([]byte, size)), b.NewReg()
	b.Call(what, unix.SYS_GETCWD, buf, size)
	b.Do(wire.OpLoad, what, 0, buf, 1).To(r)
	inside := b.Jump(wire.OpJumpEq, r, int('/'))
	b.Do(wire.OpFail, what+", which lies outside the container", 0, int(unix.EXDEV)) // "(unreachable)/…"
	b.Land(inside)
}

// label tells the security module, which acts at execve. It was asked for, so a
// failure is fatal.
func (b *builder) label() error {
	p := b.proc
	text, file := p.SelinuxLabel, "attr/exec"
	if p.ApparmorProfile != "" {
		text, file = "exec "+p.ApparmorProfile, "attr/apparmor/exec"
	}
	if text == "" {
		return nil
	}
	if b.procs.Kind != wire.ArgReg {
		return errs.New(errs.Unsupported, "a security label needs a /proc of the container's own")
	}
	const what = "set the security label"
	// Only the link "self" is followed, and only inside the procfs we made.
	fd := b.lookup(what, b.procs, "thread-self/"+file, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
	b.Call(what, unix.SYS_WRITE, fd, text, len(text))
	b.close(fd)
	return nil
}

// ids changes user and groups and keeps the capabilities in spite of it: what
// follows needs some, and capset takes them away.
func (b *builder) ids(singleID bool) {
	u := b.proc.User
	if u.UID != 0 {
		b.Call("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0)
	}
	if !singleID && b.spec.Annotations[plan.KeepGroupsAnnotation] != "1" { // there setgroups is denied, and no group but ours exists
		groups := make([]byte, 0, 4*len(u.AdditionalGids))
		for _, g := range u.AdditionalGids {
			groups = append(groups, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
		}
		b.Call("set the supplementary groups", unix.SYS_SETGROUPS, len(u.AdditionalGids), b.Bytes(groups))
	}
	b.Call(fmt.Sprintf("become group %d", u.GID), unix.SYS_SETRESGID, u.GID, u.GID, u.GID)
	b.Call(fmt.Sprintf("become user %d", u.UID), unix.SYS_SETRESUID, u.UID, u.UID, u.UID)
	if u.UID != 0 {
		b.Call("keep capabilities no longer", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0, 0, 0, 0)
	}
}

const secbitNoSetuidFixup = 1 << 2

// capabilities are the sets as masks. The inheritable set is the ambient one, and
// so empty unless that was asked for: a file's inheritable capabilities must not
// meet ours.
type capabilities struct{ bounding, effective, permitted, ambient uint64 }

func capSets(c *specs.LinuxCapabilities) (capabilities, error) {
	var s capabilities
	if c == nil {
		return s, nil
	}
	known := capNames()
	for _, set := range []struct {
		to    *uint64
		names []string
	}{{&s.bounding, c.Bounding}, {&s.effective, c.Effective}, {&s.permitted, c.Permitted}, {&s.ambient, c.Ambient}} {
		for _, name := range set.names {
			n := slices.Index(known, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
			if n < 0 {
				return s, errs.New(errs.Invalid, fmt.Sprintf("unknown capability %q", name))
			}
			*set.to |= 1 << n
		}
	}
	return s, nil
}

func (b *builder) capset(c capabilities) {
	const version3 = 0x20080522
	const what = "set the capabilities"
	lo := func(v uint64) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }
	header := b.Bytes(append(lo(version3), 0, 0, 0, 0))
	var data []byte
	for _, shift := range []int{0, 32} {
		for _, set := range []uint64{c.effective, c.permitted, c.ambient} {
			data = append(data, lo(set>>shift)...)
		}
	}
	b.Call(what, unix.SYS_CAPSET, header, b.Bytes(data))
	b.Call(what, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	names := capNames()
	for n := range uint64(len(names)) {
		if c.ambient&(1<<n) != 0 {
			b.Call("pass on capability "+names[n], unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0)
		}
	}
}

// capNames are the capabilities by number.
func capNames() []string {
	return strings.Fields("CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
		"NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT " +
		"SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG " +
		"WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE")
}

func capName(names []string, n uint64) string {
	if n < uint64(len(names)) {
		return names[n]
	}
	return fmt.Sprint(n)
}

// exec replaces the child with the program. Without a slash its name is looked
// for in PATH as execvp does: what is not there is passed over, and what may not
// be executed only if something else may.
func (b *builder) exec() {
	if len(b.proc.Args) == 0 || b.proc.Args[0] == "" {
		return // awaitStart has ended the plan
	}
	name := b.proc.Args[0]
	what := fmt.Sprintf("exec %q", name)
	argv, envp := b.Texts(b.proc.Args), b.Texts(b.proc.Env)
	if strings.Contains(name, "/") {
		b.Call(what, unix.SYS_EXECVE, name, argv, envp).Final = true
		return
	}
	denied, r := b.NewReg(), b.NewReg()
	b.Do(wire.OpSet, what, 0, 0).To(denied)
	for _, dir := range searchPath(b.proc.Env) {
		s := b.Call(what, unix.SYS_EXECVE, path.Join(dir, name), argv, envp).
			Expect(uint16(unix.ENOENT), uint16(unix.ENOTDIR), uint16(unix.EACCES), uint16(unix.ELOOP)).To(r)
		s.Final = true
		skip := b.Jump(wire.OpJumpNe, r, -int(unix.EACCES))
		b.Do(wire.OpSet, what, 0, 1).To(denied)
		b.Land(skip)
	}
	none := b.Jump(wire.OpJumpEq, denied, 0)
	b.Do(wire.OpFail, what, 0, int(unix.EACCES)).Final = true
	b.Land(none)
	b.Do(wire.OpFail, what, 0, int(unix.ENOENT)).Final = true
}

// searchPath returns the directories of PATH. A relative one is taken from the
// working directory, where execve starts.
func searchPath(env []string) []string {
	list := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range env { // the last one counts, as for a shell
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	dirs := strings.Split(list, ":")
	if len(dirs) > 128 { // nobody's; it only makes a long plan
		dirs = dirs[:128]
	}
	return dirs
}
