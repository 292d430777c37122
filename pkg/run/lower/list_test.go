package lower

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/run/wire"
)

// List prints a plan, one step a line, with the names of the system calls: for
// people, and for tests that compare with a file. Structures are not shown.
func List(p *wire.Plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "clone %#x, prefix %d\n", p.CloneFlags, p.Prefix)
	for i := range p.Steps {
		s := &p.Steps[i]
		fmt.Fprintf(&b, "%3d %s", i, listOp(p, s))
		if s.Save != 0 {
			fmt.Fprintf(&b, " -> r%d", s.Save)
		}
		var on []string
		for _, e := range s.Errnos {
			if e != 0 {
				on = append(on, unix.ErrnoName(unix.Errno(e)))
			}
		}
		if s.AnyError {
			on = append(on, "any")
		}
		if len(on) > 0 {
			fmt.Fprintf(&b, " [%s]", strings.Join(on, " "))
		}
		if s.Skip != 0 {
			fmt.Fprintf(&b, " => %d", i+1+int(s.Skip))
		}
		if s.Final {
			b.WriteString(" final")
		}
		if what := p.Text(s.What); what != "" {
			b.WriteString("  # " + what)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func listOp(p *wire.Plan, s *wire.Step) string {
	names := [...]string{wire.OpSet: "set", wire.OpLoad: "load", wire.OpStore: "store", wire.OpAnd: "and", wire.OpJumpEq: "if ==",
		wire.OpJumpNe: "if !=", wire.OpFail: "fail", wire.OpFork: "fork", wire.OpExit: "exit"}
	name := names[s.Op]
	n := len(s.Args)
	if s.Op == wire.OpCall {
		name = callName(uintptr(s.Nr))
	}
	for n > 0 && s.Args[n-1] == (wire.Arg{}) {
		n--
	}
	args := make([]string, n)
	for i, a := range s.Args[:n] {
		args[i] = listArg(p, a)
	}
	return name + "(" + strings.Join(args, ", ") + ")"
}

func listArg(p *wire.Plan, a wire.Arg) string {
	switch a.Kind {
	case wire.ArgReg:
		return "r" + strconv.FormatUint(a.Value, 10)
	case wire.ArgSlot:
		return "slot" + strconv.FormatUint(a.Value, 10)
	case wire.ArgData:
		// What reads like a text is one; a structure nearly always holds a zero
		// or an unprintable byte early.
		t := p.Text(uint32(a.Value))
		if t == "" && (a.Value == 0 || p.Data[a.Value-1] == 0) && a.Value%8 != 0 {
			return `""`
		}
		for _, c := range t {
			if c < ' ' || c > '~' {
				t = ""
				break
			}
		}
		if len(t) < 2 && t != "/" && t != "." && t != "0" {
			return "&"
		}
		return strconv.Quote(t)
	}
	if v := int64(a.Value); v > -4096 && v < 1<<16 {
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprintf("%#x", a.Value)
}

// callName names the system calls that plans are made of.
func callName(nr uintptr) string {
	names := map[uintptr]string{
		unix.SYS_CAPSET: "capset", unix.SYS_CHDIR: "chdir", unix.SYS_CLONE: "clone", unix.SYS_CLOSE: "close", unix.SYS_CLOSE_RANGE: "close_range",
		unix.SYS_DUP3: "dup3", unix.SYS_EXECVE: "execve", unix.SYS_EXECVEAT: "execveat", unix.SYS_FCHDIR: "fchdir", unix.SYS_FCHMOD: "fchmod",
		unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FCNTL: "fcntl", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount",
		unix.SYS_FSOPEN: "fsopen", unix.SYS_FSTATFS: "fstatfs", unix.SYS_GETCWD: "getcwd", unix.SYS_GETPID: "getpid", unix.SYS_IOCTL: "ioctl", unix.SYS_KEYCTL: "keyctl",
		unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MKNODAT: "mknodat", unix.SYS_MOUNT: "mount",
		unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2",
		unix.SYS_OPEN_TREE: "open_tree", unix.SYS_PIPE2: "pipe2", unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_PRCTL: "prctl",
		unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_READ: "read", unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask", unix.SYS_SECCOMP: "seccomp",
		unix.SYS_SENDMSG: "sendmsg", unix.SYS_SETDOMAINNAME: "setdomainname", unix.SYS_SETGROUPS: "setgroups", unix.SYS_SETHOSTNAME: "sethostname",
		unix.SYS_SETNS: "setns", unix.SYS_SETPGID: "setpgid", unix.SYS_SETRESGID: "setresgid", unix.SYS_SETRESUID: "setresuid", unix.SYS_SETSID: "setsid",
		unix.SYS_SOCKET: "socket", unix.SYS_STATX: "statx", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UMASK: "umask", unix.SYS_UMOUNT2: "umount2",
		unix.SYS_UNSHARE: "unshare", unix.SYS_WRITE: "write",
	}
	if n, ok := names[nr]; ok {
		return n
	}
	return "call" + strconv.Itoa(int(nr))
}
