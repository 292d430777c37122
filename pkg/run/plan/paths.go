package plan

import (
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// paths decides which of the kernel's files are hidden or read-only inside.
// /proc/interrupts and the thermal throttle counters are there because they
// tell one container what another does (GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p).
func (b *builder) paths() error {
	sec := b.req.Security
	if b.req.Privileged || sec.SystemPaths == "unconfined" {
		b.spec.Linux.MaskedPaths = slices.Clone(sec.Mask)
		return nil
	}
	masked := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	masked = append(masked, b.host.Throttle...)
	readonly := []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	for _, p := range sec.Unmask {
		if strings.EqualFold(p, "ALL") {
			masked, readonly = nil, nil
			break
		}
		drop := func(have string) bool { return have == p }
		masked, readonly = slices.DeleteFunc(masked, drop), slices.DeleteFunc(readonly, drop)
	}
	b.spec.Linux.MaskedPaths = append(masked, sec.Mask...)
	b.spec.Linux.ReadonlyPaths = readonly
	return nil
}

// labels hands on what the security modules are told. A confinement that was
// asked for and cannot be had is an error, never a shrug.
func (b *builder) labels() error {
	switch p := b.req.Security.AppArmor; {
	case p == "":
	case p == "unconfined" && !b.host.AppArmor:
	case !b.host.AppArmor:
		return errs.WithHint(errs.New(errs.Unsupported, "AppArmor is not enabled on this machine"), "Leave out --security-opt apparmor="+p+".")
	default:
		b.spec.Process.ApparmorProfile = p
	}
	for _, l := range b.req.Security.Label {
		if l != "disable" && b.host.SELinux {
			return errs.WithHint(errs.New(errs.Unsupported, "--security-opt label="+l+" is not supported yet"), "Use label=disable.")
		}
		if l != "disable" {
			if err := b.short("security-opt", "SELinux is not enabled on this machine; --security-opt label="+l+" ignored"); err != nil {
				return err
			}
		}
	}
	return nil
}

// sysctls sets the user's, and makes ping and low ports work for everybody in a
// network namespace of the container's own.
func (b *builder) sysctls() error {
	set := map[string]string{}
	if !b.hostNet && !b.joinNet {
		set["net.ipv4.ping_group_range"] = fmt.Sprintf("0 %d", contiguous(b.host.GIDs))
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	for key, value := range b.req.Sysctls {
		switch {
		case strings.HasPrefix(key, "net.") && b.hostNet:
			return errs.New(errs.Invalid, fmt.Sprintf("sysctl '%s=%s' is not allowed with the host's network", key, value))
		case !strings.HasPrefix(key, "net.") && b.hostIPC:
			return errs.New(errs.Invalid, fmt.Sprintf("sysctl '%s=%s' is not allowed with the host's IPC namespace", key, value))
		}
		set[key] = value
	}
	b.spec.Linux.Sysctl = set
	return nil
}

// SysctlAllowed says whether a container may set key: only what a namespace of
// its own keeps from the rest of the machine.
func SysctlAllowed(key string) bool {
	switch key {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	if strings.ContainsAny(key, "\x00\n") || strings.Contains(key, "..") {
		return false
	}
	return strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "fs.mqueue.")
}
