package dockerfile

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

func (c *converter) expose(s *stage, ic *instructions.ExposeCommand, lint *linter.Linter) error {
	var ports []string
	for _, p := range ic.Ports {
		if err := bounded(p, s.env); err != nil {
			return err
		}
		list, err := c.lex.ProcessWords(p, s.env)
		if err != nil {
			return err
		}
		for _, one := range list {
			more, err := exposed(one, func(host bool) {
				if host {
					lint.Run(&linter.RuleExposeInvalidFormat, ic.Location(), linter.RuleExposeInvalidFormat.Format(one))
				} else {
					lint.Run(&linter.RuleExposeProtoCasing, ic.Location(), linter.RuleExposeProtoCasing.Format(one))
				}
			})
			if err != nil {
				return err
			}
			ports = append(ports, more...)
		}
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		s.image.Config.ExposedPorts[p] = struct{}{}
	}
	c.commit(s, fmt.Sprintf("EXPOSE %v", ports), false)
	return nil
}

// exposed reads "[[ip:]host:]port[-port][/proto]" into ports with protocols. found
// is told of a host's part (true) and of capital letters (false).
func exposed(raw string, found func(host bool)) ([]string, error) {
	parts := strings.Split(raw, ":")
	ip, host := "", ""
	if n := len(parts); n > 1 {
		ip, host = strings.Join(parts[:max(n-2, 0)], ":"), parts[n-2]
	}
	ports, proto, _ := strings.Cut(parts[len(parts)-1], "/")
	switch lower := strings.ToLower(proto); {
	case ports == "":
		return nil, fmt.Errorf("invalid port: %q: no port specified", raw)
	case lower == "":
		proto = "tcp"
	case lower != "tcp" && lower != "udp" && lower != "sctp":
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", raw, proto)
	case lower != proto:
		found(false)
	}
	if ip != "" || host != "" {
		found(true)
	}
	if ip != "" {
		if _, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")); err != nil {
			return nil, errors.New("invalid IP address: " + ip)
		}
	}
	first, last, ok := portRange(ports)
	if !ok {
		return nil, errors.New("invalid containerPort: " + ports)
	}
	if host != "" {
		from, to, ok := portRange(host)
		if !ok {
			return nil, errors.New("invalid hostPort: " + host)
		}
		if last-first != to-from && last != first {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", ports, host)
		}
	}
	var list []string
	for p := first; p <= last; p++ {
		list = append(list, strconv.Itoa(p)+"/"+strings.ToLower(proto))
	}
	return list, nil
}

func portRange(s string) (first, last int, ok bool) {
	from, to, two := strings.Cut(s, "-")
	a, err := strconv.ParseUint(from, 10, 16)
	if !two {
		return int(a), int(a), err == nil
	}
	b, err2 := strconv.ParseUint(to, 10, 16)
	return int(a), int(b), err == nil && err2 == nil && a <= b
}
