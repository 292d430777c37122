package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// maxProfile is the longest profile text that is read.
const maxProfile = 4 << 20

// Profile is a profile in any of three dialects: the OCI spec's, Docker's
// (archMap, includes, excludes, name) and podman's (errno by name).
type Profile struct {
	DefaultAction   string    `json:"defaultAction"`
	DefaultErrnoRet *uint32   `json:"defaultErrnoRet"`
	DefaultErrno    string    `json:"defaultErrno"`
	Architectures   []string  `json:"architectures"`
	ArchMap         []ArchMap `json:"archMap"`
	Flags           []string  `json:"flags"`
	ListenerPath    string    `json:"listenerPath"`
	Syscalls        []*Rule   `json:"syscalls"`
}

// ArchMap names the architectures whose calls a machine also takes.
type ArchMap struct {
	Architecture     string   `json:"architecture"`
	SubArchitectures []string `json:"subArchitectures"`
}

// Rule is one answer for some calls.
type Rule struct {
	Names    []string  `json:"names"`
	Name     string    `json:"name"` // an older form of Names
	Action   string    `json:"action"`
	ErrnoRet *uint32   `json:"errnoRet"`
	Errno    string    `json:"errno"`
	Args     []Arg     `json:"args"`
	Includes condition `json:"includes"`
	Excludes condition `json:"excludes"`
}

// Arg compares one argument of a call.
type Arg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// condition decides whether a rule is part of the filter.
type condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// Parse reads a profile and refuses what it could not carry out: a filter that
// leaves out what it did not understand would be a hole.
func Parse(data []byte) (*Profile, error) {
	if len(data) > maxProfile {
		return nil, errs.New(errs.Invalid, "the seccomp profile is larger than 4 MiB")
	}
	var p Profile
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, errs.E("decode the seccomp profile", errs.Invalid, err)
	}
	if p.DefaultAction == "" {
		return nil, errs.New(errs.Invalid, "the seccomp profile has no defaultAction")
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, errs.New(errs.Invalid, "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'")
	}
	if p.ListenerPath != "" {
		return nil, errs.WithHint(errs.New(errs.Unsupported, "seccomp profiles with a listenerPath are not supported yet"), "Use a profile without it.")
	}
	if _, err := p.flags(); err != nil {
		return nil, err
	}
	if _, err := action(p.DefaultAction, p.DefaultErrnoRet, p.DefaultErrno); err != nil {
		return nil, err
	}
	for _, r := range p.Syscalls {
		if r == nil {
			return nil, errs.New(errs.Invalid, "the seccomp profile has an empty rule")
		}
		if err := r.check(); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

func (r *Rule) check() error {
	if r.Name != "" {
		if len(r.Names) > 0 {
			return errs.New(errs.Invalid, "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")
		}
		r.Names = []string{r.Name}
	}
	if _, err := action(r.Action, r.ErrnoRet, r.Errno); err != nil {
		return err
	}
	for _, a := range r.Args {
		if a.Index > 5 {
			return errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile compares argument %d of a call; they are 0 to 5", a.Index))
		}
		if _, ok := compareOp(a.Op); !ok {
			return errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile has an unknown comparison %q", a.Op))
		}
	}
	for _, c := range []condition{r.Includes, r.Excludes} {
		if _, _, err := version(c.MinKernel); err != nil {
			return err
		}
	}
	return nil
}

// rules returns those that apply with o's capabilities, architecture and kernel.
func (p *Profile) rules(o Options, native *arch) ([]*Rule, error) {
	var list []*Rule
	for _, r := range p.Syscalls {
		major, minor, err := version(r.Includes.MinKernel)
		if err != nil {
			return nil, err
		}
		exMajor, exMinor, err := version(r.Excludes.MinKernel)
		if err != nil {
			return nil, err
		}
		newer := func(major, minor int) bool { return o.Major > major || o.Major == major && o.Minor >= minor }
		has := func(c string) bool { return slices.Contains(o.Caps, c) }
		lacks := func(c string) bool { return !has(c) }
		ex, in := r.Excludes, r.Includes
		switch {
		case slices.Contains(ex.Arches, native.name), slices.ContainsFunc(ex.Caps, has), ex.MinKernel != "" && newer(exMajor, exMinor):
		case len(in.Arches) > 0 && !slices.Contains(in.Arches, native.name), slices.ContainsFunc(in.Caps, lacks), !newer(major, minor):
		default:
			list = append(list, r)
		}
	}
	return list, nil
}

// version reads "4.8"; "" is 0.0.
func version(s string) (major, minor int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, ok := strings.Cut(s, ".")
	x, err1 := strconv.ParseUint(a, 10, 8)
	y, err2 := strconv.ParseUint(b, 10, 8)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, errs.New(errs.Invalid, fmt.Sprintf(`invalid kernel version: %q, expected "<kernel>.<major>"`, s))
	}
	return int(x), int(y), nil
}

// The kernel's answers, from linux/seccomp.h.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	ePERM  = 1
	eNOSYS = 38
)

// action returns the kernel's value for an action.
func action(name string, ret *uint32, errno string) (uint32, error) {
	code := uint32(ePERM)
	if errno != "" {
		n, err := errnoOf(errno)
		if err != nil {
			return 0, err
		}
		code = n
	}
	if ret != nil {
		if *ret > 4095 { // MAX_ERRNO: a greater one would look like a valid pointer
			return 0, errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile returns errno %d; the greatest is 4095", *ret))
		}
		code = *ret
	}
	switch name {
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return retKillThread, nil
	case "SCMP_ACT_KILL_PROCESS":
		return retKillProcess, nil
	case "SCMP_ACT_TRAP":
		return retTrap, nil
	case "SCMP_ACT_ERRNO":
		return retErrno | code, nil
	case "SCMP_ACT_TRACE":
		return retTrace | code, nil
	case "SCMP_ACT_LOG":
		return retLog, nil
	case "SCMP_ACT_ALLOW":
		return retAllow, nil
	case "SCMP_ACT_NOTIFY":
		return 0, errs.WithHint(errs.New(errs.Unsupported, "SCMP_ACT_NOTIFY in a seccomp profile is not supported yet"), "Use a profile without it.")
	}
	return 0, errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile has an unknown action %q", name))
}

// severity orders answers as the kernel does among several filters: the lower,
// the stricter.
func severity(ret uint32) int32 { return int32(ret & 0xffff0000) }

// errnoOf returns the number of an error's name, or of a number.
func errnoOf(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 12); err == nil {
		return uint32(n), nil
	}
	if i := slices.Index(strings.Fields(errnos), strings.ToUpper(name)); i >= 0 && name != "-" {
		return uint32(i), nil
	}
	return 0, errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile has an unknown errno %q", name))
}

// errnos are asm-generic's errno names, in the order of their numbers from 0;
// "-" is a gap.
const errnos = `- EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE
EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI
EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV
ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC
EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT
EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET
ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE
EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED
EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON`

// SECCOMP_FILTER_FLAG_*, from linux/seccomp.h.
const (
	flagLog       = 1 << 1
	flagSpecAllow = 1 << 2
)

// flags returns those the profile asks for; without any, speculation
// mitigations are left as they are, as runc does. TSYNC changes nothing for a
// process of one thread.
func (p *Profile) flags() (uint32, error) {
	if p.Flags == nil {
		return flagSpecAllow, nil
	}
	var f uint32
	for _, name := range p.Flags {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC":
		case "SECCOMP_FILTER_FLAG_LOG":
			f |= flagLog
		case "SECCOMP_FILTER_FLAG_SPEC_ALLOW":
			f |= flagSpecAllow
		default:
			return 0, errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile has an unknown flag %q", name))
		}
	}
	return f, nil
}
