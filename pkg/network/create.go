package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// CreateRequest is what a user asks of `network create`.
type CreateRequest struct {
	Name       string
	Driver     string   // "": bridge
	Subnets    []string // CIDR
	Ranges     []string // CIDR
	Gateways   []string
	Aux        []string // NAME=IP
	IPAMDriver string   // "": default
	IPAMOpts   map[string]string
	NoIPv4     bool
	IPv6       bool
	Internal   bool
	Attachable bool
	Ingress    bool
	Scope      string
	ConfigOnly bool
	ConfigFrom string
	Options    map[string]string
	Labels     map[string]string
	NoNames    bool     // containers do not find each other by name
	Servers    []string // IP of name servers
	Routes     []string // SUBNET,GATEWAY[,METRIC]

	// Rootless says that the containers of this user live in a network namespace of
	// their own, which no interface of the host can enter.
	Rootless bool
}

func invalid(format string, a ...any) error {
	return errs.New(errs.Invalid, fmt.Sprintf(format, a...))
}

// decide makes a definition of a request, or says in Docker's words why there can
// be none. all are the networks that exist; ula is where IPv6 subnets are taken
// from. It changes nothing; ID and Created are the caller's to fill.
func decide(r CreateRequest, all []*Network, h hostView, ula netip.Prefix) (n *Network, warnings []string, err error) {
	n = &Network{
		Version: Version, Name: r.Name, Driver: r.Driver, IPv4: !r.NoIPv4, IPv6: r.IPv6,
		Internal: r.Internal, Attachable: r.Attachable, ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom,
		IPAMDriver: r.IPAMDriver, IPAM: maps.Clone(r.IPAMOpts), Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels),
	}
	if n.Driver == "" {
		n.Driver = DriverBridge
	}
	if n.IPAMDriver == "" {
		n.IPAMDriver = "default"
	}
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	if n.Pools, err = pools(r); err != nil {
		return nil, nil, err
	}
	if err := checkName(r, all); err != nil {
		return nil, nil, err
	}
	if r.ConfigFrom != "" {
		if err := n.takeFrom(r, all); err != nil {
			return nil, nil, err
		}
	}
	if err := checkKind(r, n); err != nil {
		return nil, nil, err
	}
	if n.ConfigOnly {
		n.Driver = DriverNull
		return n, nil, nil
	}
	o, warnings, err := ReadOptions(n)
	if err != nil {
		return nil, nil, err
	}
	if r.Rootless {
		warnings = append(warnings, o.forRoot()...)
	}
	if err := n.checkBridge(all); err != nil {
		return nil, nil, err
	}
	if err := n.checkParent(all); err != nil {
		return nil, nil, err
	}
	more, err := n.address(all, h, ula)
	if err != nil {
		return nil, nil, err
	}
	return n, append(warnings, more...), n.extras(r)
}

func checkName(r CreateRequest, all []*Network) error {
	switch {
	case predefined(r.Name):
		return errs.New(errs.Denied, "operation is not permitted on predefined "+r.Name+" network")
	case strings.TrimSpace(r.Name) == "":
		return invalid("invalid network name: name is empty")
	case strings.TrimSpace(r.Name) != r.Name || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return invalid("invalid network name: %q", r.Name)
	case len(r.Name) > 250:
		return invalid("invalid network name: it is longer than 250 bytes")
	}
	for _, other := range all {
		if other.Name == r.Name {
			return errs.New(errs.Conflict, "network with name "+r.Name+" already exists")
		}
	}
	return nil
}

// checkKind refuses drivers that are not here, and what belongs to a swarm.
func checkKind(r CreateRequest, n *Network) error {
	swarm := errs.New(errs.Unavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	switch {
	case r.ConfigOnly && r.ConfigFrom != "":
		return invalid("a configuration network cannot depend on another configuration network")
	case r.Scope == "swarm" || r.Scope == "global":
		return invalid("cannot create a swarm scoped network when swarm is not active")
	case r.Scope != "" && r.Scope != "local":
		return swarm
	case r.Ingress:
		return invalid("Ingress network can only be global scope network")
	}
	switch n.Driver {
	case DriverBridge:
	case DriverMacvlan, DriverIPvlan:
		if r.Rootless {
			err := errs.New(errs.Unsupported, "a network with driver "+n.Driver+" needs root")
			return errs.WithHint(err, "It puts an interface of this machine into the container, which only root may do. Without root, use the driver bridge.")
		}
	case DriverHost, DriverNull:
		return errs.New(errs.Denied, fmt.Sprintf("only one instance of %q network is allowed", n.Driver))
	case "overlay":
		return swarm
	default:
		return errs.New(errs.NotFound, fmt.Sprintf("plugin %q not found", n.Driver))
	}
	switch n.IPAMDriver {
	case "", "default", "host-local":
	case "null", "none":
		return invalid("ipv4 pool is empty")
	default:
		return errs.New(errs.NotFound, fmt.Sprintf("plugin %q not found", n.IPAMDriver))
	}
	if !n.IPv4 && !n.IPv6 && !n.ConfigOnly {
		return invalid("IPv4 or IPv6 must be enabled")
	}
	return nil
}

// takeFrom fills n from the network that --config-from names.
func (n *Network) takeFrom(r CreateRequest, all []*Network) error {
	i := slices.IndexFunc(all, func(o *Network) bool { return o.Name == r.ConfigFrom || o.ID == r.ConfigFrom })
	if i < 0 {
		return errs.New(errs.NotFound, fmt.Sprintf("configuration network %q does not exist", r.ConfigFrom))
	}
	from := all[i]
	switch {
	case !from.ConfigOnly:
		return errs.New(errs.Denied, from.Name+" is not a configuration network")
	case len(n.Pools) > 0 || len(r.Options) > 0 || r.IPv6 || r.NoIPv4:
		return errs.New(errs.Denied, "user specified configurations are not supported if the network depends on a configuration network")
	}
	c := from.Clone()
	n.Pools, n.IPv4, n.IPv6, n.IPAM, n.IPAMDriver = c.Pools, c.IPv4, c.IPv6, c.IPAM, c.IPAMDriver
	maps.Copy(n.Options, c.Options)
	for k, v := range c.Labels {
		if _, own := n.Labels[k]; !own {
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[k] = v
		}
	}
	return nil
}

// checkBridge refuses a second network on a bridge.
func (n *Network) checkBridge(all []*Network) error {
	name := n.Options[OptName]
	if n.Driver != DriverBridge || name == "" {
		return nil
	}
	for _, o := range all {
		if o.Driver == DriverBridge && !o.ConfigOnly && (o.Options[OptName] == name || o.Device == name || "br-"+o.ID[:12] == name) {
			return errs.New(errs.Conflict, fmt.Sprintf("network %s is already using the bridge %s", o.Name, name))
		}
	}
	return nil
}

// checkParent refuses a second network on an interface, and any on the loopback one.
func (n *Network) checkParent(all []*Network) error {
	parent := n.Options["parent"]
	if n.Driver != DriverMacvlan && n.Driver != DriverIPvlan || parent == "" {
		return nil
	}
	if parent == "lo" {
		return invalid("loopback interface is not a valid %s parent link", n.Driver)
	}
	for _, o := range all {
		if o.Driver == n.Driver && o.Options["parent"] == parent {
			return errs.New(errs.Conflict, fmt.Sprintf("network %s is already using parent interface %s", o.Name, parent))
		}
	}
	return nil
}

// address completes the subnets: what the user did not say is chosen.
func (n *Network) address(all []*Network, h hostView, ula netip.Prefix) (warnings []string, err error) {
	for _, v4 := range []bool{true, false} {
		var own []netip.Prefix
		for _, p := range n.Pools {
			if p.Subnet.Addr().Is4() == v4 {
				own = append(own, p.Subnet)
			}
		}
		if len(own) > 1 && n.Driver == DriverBridge {
			return nil, invalid("bridge driver doesn't support multiple subnets")
		}
	}
	taken := subnets(all)
	lan := n.Driver == DriverMacvlan || n.Driver == DriverIPvlan
	for i := range n.Pools {
		p := &n.Pools[i]
		if !lan && overlaps(taken, p.Subnet) {
			return nil, errs.New(errs.Denied, "invalid pool request: Pool overlaps with other one on this address space")
		}
		if p.Subnet.Addr().Is6() && !n.IPv6 {
			warnings = append(warnings, fmt.Sprintf("IPv6 is not enabled for the network (--ipv6): its subnet %s has no effect", p.Subnet))
		}
	}
	if n.IPv4 && n.Pool4() == nil {
		p, err := free4(h, taken)
		if err != nil {
			return nil, err
		}
		n.Pools = append([]Pool{{Subnet: p}}, n.Pools...)
	}
	if n.IPv6 && n.Pool6() == nil {
		p, err := free6(ula, h, taken)
		if err != nil {
			return nil, err
		}
		n.Pools = append(n.Pools, Pool{Subnet: p})
	}
	for i := range n.Pools {
		p := &n.Pools[i]
		if p.Gateway.IsValid() {
			if p.OwnGateway {
				probe := *p
				probe.Gateway = netip.Addr{}
				if probe.reserved(p.Gateway) {
					return nil, errs.New(errs.Denied, "failed to allocate gateway ("+p.Gateway.String()+"): Address already in use")
				}
			}
			continue
		}
		whole := *p
		whole.Range = netip.Prefix{}
		gw, ok := whole.firstFree()
		if !ok || p.Subnet.IsSingleIP() {
			return nil, errs.New(errs.Denied, "failed to allocate gateway (): No available addresses on this pool")
		}
		p.Gateway = gw
	}
	return warnings, nil
}

// pools reads the flags of addresses, with the words of Docker's command.
func pools(r CreateRequest) ([]Pool, error) {
	if len(r.Subnets) < len(r.Ranges) || len(r.Subnets) < len(r.Gateways) {
		return nil, invalid("every ip-range or gateway must have a corresponding subnet")
	}
	var all []Pool
	for _, s := range r.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return nil, invalid("invalid subnet %s: invalid CIDR address: %s", s, s)
		}
		for _, have := range all {
			if have.Subnet.Overlaps(p) {
				return nil, invalid("multiple overlapping subnet configuration is not supported")
			}
		}
		if p != p.Masked() {
			return nil, invalid("invalid network config: invalid subnet %s: it should be %s", s, p.Masked())
		}
		if p.Bits() < 2 {
			return nil, errs.New(errs.Denied, "invalid pool request: Pool overlaps with other one on this address space")
		}
		all = append(all, Pool{Subnet: p, Text: s})
	}
	// Those of IPv4 first, as Docker lists them.
	slices.SortStableFunc(all, func(a, b Pool) int { return a.Subnet.Addr().BitLen() - b.Subnet.Addr().BitLen() })
	at := func(a netip.Addr) *Pool {
		for i := range all {
			if all[i].Subnet.Contains(a) {
				return &all[i]
			}
		}
		return nil
	}
	for _, s := range r.Ranges {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, invalid("invalid CIDR address: %s", s)
		}
		pool := at(p.Addr())
		switch {
		case pool == nil || p.Bits() < pool.Subnet.Bits():
			return nil, invalid("no matching subnet for range %s", s)
		case pool.Range.IsValid():
			return nil, invalid("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", s, pool.RangeText, pool.Text)
		}
		pool.Range, pool.RangeText = p.Masked(), s
	}
	for _, s := range r.Gateways {
		a, err := netip.ParseAddr(s)
		pool := at(a)
		switch {
		case err != nil || pool == nil:
			return nil, invalid("no matching subnet for gateway %s", s)
		case pool.Gateway.IsValid():
			return nil, invalid("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", s, pool.Gateway, pool.Text)
		}
		pool.Gateway, pool.OwnGateway = a, true
	}
	for _, s := range r.Aux {
		name, ip, _ := strings.Cut(s, "=")
		a, err := netip.ParseAddr(ip)
		pool := at(a)
		if err != nil || pool == nil {
			return nil, invalid("no matching subnet for aux-address %s", ip)
		}
		if pool.Aux == nil {
			pool.Aux = map[string]netip.Addr{}
		}
		pool.Aux[name] = a
	}
	return all, nil
}

// The options of networks.
const (
	OptMTU           = "com.docker.network.driver.mtu"
	OptName          = "com.docker.network.bridge.name"
	OptICC           = "com.docker.network.bridge.enable_icc"
	OptMasquerade    = "com.docker.network.bridge.enable_ip_masquerade"
	OptHostBinding   = "com.docker.network.bridge.host_binding_ipv4"
	OptHostBinding6  = "com.docker.network.bridge.host_binding_ipv6"
	OptGatewayMode4  = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGatewayMode6  = "com.docker.network.bridge.gateway_mode_ipv6"
	OptInhibit4      = "com.docker.network.bridge.inhibit_ipv4"
	OptTrusted       = "com.docker.network.bridge.trusted_host_interfaces"
	OptDefaultBridge = "com.docker.network.bridge.default_bridge"
	OptIfPrefix      = "com.docker.network.container_iface_prefix"
	OptHostAccess    = "host-access"     // none: the host's own addresses are refused
	OptHostLoopback  = "host-loopback"   // true: the host's name leads to 127.0.0.1
	OptMetadata      = "metadata-access" // none: 169.254.169.254 is refused

	// Of an endpoint.
	OptEndpointSysctls = "com.docker.network.endpoint.sysctls"
	OptEndpointIfname  = "com.docker.network.endpoint.ifname"
)

// Options are a network's options, read.
type Options struct {
	MTU          int // 0: 1500
	BridgeName   string
	NoICC        bool
	NoMasq       bool
	HostIP4      netip.Addr // where ports are published; zero: everywhere
	HostIP6      netip.Addr
	Mode4, Mode6 string   // nat, nat-unprotected, routed, isolated
	Trusted      []string // devices of the host
	Inhibit4     bool
	IfPrefix     string // "eth"
	Parent       string
	Mode         string // of macvlan and ipvlan
	NoHost       bool
	HostLoopback bool
	NoMetadata   bool
}

// ReadOptions reads the options of n. What it does not know of Docker's is kept,
// with a warning.
func ReadOptions(n *Network) (Options, []string, error) {
	o := Options{Mode4: "nat", Mode6: "nat", IfPrefix: "eth"}
	var warnings []string
	for _, key := range slices.Sorted(maps.Keys(n.Options)) {
		val := n.Options[key]
		var err error
		word := func(p *string, words ...string) {
			if *p = val; !slices.Contains(words, val) {
				err = fmt.Errorf("unknown gateway mode")
			}
		}
		not := func(p *bool) {
			var on bool
			on, err = boolean(val)
			*p = !on
		}
		switch key {
		case OptMTU, "mtu":
			o.MTU, err = strconv.Atoi(val)
			if err == nil && (o.MTU < 0 || o.MTU > 65535) {
				err = fmt.Errorf("it must be between 0 and 65535")
			}
		case OptName:
			o.BridgeName = val
			if strings.ContainsAny(val, "/ :\t\n\x00") || len(val) > 15 || val == "." || val == ".." {
				err = fmt.Errorf("no name for an interface: at most 15 bytes, without blanks, slashes and colons")
			}
		case OptICC:
			not(&o.NoICC)
		case OptMasquerade:
			not(&o.NoMasq)
		case OptHostBinding:
			if o.HostIP4, err = netip.ParseAddr(val); err != nil || !o.HostIP4.Is4() {
				err = fmt.Errorf("nil ip")
			} else if o.HostIP4.IsUnspecified() {
				o.HostIP4 = netip.Addr{}
			}
		case OptHostBinding6:
			if o.HostIP6, err = netip.ParseAddr(val); err != nil || !o.HostIP6.Is6() {
				err = fmt.Errorf("nil ip")
			} else if o.HostIP6.IsUnspecified() {
				o.HostIP6 = netip.Addr{}
			}
		case OptGatewayMode4:
			word(&o.Mode4, "nat", "nat-unprotected", "routed", "isolated")
		case OptGatewayMode6:
			word(&o.Mode6, "nat", "nat-unprotected", "routed", "isolated")
		case OptInhibit4:
			o.Inhibit4, err = boolean(val)
		case OptTrusted:
			o.Trusted = strings.Split(val, ":")
			if slices.ContainsFunc(o.Trusted, func(name string) bool { return checkInterface(name) != nil }) {
				err = fmt.Errorf("it is names of interfaces with colons between")
			}
		case OptDefaultBridge:
		case OptIfPrefix:
			if o.IfPrefix = val; len(val) > 12 || strings.ContainsAny(val, "/ :\t\n\x00") || val == "" {
				err = fmt.Errorf("no beginning of an interface's name")
			}
		case OptHostAccess:
			if o.NoHost = val == "none"; val != "none" && val != "all" {
				err = fmt.Errorf("it is all or none")
			}
		case OptMetadata:
			if o.NoMetadata = val == "none"; val != "none" && val != "all" {
				err = fmt.Errorf("it is all or none")
			}
		case OptHostLoopback:
			o.HostLoopback, err = boolean(val)
		case "parent":
			o.Parent = val
			if n.Driver == DriverMacvlan || n.Driver == DriverIPvlan {
				err = checkInterface(val)
			}
		case "macvlan_mode", "ipvlan_mode", "mode":
			o.Mode = val
			if e := vlanMode(n.Driver, key, val); e != nil {
				return o, nil, e
			}
		default:
			if strings.HasPrefix(key, "com.docker.network.") && n.Driver == DriverBridge {
				warnings = append(warnings, "the option "+key+" is not known to the driver bridge: it has no effect")
			}
		}
		if err != nil {
			return o, nil, invalid("failed to parse %s value: %s (%s)", key, val, err)
		}
	}
	if (o.Mode4 == "isolated" || o.Mode6 == "isolated") && !n.Internal {
		return o, nil, invalid("gateway mode 'isolated' can only be used for an internal network")
	}
	return o, warnings, nil
}

// forRoot says which of the options have no effect on networks that are not the
// host's: nothing outside has a way to their containers' own addresses.
func (o Options) forRoot() []string {
	var warnings []string
	for _, w := range []struct{ key, val string }{
		{OptGatewayMode4, o.Mode4}, {OptGatewayMode6, o.Mode6}, {OptTrusted, strings.Join(o.Trusted, ":")},
	} {
		if !slices.Contains([]string{"", "nat", "isolated"}, w.val) {
			warnings = append(warnings, w.key+"="+w.val+" has no effect without root: containers are reached by published ports only")
		}
	}
	return warnings
}

// boolean is strconv.ParseBool, where an option without a value is on.
func boolean(s string) (bool, error) {
	if s == "" {
		return true, nil
	}
	return strconv.ParseBool(s)
}

func checkInterface(val string) error {
	if val == "" || len(val) > 15 || strings.ContainsAny(val, "/ :\t\n\x00") {
		return fmt.Errorf("no name of an interface")
	}
	return nil
}

func vlanMode(driver, key, val string) error {
	modes, def := []string{"bridge", "vepa", "passthru", "private"}, "bridge"
	switch {
	case driver == DriverIPvlan && key != "macvlan_mode":
		modes, def = []string{"l2", "l3", "l3s"}, "l2"
	case driver != DriverMacvlan || key == "ipvlan_mode":
		return nil // some other driver's
	}
	if !slices.Contains(modes, val) {
		return invalid("requested %s mode '%s' is not valid, '%s' mode is the %s driver default", driver, val, def, driver)
	}
	return nil
}
