// Package network holds what is known of networks as values, and the files that
// keep them. It makes no interface and no rule: a container's monitor does.
//
// Definitions are on disk, <root>/networks/<id>.json, one for each network that
// somebody has created and one for the default one once it is used:
//
//	networks/lock         flock held for every change of a definition
//	networks/ula          the /48 that this store's IPv6 subnets are made from
//	networks/<id>.json    a definition, replaced atomically, with a version
//
// What lives is in the run directory, <run>/net:
//
//	lock                     the topology's, see the packages below this one
//	addresses                flock held while addresses are given out
//	ep/<container>-<net>.json  one endpoint, flock'd by its monitor for life
//
// An endpoint file whose lock is free is left over. The set of those that are
// held is all there is of address management: nothing has to be given back.
package network

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
)

// Version is written into every file of this package. A file with a higher one
// is refused with a hint to upgrade.
const Version = 1

// The networks that are always there.
const (
	Bridge = "bridge" // the default one
	Host   = "host"
	None   = "none"
)

// The drivers.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
	DriverHost    = "host"
	DriverNull    = "null"
)

// Network is a definition.
type Network struct {
	Version    int               `json:"v"`
	ID         string            `json:"id"` // 64 hex digits
	Name       string            `json:"name"`
	Created    time.Time         `json:"created"`
	Driver     string            `json:"driver"`
	IPv4       bool              `json:"ipv4"`
	IPv6       bool              `json:"ipv6"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	ConfigOnly bool              `json:"configOnly,omitempty"` // a set of options for others
	ConfigFrom string            `json:"configFrom,omitempty"` // the network they came from
	IPAMDriver string            `json:"ipamDriver,omitempty"` // "default", "null"
	IPAM       map[string]string `json:"ipam,omitempty"`       // its options, which have no effect
	Pools      []Pool            `json:"pools,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Device     string            `json:"device,omitempty"` // the default network's bridge
	NoNames    bool              `json:"noNames,omitempty"`
	Servers    []netip.Addr      `json:"servers,omitempty"` // asked about other names, instead of this machine's
	Routes     []Route           `json:"routes,omitempty"`
}

// Pool is one subnet of a network.
type Pool struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range,omitzero"` // addresses are given out of it; zero: of the subnet
	Gateway netip.Addr            `json:"gateway,omitzero"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"` // addresses that are never given out, by the name of who has them
	// Text and RangeText are as the user typed them, for inspect; OwnGateway is
	// a gateway that the user gave.
	Text       string `json:"text,omitempty"`
	RangeText  string `json:"rangeText,omitempty"`
	OwnGateway bool   `json:"ownGateway,omitempty"`
}

// predefined reports whether name is a network that is always there, or reserved.
func predefined(name string) bool {
	return name == Bridge || name == Host || name == None || name == "default"
}

// Builtin reports whether n is one of the networks that are always there.
func (n *Network) Builtin() bool { return n.Name == Bridge || n.Name == Host || n.Name == None }

// Pool4 and Pool6 are the network's subnets by family; nil if it has none.
func (n *Network) Pool4() *Pool { return n.pool(true) }

// Pool6 is the IPv6 subnet; nil if there is none.
func (n *Network) Pool6() *Pool { return n.pool(false) }

func (n *Network) pool(v4 bool) *Pool {
	for i := range n.Pools {
		if n.Pools[i].Subnet.Addr().Is4() == v4 {
			return &n.Pools[i]
		}
	}
	return nil
}

// Pool returns the subnet that ip is in, nil if there is none.
func (n *Network) Pool(ip netip.Addr) *Pool {
	for i := range n.Pools {
		if n.Pools[i].Subnet.Contains(ip) {
			return &n.Pools[i]
		}
	}
	return nil
}

// BuiltinID is the id of a network that is always there: the same in every store,
// so that none has to be written down.
func BuiltinID(name string) string {
	sum := sha256.Sum256([]byte("cais network " + name))
	return hex.EncodeToString(sum[:])
}

// builtins are the definitions of the networks that are always there, as long as
// no file says more.
func builtins() []*Network {
	return []*Network{
		{Version: Version, ID: BuiltinID(Bridge), Name: Bridge, Driver: DriverBridge, IPv4: true, IPAMDriver: "default", Options: map[string]string{}},
		{Version: Version, ID: BuiltinID(Host), Name: Host, Driver: DriverHost, IPv4: true, IPAMDriver: "default"},
		{Version: Version, ID: BuiltinID(None), Name: None, Driver: DriverNull, IPv4: true, IPAMDriver: "default"},
	}
}

// Find returns the network that ref means: a whole id, else a name, else the
// beginning of one id.
func Find(all []*Network, ref string) (*Network, error) {
	if ref == "default" {
		ref = Bridge
	}
	var byName, byPrefix []*Network
	for _, n := range all {
		switch {
		case n.ID == ref:
			return n, nil
		case n.Name == ref:
			byName = append(byName, n)
		case ref != "" && strings.HasPrefix(n.ID, ref):
			byPrefix = append(byPrefix, n)
		}
	}
	if len(byName) > 0 {
		return byName[0], nil
	}
	switch len(byPrefix) {
	case 0:
		if ref == "podman" { // the default network's name there
			return Find(all, Bridge)
		}
		return nil, NotFound(ref)
	case 1:
		return byPrefix[0], nil
	}
	return nil, errs.New(errs.Invalid, "network "+ref+" is ambiguous ("+count(len(byPrefix))+" matches found based on ID prefix)")
}

// NotFound is the error for a network that is not there.
func NotFound(ref string) error { return errs.New(errs.NotFound, "network "+ref+" not found") }

func count(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return "many"
}

// Clone returns a copy that shares nothing with n.
func (n *Network) Clone() *Network {
	c := *n
	c.IPAM, c.Options, c.Labels = maps.Clone(n.IPAM), maps.Clone(n.Options), maps.Clone(n.Labels)
	c.Pools = slices.Clone(n.Pools)
	for i := range c.Pools {
		c.Pools[i].Aux = maps.Clone(c.Pools[i].Aux)
	}
	return &c
}
