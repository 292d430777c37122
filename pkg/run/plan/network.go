package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// DefaultNetwork is the network of containers that name none.
const DefaultNetwork = "bridge"

// Attachment is one network that a container is to be in: one --network, or one
// `network connect`.
type Attachment struct {
	Network    string            `json:"network"`      // name, id or the beginning of one, as typed
	ID         string            `json:"id,omitempty"` // of the network, once it is known
	Aliases    []string          `json:"aliases,omitempty"`
	Links      []string          `json:"links,omitempty"` // CONTAINER:ALIAS, an alias that only this container knows
	IP         string            `json:"ip,omitempty"`    // wanted; empty: any
	IP6        string            `json:"ip6,omitempty"`
	LinkLocal  []string          `json:"linkLocal,omitempty"`
	MAC        string            `json:"mac,omitempty"`
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	GwPriority int               `json:"gwPriority,omitempty"`
	Interface  string            `json:"interface,omitempty"` // its name in the container; empty: eth0, eth1, …
}

// Port is one published port.
type Port struct {
	Proto    string `json:"proto"` // tcp, udp, sctp
	Port     int    `json:"port"`  // in the container
	HostIP   string `json:"hostIP,omitempty"`
	HostPort int    `json:"hostPort,omitempty"` // 0: any
	HostEnd  int    `json:"hostEnd,omitempty"`  // above HostPort: the first free one up to here
}

// Key is "80/tcp".
func (p Port) Key() string { return strconv.Itoa(p.Port) + "/" + p.Proto }

// HostText is the port on the host as it was asked for: "", "8080", "8080-8090".
func (p Port) HostText() string {
	switch {
	case p.HostPort == 0 && p.HostEnd == 0:
		return ""
	case p.HostEnd > p.HostPort:
		return strconv.Itoa(p.HostPort) + "-" + strconv.Itoa(p.HostEnd)
	}
	return strconv.Itoa(p.HostPort)
}

// ParsePorts reads Docker's [[IP:][HOST[-END]]:]PORT[-END][/PROTO]. A range on
// both sides is as many ports.
func ParsePorts(spec string) ([]Port, error) {
	ip, host, port := cutPorts(spec)
	port, proto := CutProto(port)
	if strings.HasPrefix(ip, "[") {
		if ip = strings.TrimPrefix(ip, "["); !strings.HasSuffix(ip, "]") {
			return nil, fmt.Errorf("invalid IP address: [%s", ip)
		}
		ip = strings.TrimSuffix(ip, "]")
	}
	if ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("invalid IP address: %s", ip)
		}
		ip = a.Unmap().String()
	}
	if port == "" {
		return nil, fmt.Errorf("no port specified: %s<empty>", spec)
	}
	first, last, err := PortRange(port)
	if err != nil || first == 0 {
		return nil, fmt.Errorf("invalid containerPort: %s", port)
	}
	var hostFirst, hostLast int
	if host != "" {
		if hostFirst, hostLast, err = PortRange(host); err != nil {
			return nil, fmt.Errorf("invalid hostPort: %s", host)
		}
		if hostLast-hostFirst != last-first && last != first {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", port, host)
		}
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, fmt.Errorf("invalid proto: %s", proto)
	}
	if first == last {
		p := Port{Proto: proto, Port: first, HostIP: ip, HostPort: hostFirst}
		if hostLast > hostFirst {
			p.HostEnd = hostLast
		}
		return []Port{p}, nil
	}
	var all []Port
	for i := range last - first + 1 {
		p := Port{Proto: proto, Port: first + i, HostIP: ip}
		if host != "" {
			p.HostPort = hostFirst + i
		}
		all = append(all, p)
	}
	return all, nil
}

// cutPorts takes IP:HOST:PORT apart; an IPv6 address may stand without brackets.
func cutPorts(spec string) (ip, host, port string) {
	parts := strings.Split(spec, ":")
	n := len(parts)
	port = parts[n-1]
	if n > 1 {
		host = parts[n-2]
	}
	if n > 2 {
		ip = strings.Join(parts[:n-2], ":")
	}
	return ip, host, port
}

// CutProto takes "80/UDP" apart: the port, and the protocol in lower case, which
// is tcp if there is none. What follows another slash does not count.
func CutProto(s string) (port, proto string) {
	port, proto, _ = strings.Cut(s, "/")
	proto, _, _ = strings.Cut(proto, "/")
	if proto == "" {
		proto = "tcp"
	}
	return port, strings.ToLower(proto)
}

// PortRange reads "80" or "80-90". Its errors are those that Docker's are made of.
func PortRange(s string) (first, last int, err error) {
	if s == "" {
		return 0, 0, fmt.Errorf("empty string specified for ports")
	}
	a, b, ranged := strings.Cut(s, "-")
	start, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	if !ranged {
		return int(start), int(start), nil
	}
	end, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	if end < start {
		return 0, 0, fmt.Errorf("invalid range specified for port: %s", s)
	}
	return int(start), int(end), nil
}

// Expose reads one --expose, or one port of an image, into keys such as "80/tcp".
func Expose(spec string) ([]string, error) {
	if strings.Contains(spec, ":") {
		return nil, fmt.Errorf("invalid port format for --expose: %s", spec)
	}
	port, proto := CutProto(spec)
	first, last, err := PortRange(port)
	if err != nil {
		return nil, fmt.Errorf("invalid range format for --expose: %s, error: %w", spec, err)
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, fmt.Errorf("invalid proto: %s", proto)
	}
	var keys []string
	for p := first; p <= last; p++ {
		keys = append(keys, strconv.Itoa(p)+"/"+proto)
	}
	return keys, nil
}

// Exposed are the ports that the request and the image speak of: those of
// --expose, of -p and of EXPOSE, in order and once each.
func Exposed(req Request, image map[string]struct{}) []string {
	seen := map[string]bool{}
	var keys []string
	add := func(list ...string) {
		for _, k := range list {
			if !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	add(req.Expose...)
	for _, p := range req.Ports {
		add(p.Key())
	}
	for spec := range image {
		if list, err := Expose(spec); err == nil { // an image's own mistake hurts nobody
			add(list...)
		}
	}
	slices.SortFunc(keys, comparePorts)
	return keys
}

// comparePorts sorts "80/tcp" by number, then by protocol.
func comparePorts(a, b string) int {
	pa, xa := CutProto(a)
	pb, xb := CutProto(b)
	na, _ := strconv.Atoi(pa) // they were read before
	nb, _ := strconv.Atoi(pb)
	if na != nb {
		return na - nb
	}
	return strings.Compare(xa, xb)
}

// Published are the ports to publish: those of -p, and with -P the exposed ones
// that -p does not name.
func Published(req Request, image map[string]struct{}) []Port {
	ports := slices.Clone(req.Ports)
	if !req.PublishAll {
		return ports
	}
	for _, key := range Exposed(req, image) {
		if slices.ContainsFunc(req.Ports, func(p Port) bool { return p.Key() == key }) {
			continue
		}
		text, proto := CutProto(key)
		n, _ := strconv.Atoi(text) // Exposed has read it
		ports = append(ports, Port{Proto: proto, Port: n})
	}
	return ports
}

// UserDefined reports whether a --network is a network somebody has created, and
// not a mode or a network that is always there.
func UserDefined(network string) bool {
	word, _, _ := strings.Cut(network, ":")
	switch word {
	case "", "default", "none", "host", DefaultNetwork, "private", "pasta", "slirp4netns", "container", "ns":
		return false
	}
	return true
}

// Attached are the networks that a container of this request is in; none if it
// has no network of its own.
func (r Request) Attached() []Attachment {
	if len(r.Networks) > 0 {
		return r.Networks
	}
	switch word, _, _ := strings.Cut(r.Network, ":"); word {
	case "none", "host", "container", "ns":
		return nil
	}
	return []Attachment{{Network: DefaultNetwork}}
}

// SharesNetwork reports whether the container's network is one that it did not
// get for itself: the host's, another container's, or one with a path.
func (r Request) SharesNetwork() bool {
	return r.Network == "host" || strings.HasPrefix(r.Network, "container:") || strings.HasPrefix(r.Network, "ns:")
}

// checkNetwork refuses pairs of options that contradict each other, in Docker's
// words.
func checkNetwork(req Request) error {
	container := strings.HasPrefix(req.Network, "container:")
	conflict := func(text string) error { return errs.New(errs.Invalid, "conflicting options: "+text) }
	macs := slices.ContainsFunc(req.Networks, func(a Attachment) bool { return a.MAC != "" }) || req.MacAddress != ""
	switch {
	case req.Network == "container:" || req.Network == "container":
		return errs.New(errs.Invalid, "--network: invalid container format container:<name|id>")
	case strings.HasPrefix(req.Network, "ns:") && !strings.HasPrefix(req.Network, "ns:/"):
		return errs.New(errs.Invalid, "--network: invalid NETWORK mode: "+req.Network)
	case container && req.Hostname != "":
		return conflict("hostname and the network mode")
	case req.Network == "host" && len(req.Links) > 0:
		return conflict("host type networking can't be used with links. This would result in undefined behavior")
	case container && len(req.Links) > 0:
		return conflict("container type network can't be used with links. This would result in undefined behavior")
	case container && len(req.DNS) > 0:
		return conflict("dns and the network mode")
	case container && len(req.AddHosts) > 0:
		return conflict("custom host-to-IP mapping and the network mode")
	case (container || req.Network == "host") && macs:
		return conflict("mac-address and the network mode")
	case container && (len(req.Ports) > 0 || req.PublishAll):
		return conflict("port publishing and the container type network mode")
	case container && len(req.Expose) > 0:
		return conflict("port exposing and the container type network mode")
	case (container || req.Network == "host" || req.Network == "none") && slices.ContainsFunc(req.Networks, wantsAddress),
		!UserDefined(req.Network) && slices.ContainsFunc(req.Networks, wantsAddress):
		return errs.New(errs.Invalid, "user specified IP address is supported on user defined networks only")
	}
	for _, a := range req.Networks {
		if err := a.Check(); err != nil {
			return err
		}
	}
	return nil
}

func wantsAddress(a Attachment) bool { return a.IP != "" || a.IP6 != "" }

// Check refuses what no network could have.
func (a Attachment) Check() error {
	bad := func(format string, v ...any) error { return errs.New(errs.Invalid, fmt.Sprintf(format, v...)) }
	if ip, err := netip.ParseAddr(a.IP); a.IP != "" && (err != nil || !ip.Is4()) {
		return bad("invalid IPv4 address: %s", a.IP)
	}
	if ip, err := netip.ParseAddr(a.IP6); a.IP6 != "" && (err != nil || !ip.Is6() || ip.Is4In6() || ip.Zone() != "") {
		return bad("invalid IPv6 address: %s", a.IP6)
	}
	for _, text := range a.LinkLocal {
		if ip, err := netip.ParseAddr(text); err != nil || ip.Zone() != "" || !ip.IsLinkLocalUnicast() {
			return bad("invalid link-local IP address: %s", text)
		}
	}
	if a.Interface != "" && !validInterface(a.Interface) {
		return bad("invalid interface name %q: at most 15 bytes, without blanks, slashes and colons", a.Interface)
	}
	for _, alias := range a.Aliases {
		if strings.ContainsAny(alias, " \t\r\n\x00") || len(alias) > 253 {
			return bad("invalid network alias %q", alias)
		}
	}
	return nil
}

// validInterface reports whether the kernel takes name for an interface.
func validInterface(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && name != "lo" &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == ':' })
}
