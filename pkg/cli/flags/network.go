package flags

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// networkFlags are what the flags of a container's network say.
type networkFlags struct {
	networks   []plan.Attachment
	publish    []string
	expose     []string
	aliases    []string
	links      []string
	linkLocal  []string
	ip, ip6    string
	mac        string
	publishAll bool
}

func (f *RunFlags) network() {
	fs, r, n := f.fs, &f.req, &f.net
	addNetwork := func(s string) error {
		names := []string{s}
		if !strings.ContainsAny(s, "=:") {
			names = strings.Split(s, ",") // podman's several in one, which podman-compose uses
		}
		for _, name := range names {
			a, err := parseNetwork(name)
			if err != nil {
				return err
			}
			n.networks = append(n.networks, a)
		}
		return nil
	}
	define(fs, "network", "", "network", "Connect to a network: NAME, name=NAME,alias=…, none, host, container:NAME, ns:PATH", addNetwork)
	define(fs, "net", "", "network", "", addNetwork)
	list(fs, &n.publish, "publish", "p", "Publish a port: [[IP:][HOST[-END]]:]PORT[-END][/PROTO]")
	fs.BoolVarP(&n.publishAll, "publish-all", "P", false, "Publish all exposed ports on ports of the host's choice")
	list(fs, &n.expose, "expose", "", "Name a port or a range of them, without publishing it")
	list(fs, &n.aliases, "network-alias", "", "Add a name for the container on its network")
	list(fs, &n.aliases, "net-alias", "", "")
	define(fs, "link", "", "list", "Add a name for another container: CONTAINER[:ALIAS]", func(s string) error {
		link, err := parseLink(s)
		n.links = append(n.links, link)
		return err
	})
	list(fs, &n.linkLocal, "link-local-ip", "", "Add a link-local address")
	fs.StringVar(&n.ip, "ip", "", "IPv4 `address`")
	fs.StringVar(&n.ip6, "ip6", "", "IPv6 `address`")
	fs.StringVar(&n.mac, "mac-address", "", "MAC `address`")
	addDNS := func(s string) error {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("IP address is not correctly formatted: %s", s)
		}
		r.DNS = append(r.DNS, a.String())
		return nil
	}
	define(fs, "dns", "", "list", "Ask these name servers instead of the host's", addDNS)
	define(fs, "dns-search", "", "list", "Search these domains instead of the host's; . for none", func(s string) error {
		domain, err := SearchDomain(s)
		r.DNSSearch = append(r.DNSSearch, domain)
		return err
	})
	list(fs, &r.DNSOptions, "dns-option", "", "Options for the resolver instead of the host's")
	list(fs, &r.DNSOptions, "dns-opt", "", "")
	define(fs, "add-host", "", "list", "Add a line to /etc/hosts: NAME=IP; host-gateway is the host's", func(s string) error {
		host, err := extraHost(s)
		r.AddHosts = append(r.AddHosts, host)
		return err
	})
	for _, name := range []string{"net", "net-alias", "dns-opt"} {
		fs.Lookup(name).Hidden = true
	}
}

// parseNetwork reads one --network: Docker's NAME and name=NAME,key=value,…,
// Podman's NAME:key=value,…
func parseNetwork(s string) (plan.Attachment, error) {
	first := strings.IndexAny(s, "=:,")
	switch {
	case first < 0 || !strings.Contains(s, "="):
		return plan.Attachment{Network: s}, nil
	case s[first] == ':':
		name, opts, _ := strings.Cut(s, ":")
		switch name {
		case "container", "ns", "pasta", "slirp4netns":
			return plan.Attachment{Network: s}, nil
		}
		a := plan.Attachment{Network: name}
		return a, networkKeys(&a, opts)
	}
	var a plan.Attachment
	if err := networkKeys(&a, s); err != nil {
		return a, err
	}
	if a.Network == "" {
		return a, errors.New("network name/id is not specified")
	}
	return a, nil
}

func networkKeys(a *plan.Attachment, text string) error {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return err
	}
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return fmt.Errorf("invalid field %s", field)
		}
		key, val = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(val)
		switch key {
		case "name":
			a.Network = val
		case "alias":
			a.Aliases = append(a.Aliases, val)
		case "ip":
			if ip, err := netip.ParseAddr(val); err == nil && ip.Is6() && a.IP6 == "" { // Podman takes both families here
				a.IP6 = val
			} else {
				a.IP = val
			}
		case "ip6":
			a.IP6 = val
		case "mac-address", "mac":
			if a.MAC, err = macAddress(val); err != nil {
				return err
			}
		case "link-local-ip":
			a.LinkLocal = append(a.LinkLocal, val)
		case "driver-opt":
			if err := DriverOpt(a, val); err != nil {
				return err
			}
		case "gw-priority":
			n, err := strconv.Atoi(val)
			if e, ok := errors.AsType[*strconv.NumError](err); ok {
				return fmt.Errorf("invalid gw-priority (%s): %w", val, e.Err)
			}
			a.GwPriority = n
		case "interface_name", "interface-name":
			a.Interface = val
		default:
			return fmt.Errorf("invalid field key %s", key)
		}
	}
	return nil
}

// DriverOpt adds key=value to the attachment's options.
func DriverOpt(a *plan.Attachment, s string) error {
	key, val, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("invalid key value pair format in driver options")
	}
	if a.DriverOpts == nil {
		a.DriverOpts = map[string]string{}
	}
	a.DriverOpts[strings.TrimSpace(strings.ToLower(key))] = strings.TrimSpace(val)
	return nil
}

func macAddress(s string) (string, error) {
	mac, err := net.ParseMAC(strings.TrimSpace(s))
	if err != nil || len(mac) != 6 {
		return "", fmt.Errorf("%s is not a valid mac address", s)
	}
	if mac[0]&1 != 0 || slices.Max(mac) == 0 { // the kernel gives it to no interface
		return "", fmt.Errorf("%s is not a valid mac address: it is no interface's own", s)
	}
	return mac.String(), nil
}

// parseLink reads CONTAINER[:ALIAS].
func parseLink(s string) (string, error) {
	if s == "" {
		return "", errors.New("empty string specified for links")
	}
	parts := strings.Split(s, ":")
	if len(parts) > 2 {
		return "", fmt.Errorf("bad format for links: %s", s)
	}
	name := strings.TrimPrefix(parts[0], "/")
	alias := name
	if len(parts) == 2 {
		alias = parts[1][strings.LastIndexByte(parts[1], '/')+1:] // inspect shows /a:/b/alias, which may come back
	}
	if strings.ContainsAny(alias, " \t\r\n\x00") {
		return "", fmt.Errorf("bad format for links: %s", s)
	}
	return name + ":" + alias, nil
}

// ParseLink is parseLink, for `network connect`.
func ParseLink(s string) (string, error) { return parseLink(s) }

// extraHost reads NAME=IP or NAME:IP and returns NAME:IP.
func extraHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" || strings.ContainsAny(name, " \t\r\n\x00#") {
		return "", fmt.Errorf("bad format for add-host: %q", s)
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if ip == "host-gateway" {
		return name + ":" + ip, nil
	}
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Zone() != "" {
		return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return name + ":" + a.String(), nil
}

// SearchDomain checks one --dns-search.
func SearchDomain(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "." {
		return s, nil
	}
	bad := fmt.Errorf("%s is not a valid domain", s)
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	word := func(c byte) bool { return letter(c) || c >= '0' && c <= '9' }
	if len(s) > 254 || !strings.ContainsFunc(s, func(r rune) bool { return r < 0x80 && letter(byte(r)) }) {
		return "", bad
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || !word(label[0]) || !word(label[len(label)-1]) {
			return "", bad
		}
		for i := range len(label) {
			if !word(label[i]) && label[i] != '-' {
				return "", bad
			}
		}
	}
	return s, nil
}

// standardPort turns the long form, published=8080,target=80, into the short one.
func standardPort(s string) (string, error) {
	if !strings.Contains(s, "=") {
		return s, nil
	}
	params := map[string]string{"protocol": "tcp"}
	for part := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(part, "=")
		if !ok || k == "" {
			return "", fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", part)
		}
		switch k {
		case "published", "target", "protocol", "mode", "host_ip":
			params[k] = v
		default:
			return "", fmt.Errorf("invalid publish opts format (unknown name '%s')", k)
		}
	}
	out := params["published"] + ":" + params["target"] + "/" + params["protocol"]
	if ip := params["host_ip"]; ip != "" {
		out = ip + ":" + out
	}
	return out, nil
}

// setNetwork makes of the flags what the container's network is to be.
func (f *RunFlags) setNetwork(r *plan.Request, o *RunOptions, _ Env) (err error) {
	n := f.net
	r.Ports, r.Expose = nil, nil
	for _, s := range n.publish {
		if s, err = standardPort(s); err != nil {
			return errs.E("", errs.Invalid, err)
		}
		ports, err := plan.ParsePorts(s)
		if err != nil {
			hint := "A port is [[IP:][HOST[-END]]:]PORT[-END][/tcp|udp|sctp], with numbers from 1 to 65535."
			return errs.WithHint(errs.E("", errs.Invalid, err), hint)
		}
		for _, p := range ports {
			if !slices.Contains(r.Ports, p) {
				r.Ports = append(r.Ports, p)
			}
		}
	}
	for _, s := range n.expose {
		keys, err := plan.Expose(s)
		if err != nil {
			return errs.E("", errs.Invalid, err)
		}
		r.Expose = append(r.Expose, keys...)
	}
	r.PublishAll, r.Links, r.MacAddress = n.publishAll, nil, ""
	if n.mac != "" {
		if r.MacAddress, err = macAddress(n.mac); err != nil {
			return errs.E("", errs.Invalid, err)
		}
	}
	all := slices.Clone(n.networks)
	for i := range all {
		if strings.TrimSpace(all[i].Network) == "" {
			return invalid("no name set for network")
		}
	}
	if len(all) == 0 {
		all = []plan.Attachment{{Network: "default"}}
	}
	if err := n.apply(&all[0], r.MacAddress); err != nil {
		return err
	}
	if err := checkNetworks(all); err != nil {
		return err
	}
	if !plan.UserDefined(all[0].Network) {
		r.Links = n.links
	}
	r.Network, o.Warnings = mode(all[0].Network)
	if r.Network == "host" && len(r.Ports) > 0 {
		o.Warnings = append(o.Warnings, "Published ports are discarded when using host network mode")
	}
	r.Networks = attachments(r.Network, all)
	return nil
}

// attachments are the networks to keep in the request: none if the mode says all.
func attachments(mode string, all []plan.Attachment) []plan.Attachment {
	if plan.UserDefined(mode) {
		return all
	}
	a := all[0]
	if a.Aliases == nil && a.Links == nil && a.IP == "" && a.IP6 == "" && a.LinkLocal == nil && a.MAC == "" &&
		a.DriverOpts == nil && a.GwPriority == 0 && a.Interface == "" {
		return nil
	}
	if mode == "" || mode == plan.DefaultNetwork {
		a.Network = plan.DefaultNetwork
	}
	return []plan.Attachment{a}
}

// mode is a --network as the request has it, with the warning for what it takes
// without effect.
func mode(network string) (string, []string) {
	word, opts, _ := strings.Cut(network, ":")
	switch word {
	case "default", "private":
		return "", nil
	case "pasta", "slirp4netns":
		if opts != "" {
			return "", []string{"--network " + network + ": cais has a network of its own, and no " + word + " to tune; the options have no effect"}
		}
		return "", nil
	}
	return network, nil
}

// apply gives the first network what the flags beside --network say.
func (n networkFlags) apply(a *plan.Attachment, mac string) error {
	for _, c := range []struct {
		both bool
		text string
	}{
		{len(a.Aliases) > 0 && len(n.aliases) > 0, "--network-alias and per-network alias"},
		{len(a.Links) > 0 && len(n.links) > 0, "--link and per-network links"},
		{a.IP != "" && n.ip != "", "--ip and per-network IPv4 address"},
		{a.IP6 != "" && n.ip6 != "", "--ip6 and per-network IPv6 address"},
		{a.MAC != "" && mac != "", "--mac-address and per-network MAC address"},
		{len(a.LinkLocal) > 0 && len(n.linkLocal) > 0, "--link-local-ip and per-network link-local IP addresses"},
	} {
		if c.both {
			return invalid("conflicting options: cannot specify both %s", c.text)
		}
	}
	if len(n.aliases) > 0 {
		a.Aliases = n.aliases
	}
	if len(n.links) > 0 && plan.UserDefined(a.Network) {
		a.Links = n.links
	}
	if n.ip != "" {
		a.IP = n.ip
	}
	if n.ip6 != "" {
		a.IP6 = n.ip6
	}
	if mac != "" {
		a.MAC = mac
	}
	if len(n.linkLocal) > 0 {
		a.LinkLocal = n.linkLocal
	}
	return nil
}

// checkNetworks refuses what cannot stand together, in Docker's words.
func checkNetworks(all []plan.Attachment) error {
	user, other := false, false
	seen := map[string]bool{}
	for _, a := range all {
		if plan.UserDefined(a.Network) {
			user = true
		} else {
			other = true
			if len(a.Aliases) > 0 {
				return invalid("network-scoped aliases are only supported for user-defined networks")
			}
		}
		if seen[a.Network] {
			return invalid("network %q is specified multiple times", a.Network)
		}
		seen[a.Network] = true
	}
	if user && other || other && len(all) > 1 {
		return invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return nil
}

// MAC reads a --mac-address.
func MAC(s string) (string, error) { return macAddress(s) }
