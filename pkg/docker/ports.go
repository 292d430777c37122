package docker

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
)

// portLine is one port of a container, published or not.
type portLine struct {
	private, public int
	ip, proto       string
}

// PortsText is the column PORTS of `ps`: ports that follow each other and are
// published under their own numbers are one range.
func PortsText(ports map[string][]PortBinding) string {
	lines := portLines(ports)
	type group struct{ first, last int }
	groups := map[string]*group{}
	var order, out, mapped []string
	for _, l := range lines {
		if l.public != 0 && l.public != l.private {
			mapped = append(mapped, net.JoinHostPort(l.ip, strconv.Itoa(l.public))+"->"+strconv.Itoa(l.private)+"/"+l.proto)
			continue
		}
		key := l.ip + "/" + l.proto
		g := groups[key]
		switch {
		case g == nil:
			groups[key] = &group{l.private, l.private}
			order = append(order, key)
		case l.private == g.last:
		case l.private == g.last+1:
			g.last = l.private
		default:
			out = append(out, rangeText(key, g.first, g.last))
			groups[key] = &group{l.private, l.private}
		}
	}
	for _, key := range order {
		out = append(out, rangeText(key, groups[key].first, groups[key].last))
	}
	return strings.Join(append(out, mapped...), ", ")
}

func rangeText(key string, first, last int) string {
	ip, proto, _ := strings.Cut(key, "/")
	text := strconv.Itoa(first)
	if last != first {
		text += "-" + strconv.Itoa(last)
	}
	if ip != "" {
		text = net.JoinHostPort(ip, text) + "->" + text
	}
	return text + "/" + proto
}

// portLines are the ports in Docker's order.
func portLines(ports map[string][]PortBinding) []portLine {
	var lines []portLine
	for key, bindings := range ports {
		number, proto, _ := strings.Cut(key, "/")
		private, _ := strconv.Atoi(number) // it was a number before
		if len(bindings) == 0 {
			lines = append(lines, portLine{private: private, proto: proto})
		}
		for _, b := range bindings {
			public, _ := strconv.Atoi(b.HostPort) // likewise
			lines = append(lines, portLine{private, public, b.HostIP, proto})
		}
	}
	slices.SortFunc(lines, func(a, b portLine) int {
		return cmp.Or(cmp.Compare(a.private, b.private), cmp.Compare(a.ip, b.ip), cmp.Compare(a.public, b.public), cmp.Compare(a.proto, b.proto))
	})
	return lines
}

// PublishedText are the lines of `port`: "80/tcp -> 0.0.0.0:8080".
func PublishedText(ports map[string][]PortBinding) []string {
	var out []string
	for _, l := range portLines(ports) {
		if l.public != 0 {
			out = append(out, strconv.Itoa(l.private)+"/"+l.proto+" -> "+net.JoinHostPort(l.ip, strconv.Itoa(l.public)))
		}
	}
	return out
}
