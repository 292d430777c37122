package connect

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
)

// letPass is passLegacy for a network that containers are to be started in.
func (s *Service) letPass(n *network.Network, o network.Options) {
	if n.Internal {
		return
	}
	if err := passLegacy(bridgeName(n, o), true); err != nil {
		s.log.Warn(err.Error() + ". " + errs.HintOf(err))
	}
}

// passLegacy has the rules of iptables-legacy, where this machine has some, let the
// packets of a bridge pass, or takes that back. They are beside nftables, so an
// accept there does not count, and their own program alone can change them: Docker
// and ufw make it drop what is forwarded.
func passLegacy(bridge string, pass bool) error {
	for _, family := range []string{"ip", "ip6"} {
		tables, err := os.ReadFile("/proc/net/" + family + "_tables_names")
		if err != nil || !slices.Contains(strings.Fields(string(tables)), "filter") {
			continue // nobody has made any; looking at them would
		}
		program := family + "tables-legacy"
		for _, way := range []string{"-i", "-o"} {
			rule := []string{"FORWARD", way, bridge, "-j", "ACCEPT"}
			there := iptables(program, "-C", rule) == nil
			switch {
			case pass && !there:
				err = iptables(program, "-I", rule)
			case !pass && there:
				err = iptables(program, "-D", rule)
			}
			if err != nil {
				return errs.WithHint(errs.E("change the legacy rules for the bridge "+bridge, errs.Unsupported, err),
					"They may drop its packets until '"+program+" -I "+strings.Join(rule, " ")+"'.")
			}
		}
	}
	return nil
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
