package plan

import (
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Check refuses what no host could do: values out of range, options that
// contradict each other, words that mean nothing. Flags are checked by it, so
// that a mistake is found before an image is pulled; Spec calls it again, for
// requests that did not come from flags.
func Check(req Request) error {
	for _, err := range []error{
		checkNames(req),
		checkNetwork(req),
		checkModes(req),
		checkMounts(req.Mounts),
		checkUlimits(req.Ulimits),
		CheckResources(req.Resources),
		checkPrivileges(req),
		checkLife(req),
		checkHealth(req),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkNames refuses names that would be more than a name in /etc/hosts.
func checkNames(req Request) error {
	for what, name := range map[string]string{"hostname": req.Hostname, "domainname": req.Domainname} {
		if strings.ContainsAny(name, " \t\r\n\x00#") {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid %s %q: it goes into /etc/hosts", what, name))
		}
	}
	return nil
}

func checkPrivileges(req Request) error {
	for _, c := range slices.Concat(req.CapAdd, req.CapDrop) {
		if _, _, err := parseCap(c); err != nil {
			return err
		}
	}
	for _, rule := range req.DeviceCgroupRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return err
		}
	}
	for _, d := range req.Devices {
		if !strings.HasPrefix(d.Host, "/") || !strings.HasPrefix(d.Container, "/") || !ValidAccess(d.Perms) {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid device specification: %s:%s:%s", d.Host, d.Container, d.Perms))
		}
	}
	for key, value := range req.Sysctls {
		switch {
		case !SysctlAllowed(key):
			return errs.New(errs.Invalid, fmt.Sprintf("sysctl '%s=%s' is not allowed", key, value))
		case strings.HasPrefix(key, "net.") && req.Network == "host":
			return errs.New(errs.Invalid, fmt.Sprintf("sysctl '%s=%s' is not allowed with the host's network", key, value))
		case !strings.HasPrefix(key, "net.") && req.IPCMode == "host":
			return errs.New(errs.Invalid, fmt.Sprintf("sysctl '%s=%s' is not allowed with the host's IPC namespace", key, value))
		}
	}
	for _, p := range slices.Concat(req.Security.Mask, req.Security.Unmask) {
		if !strings.HasPrefix(p, "/") && !strings.EqualFold(p, "ALL") {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid path %q in --security-opt: it must be absolute", p))
		}
	}
	if req.OOMScoreAdj < -1000 || req.OOMScoreAdj > 1000 {
		return errs.New(errs.Invalid, fmt.Sprintf("Invalid value %d, range for oom score adj is [-1000, 1000]", req.OOMScoreAdj))
	}
	if req.ShmSize < 0 {
		return errs.New(errs.Invalid, "SHM size can not be less than 0")
	}
	return nil
}

// CheckRestart refuses a restart policy that cannot be.
func CheckRestart(p RestartPolicy) error {
	switch p.Name {
	case "", "no", "always", "unless-stopped":
		if p.Max != 0 {
			return errs.New(errs.Invalid, "invalid restart policy: maximum retry count can only be used with 'on-failure'")
		}
	case "on-failure":
		if p.Max < 0 {
			return errs.New(errs.Invalid, "invalid restart policy: maximum retry count cannot be negative")
		}
	default:
		return errs.New(errs.Invalid, fmt.Sprintf("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", p.Name))
	}
	return nil
}

func checkLife(req Request) error {
	if err := CheckRestart(req.Restart); err != nil {
		return err
	}
	if req.AutoRemove && req.Restart.Name != "" && req.Restart.Name != "no" {
		return errs.New(errs.Invalid, "conflicting options: cannot specify both --restart and --rm")
	}
	if req.Timeout < 0 {
		return errs.New(errs.Invalid, fmt.Sprintf("invalid --timeout %d: it must not be negative", req.Timeout))
	}
	if req.Cgroups != "" && req.Cgroups != "enabled" && req.Cgroups != "disabled" {
		return errs.New(errs.Invalid, fmt.Sprintf("invalid --cgroups mode %q: want enabled or disabled", req.Cgroups))
	}
	return nil
}
