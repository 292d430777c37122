package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
)

// rule expects the tests that match name to be skipped for a reason that
// matches reason, on hosts of one kind.
type rule struct {
	kind         string
	name, reason *regexp.Regexp
}

// parseRules reads lines of "kind | test | reason"; # starts a comment.
func parseRules(text string) ([]rule, error) {
	var rules []rule
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, "|", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("skips.txt:%d: want kind | test | reason", i+1)
		}
		r := rule{kind: strings.TrimSpace(f[0])}
		switch r.kind {
		case "any", "root", "user", "confined":
		default:
			return nil, fmt.Errorf("skips.txt:%d: unknown kind %q", i+1, r.kind)
		}
		var err error
		if r.name, err = regexp.Compile("^(" + strings.TrimSpace(f[1]) + ")$"); err != nil {
			return nil, fmt.Errorf("skips.txt:%d: %w", i+1, err)
		}
		if r.reason, err = regexp.Compile(strings.TrimSpace(f[2])); err != nil {
			return nil, fmt.Errorf("skips.txt:%d: %w", i+1, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r rule) matches(kind string, s skip) bool {
	return (r.kind == "any" || r.kind == kind) && r.name.MatchString(s.name) && r.reason.MatchString(s.reason)
}

// hostKind says what this process may do: "root" may make namespaces and mount,
// "user" may make a user namespace and all else inside, "confined" may neither,
// as in a CI job's container.
func hostKind() string {
	root := os.Geteuid() == 0
	cmd := exec.Command("/bin/true")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if !root {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	switch err := cmd.Run(); {
	case err != nil:
		return "confined"
	case root:
		return "root"
	}
	return "user"
}
