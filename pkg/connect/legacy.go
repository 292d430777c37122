package connect

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// passLegacy has the rules of iptables-legacy, where this machine has some, let the
// packets of a bridge pass, or takes that back. They are beside nftables, so an
// accept there does not count, and their own program alone can change them: Docker
// and ufw make it drop what is forwarded.
func passLegacy(bridge string, pass bool) error {
	for _, program := range legacyPrograms() {
		for _, rule := range legacyRules(bridge) {
			if there := iptables(program, "-C", rule) == nil; there == pass {
				continue
			}
			command := map[bool]string{true: "-I", false: "-D"}[pass]
			if err := iptables(program, command, rule); err != nil {
				return errs.WithHint(errs.E("change the legacy rules for the bridge "+bridge, errs.Unsupported, err),
					"They may drop its packets until '"+program+" -I "+strings.Join(rule, " ")+"'.")
			}
		}
	}
	return nil
}

// passesLegacy reports whether no rule of iptables-legacy is missing for a bridge.
func passesLegacy(bridge string) bool {
	for _, program := range legacyPrograms() {
		for _, rule := range legacyRules(bridge) {
			if iptables(program, "-C", rule) != nil {
				return false
			}
		}
	}
	return true
}

// legacyPrograms are those whose rules this machine has. Looking at rules that
// nobody has made would make them.
func legacyPrograms() (list []string) {
	for _, family := range []string{"ip", "ip6"} {
		tables, err := os.ReadFile("/proc/net/" + family + "_tables_names")
		if err == nil && slices.Contains(strings.Fields(string(tables)), "filter") {
			list = append(list, family+"tables-legacy")
		}
	}
	return list
}

// legacyRules let a bridge's packets pass, both ways.
func legacyRules(bridge string) [][]string {
	return [][]string{{"FORWARD", "-i", bridge, "-j", "ACCEPT"}, {"FORWARD", "-o", bridge, "-j", "ACCEPT"}}
}

func iptables(program, command string, rule []string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		path = "/usr/sbin/" + program // not on every root's PATH
	}
	out, err := exec.Command(path, append([]string{"-w", "5", command}, rule...)...).CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		err = errors.New(program + ": " + text)
	}
	return err
}
