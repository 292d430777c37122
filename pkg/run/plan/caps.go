package plan

import (
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// capNames are the capabilities by their number, from linux/capability.h.
var capNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// defaultCaps are Docker's fourteen, as a mask.
const defaultCaps uint64 = 1<<0 /* CHOWN */ | 1<<1 /* DAC_OVERRIDE */ | 1<<3 /* FOWNER */ | 1<<4 /* FSETID */ |
	1<<5 /* KILL */ | 1<<6 /* SETGID */ | 1<<7 /* SETUID */ | 1<<8 /* SETPCAP */ | 1<<10 /* NET_BIND_SERVICE */ |
	1<<13 /* NET_RAW */ | 1<<18 /* SYS_CHROOT */ | 1<<27 /* MKNOD */ | 1<<29 /* AUDIT_WRITE */ | 1<<31 /* SETFCAP */

const capMknod = 27

// parseCap returns the number of a capability, with or without CAP_, in any
// case; all for ALL.
func parseCap(name string) (n int, all bool, err error) {
	up := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(name)), "CAP_")
	if up == "ALL" {
		return 0, true, nil
	}
	if n = slices.Index(capNames[:], up); n < 0 {
		return 0, false, errs.New(errs.Invalid, fmt.Sprintf("unknown capability: %q", "CAP_"+up))
	}
	return n, false, nil
}

// capList spells a mask.
func capList(mask uint64) []string {
	list := []string{}
	for n, name := range capNames {
		if mask&(1<<n) != 0 {
			list = append(list, "CAP_"+name)
		}
	}
	return list
}

// capMask is capList's inverse; names it does not know count for nothing.
func capMask(list []string) uint64 {
	var mask uint64
	for _, c := range list {
		if n, all, err := parseCap(c); err == nil && !all {
			mask |= 1 << n
		}
	}
	return mask
}

// parseCaps returns the mask of list and whether ALL is in it.
func parseCaps(list []string) (mask uint64, all bool, err error) {
	for _, c := range list {
		n, isAll, err := parseCap(c)
		if err != nil {
			return 0, false, err
		}
		if isAll {
			all = true
			continue
		}
		mask |= 1 << n
	}
	return mask, all, nil
}

// Administers reports whether a container may change its network: add devices, rules
// and routes.
func (r *Request) Administers() bool {
	const netAdmin = 12
	mask, all, _ := parseCaps(r.CapAdd) // Check has refused what has no name
	return r.Privileged || all || mask&(1<<netAdmin) != 0
}

// capabilities decides the sets. What we do not hold ourselves is left out in
// silence, unless the user named it.
func (b *builder) capabilities() error {
	add, addAll, err := parseCaps(b.req.CapAdd)
	if err != nil {
		return err
	}
	drop, dropAll, err := parseCaps(b.req.CapDrop)
	if err != nil {
		return err
	}
	if lack := add &^ b.host.Caps; lack != 0 {
		err := errs.New(errs.Unsupported, fmt.Sprintf("capability not available in the current environment: %q", capList(lack)[0]))
		return errs.WithHint(err, "This process does not hold it and cannot hand it on; leave it out of --cap-add.")
	}
	mask := defaultCaps
	switch {
	case addAll || b.req.Privileged:
		mask = b.host.Caps
	case dropAll:
		mask = 0
	case b.noDeviceRules():
		// Nothing would keep a device node made inside from working.
		mask &^= 1 << capMknod
	}
	mask = (mask&^drop | add) & b.host.Caps
	b.spec.Process.Capabilities = capSets(mask, b.user.uid)
	return nil
}

// AllCaps are the sets of a process of root's that has all that this host gives.
func (h Host) AllCaps() *specs.LinuxCapabilities { return capSets(h.Caps, 0) }

// capSets are the sets of a process that may hold mask. Only root holds it from
// the start: an ordinary user gains at most by a file's capabilities or setuid,
// hence the bounding set. Inheritable and ambient sets stay empty.
func capSets(mask uint64, uid uint32) *specs.LinuxCapabilities {
	c := &specs.LinuxCapabilities{Bounding: capList(mask)}
	if uid == 0 {
		c.Permitted, c.Effective = capList(mask), capList(mask)
	}
	return c
}
