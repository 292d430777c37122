package docker

import (
	"maps"
	"net/netip"
	"strconv"
	"time"

	"cais.dev/cais/pkg/network"
)

// Network is what `network inspect` prints.
type Network struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       IPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom ConfigReference
	ConfigOnly bool
	Containers map[string]NetworkContainer
	Options    map[string]string
	Labels     map[string]string

	// Templates may ask for a swarm's, which no network here has.
	Peers    []struct{}          `json:",omitempty"`
	Services map[string]struct{} `json:",omitempty"`

	// Podman's, where they are not as usual.
	DNSEnabled *bool          `json:"dns_enabled,omitempty"`
	DNSServers []netip.Addr   `json:"network_dns_servers,omitempty"`
	Routes     []NetworkRoute `json:"routes,omitempty"`
}

// NetworkRoute is a route that a network's containers get.
type NetworkRoute struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway"`
	Metric      int          `json:"metric,omitempty"`
}

// IPAM is how a network's addresses are managed.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []IPAMConfig
}

// IPAMConfig is one subnet.
type IPAMConfig struct {
	Subnet             string            `json:",omitempty"`
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

// ConfigReference names the network that another one's options came from.
type ConfigReference struct{ Network string }

// NetworkContainer is a container in a network.
type NetworkContainer struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

// NewNetwork returns the JSON form of a network with the containers that run in
// it.
func NewNetwork(n *network.Network, running map[string]NetworkContainer) *Network {
	out := &Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: n.IPv4, EnableIPv6: n.IPv6,
		IPAM:     IPAM{Driver: first(n.IPAMDriver, "default"), Options: n.IPAM, Config: []IPAMConfig{}},
		Internal: n.Internal, Attachable: n.Attachable, ConfigFrom: ConfigReference{n.ConfigFrom}, ConfigOnly: n.ConfigOnly,
		Containers: running, Options: notNilMap(n.Options), Labels: notNilMap(n.Labels),
	}
	if !n.Builtin() {
		out.IPAM.Options = notNilMap(n.IPAM)
	}
	if out.Containers == nil {
		out.Containers = map[string]NetworkContainer{}
	}
	for _, p := range n.Pools {
		if n.Name == network.Bridge && p.Subnet.Addr().Is6() && !n.IPv6 {
			continue // of the time when this machine had a route
		}
		c := IPAMConfig{Subnet: first(p.Text, p.Subnet.String()), IPRange: p.RangeText}
		if p.Gateway.IsValid() {
			c.Gateway = p.Gateway.String()
		}
		for name, a := range p.Aux {
			if c.AuxiliaryAddresses == nil {
				c.AuxiliaryAddresses = map[string]string{}
			}
			c.AuxiliaryAddresses[name] = a.String()
		}
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	if n.NoNames {
		out.DNSEnabled = new(bool)
	}
	out.DNSServers = n.Servers
	for _, r := range n.Routes {
		out.Routes = append(out.Routes, NetworkRoute{r.Dst, r.Gateway, r.Metric})
	}
	if n.Name == network.Bridge {
		out.Options = maps.Clone(out.Options)
		for k, v := range map[string]string{
			network.OptDefaultBridge: "true", network.OptICC: "true", network.OptMasquerade: "true",
			network.OptHostBinding: "0.0.0.0", network.OptName: "docker0", network.OptMTU: "1500",
		} {
			if _, own := out.Options[k]; !own {
				out.Options[k] = v
			}
		}
	}
	return out
}

// NewNetworkContainer is an endpoint as a network's inspect shows it.
func NewNetworkContainer(e *network.Endpoint) NetworkContainer {
	return NetworkContainer{
		Name: e.Name, EndpointID: e.ID, MacAddress: e.MAC,
		IPv4Address: withBits(e.IP, e.Bits), IPv6Address: withBits(e.IP6, e.Bits6),
	}
}

func withBits(a netip.Addr, bits int) string {
	if !a.IsValid() {
		return ""
	}
	return a.String() + "/" + strconv.Itoa(bits)
}

func notNilMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
