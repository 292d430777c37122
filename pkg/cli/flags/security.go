package flags

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/seccomp"
	"cais.dev/cais/pkg/sys"
)

// Security reads --security-opt. A seccomp file is read here, because its
// path means something only to the caller, and checked, because a mistake in it
// should not wait for a pull.
func Security(opts []string, env Env) (plan.Security, error) {
	var s plan.Security
	for _, o := range opts {
		// Docker took "key:value" before "key=value".
		key, val, valued := strings.Cut(o, "=")
		if !valued {
			key, val, valued = strings.Cut(o, ":")
		}
		switch key {
		case "no-new-privileges", "writable-cgroups":
			on, err := boolWord(val)
			if err != nil || valued && val == "" {
				return s, invalid("invalid --security-opt: %q", o)
			}
			if key == "no-new-privileges" {
				s.NoNewPrivileges = on
			} else {
				s.WritableCgroups = on
			}
			continue
		}
		if !valued || val == "" {
			return s, invalid("invalid --security-opt: %q", o)
		}
		switch key {
		case "seccomp":
			text, err := seccompText(val, env)
			if err != nil {
				return s, err
			}
			s.Seccomp = text
		case "apparmor":
			s.AppArmor = val
		case "label":
			name, _, _ := strings.Cut(val, ":")
			if !slices.Contains([]string{"disable", "user", "role", "type", "level", "filetype", "nested"}, name) {
				return s, invalid("invalid --security-opt: %q", o)
			}
			s.Label = append(s.Label, val)
		case "systempaths":
			if val != "unconfined" {
				return s, invalid("invalid --security-opt: %q", o)
			}
			s.SystemPaths = val
		case "mask":
			s.Mask = append(s.Mask, strings.Split(val, ":")...)
		case "unmask":
			s.Unmask = append(s.Unmask, strings.Split(val, ":")...)
		case "proc-opts":
			for o := range strings.SplitSeq(val, ",") {
				switch key, v, _ := strings.Cut(o, "="); {
				case key == "hidepid" && slices.Contains([]string{"0", "1", "2", "4", "off", "noaccess", "invisible", "ptraceable"}, v), o == "subset=pid":
					s.ProcOpts = append(s.ProcOpts, o)
				default:
					return s, errs.New(errs.Invalid, fmt.Sprintf("invalid --security-opt proc-opts=%s: hidepid=0, 1, 2 or 4 and subset=pid are known", val))
				}
			}
		default:
			return s, invalid("invalid --security-opt: %q", o)
		}
	}
	return s, nil
}

func seccompText(val string, env Env) (string, error) {
	switch val {
	case "builtin", "default":
		return "", nil
	case "unconfined":
		return val, nil
	}
	text, err := readFile(absolute(val, env.Dir))
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", val, err)
	}
	if _, err := seccomp.Parse([]byte(text)); err != nil {
		return "", fmt.Errorf("seccomp profile (%s): %w", val, err)
	}
	return text, nil
}

// Device reads HOST[:CONTAINER][:rwm].
func Device(s string) (plan.Device, error) {
	d := plan.Device{Perms: "rwm"}
	parts := strings.Split(s, ":")
	switch {
	case len(parts) > 3 || parts[0] == "":
		return d, fmt.Errorf("invalid device specification: %s", s)
	}
	d.Host, d.Container = parts[0], parts[0]
	switch len(parts) {
	case 2:
		if plan.ValidAccess(parts[1]) {
			d.Perms = parts[1]
		} else {
			d.Container = parts[1]
		}
	case 3:
		if !plan.ValidAccess(parts[2]) {
			return d, fmt.Errorf("bad mode specified: %s", parts[2])
		}
		d.Container, d.Perms = parts[1], parts[2]
	}
	if !strings.HasPrefix(d.Host, "/") || !strings.HasPrefix(d.Container, "/") {
		return d, fmt.Errorf("%s is not an absolute path", s)
	}
	return d, nil
}

// ParseUlimit reads NAME=SOFT[:HARD]; ok is false for podman's "host", which
// asks for what is the case anyway.
func ParseUlimit(s string) (u plan.Ulimit, ok bool, err error) {
	if s == "host" {
		return u, false, nil
	}
	name, limits, valued := strings.Cut(s, "=")
	soft, hard, two := strings.Cut(limits, ":")
	if !valued {
		return u, false, fmt.Errorf("invalid ulimit argument: %s", s)
	}
	if !slices.Contains(plan.Ulimits(), name) {
		return u, false, fmt.Errorf("invalid ulimit type: %s", name)
	}
	u.Name = name
	if u.Soft, err = strconv.ParseInt(soft, 10, 64); err != nil || u.Soft < -1 {
		return u, false, fmt.Errorf("invalid ulimit argument: %s", s)
	}
	u.Hard = u.Soft
	if two {
		if u.Hard, err = strconv.ParseInt(hard, 10, 64); err != nil || u.Hard < -1 {
			return u, false, fmt.Errorf("invalid ulimit argument: %s", s)
		}
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return u, false, fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %s > %d", soft, u.Hard)
	}
	return u, true, nil
}

// parseRestart reads no, always, unless-stopped, on-failure[:N], never.
func parseRestart(s string) (plan.RestartPolicy, error) {
	name, count, counted := strings.Cut(s, ":")
	p := plan.RestartPolicy{Name: name}
	if counted {
		n, err := strconv.Atoi(count)
		if err != nil {
			return p, errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
		p.Max = n
	}
	if name == "" || name == "never" {
		p.Name = "no"
	}
	if p.Name == "no" && counted && name != "no" {
		return p, errors.New("invalid restart policy format: no policy provided before colon")
	}
	return p, nil
}

// Restart reads a restart policy and refuses one that cannot be.
func Restart(s string) (plan.RestartPolicy, error) {
	p, err := parseRestart(s)
	if err == nil {
		err = plan.CheckRestart(p)
	}
	return p, err
}

// parseSysctl reads NAME=VALUE. Which names are allowed is checked at once.
func parseSysctl(s string) (key, val string, err error) {
	key, val, ok := strings.Cut(s, "=")
	if !ok || !plan.SysctlAllowed(key) {
		return "", "", fmt.Errorf("sysctl '%s' is not allowed", s)
	}
	return key, val, nil
}

// parseEntrypoint: one word, never split; an array if it is written as one. An
// empty one clears the image's.
func parseEntrypoint(s string) *[]string {
	words := []string{}
	if strings.HasPrefix(strings.TrimSpace(s), "[") && json.Unmarshal([]byte(s), &words) == nil {
		return &words
	}
	words = []string{}
	if s != "" {
		words = append(words, s)
	}
	return &words
}

func checkSignal(s string) error {
	if s == "" {
		return nil
	}
	_, err := sys.ParseSignal(s)
	return err
}

// checkHostname keeps what would end up in files of lines out of them. Beyond
// that the kernel takes any name of up to 64 bytes.
func checkHostname(flag, name string) error {
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == ':' }) || strings.HasPrefix(name, "-") {
		return invalid("invalid %s format: %q", flag, name)
	}
	return nil
}
