package connect

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/dns"
	"cais.dev/cais/pkg/run/plan"
)

// resolv is what the container's resolv.conf is made of. own says that the
// container has a name server, ipv6 that it has IPv6.
func (s *Service) resolv(req plan.Request, own, ipv6 bool) network.Resolv {
	text, _ := os.ReadFile("/etc/resolv.conf") // unreadable is empty: names are still answered
	return network.Resolv{Host: string(text), Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions, Own: own, NoIPv6: !ipv6}
}

// ownNames reports whether the container asks a name server of its own: on
// networks with names, behind the relay, which no server on the host's loopback
// interface can be reached through, and where the host has no other server.
func (s *Service) ownNames(rec *container.Record, nets []*network.Network) bool {
	if len(nets) == 0 {
		return false
	}
	given := slices.ContainsFunc(rec.Request.DNS, func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && !a.IsLoopback()
	})
	if s.engine() != engineBridge && !given || slices.ContainsFunc(nets, (*network.Network).Named) {
		return true
	}
	_, ok := s.resolv(rec.Request, false, false).Text()
	return !ok
}

func (s *Service) nameConfig(rec *container.Record, list []plan.Attachment, nets []*network.Network) *dns.Config {
	c := &dns.Config{Dir: filepath.Join(s.Networks().RunDir(), "ep"), Resolv: "/etc/resolv.conf", NoForward: true}
	for i, n := range nets {
		if n.Named() {
			c.Networks = append(c.Networks, dns.Network{ID: n.ID, Name: n.Name})
		}
		c.NoForward = c.NoForward && n.Internal
		for _, l := range list[i].Links {
			target, alias, _ := strings.Cut(l, ":")
			c.Links = append(c.Links, dns.Link{Alias: alias, Target: target})
		}
	}
	for _, text := range rec.Request.DNS {
		if a, err := netip.ParseAddr(text); err == nil {
			c.Servers = append(c.Servers, a.WithZone("").AsSlice())
		}
	}
	for _, n := range nets {
		for _, a := range n.Servers {
			if len(rec.Request.DNS) == 0 {
				c.Servers = append(c.Servers, a.AsSlice())
			}
		}
	}
	c.NoSingle = s.resolv(rec.Request, true, false).Ndots() > 0
	return c
}

// maxEtc is the longest file of a container's in /etc that is read again: the
// container may write to it what it likes.
const maxEtc = 1 << 20

// etcNetwork writes /etc/hosts and resolv.conf of a container whose addresses are
// known. What the container has written there stays; lines of ours are put right.
func (s *Service) etcNetwork(rec *container.Record, nets []*network.Network, box *network.Sandbox, hostname string) error {
	req, dir := rec.Request, s.store.Dir(rec.ID)
	ipv6 := slices.ContainsFunc(box.Endpoints, func(e network.Endpoint) bool { return e.IP6.IsValid() })
	if !req.NoHosts {
		h, err := s.hostsOf(req, nets, box, hostname, ipv6)
		if err != nil {
			return err
		}
		have, err := readEtc(filepath.Join(dir, network.HostsFile))
		text := h.Text()
		if have != "" {
			text = h.Edit(have)
		}
		if err == nil && text != have {
			err = rewrite(filepath.Join(dir, network.HostsFile), text)
		}
		if err != nil {
			return err
		}
	}
	text, _ := s.resolv(req, s.ownNames(rec, nets), ipv6).Text()
	path := filepath.Join(dir, network.ResolvFile)
	have, err := readEtc(path)
	if err != nil {
		return err
	}
	if note, err := readEtc(path + ".hash"); err != nil || have != "" && note != hash(have) {
		return err // edited by the container, or by its user
	}
	if have == text {
		return nil
	}
	if err := rewrite(path, text); err != nil {
		return err
	}
	return rewrite(path+".hash", hash(text))
}

// hostsOf is what the container's /etc/hosts is made of.
func (s *Service) hostsOf(req plan.Request, nets []*network.Network, box *network.Sandbox, hostname string, ipv6 bool) (network.Hosts, error) {
	_, err := os.Stat("/proc/net/if_inet6")
	h := network.Hosts{Hostname: hostname, Domainname: req.Domainname, Extra: req.AddHosts, IPv6: err == nil && req.Sysctls[noIPv6] != "1"}
	if h.Hostname == "" { // it is the host's
		h.Hostname, _ = os.Hostname() // else a line without a name
	}
	for i, e := range box.Endpoints {
		for _, a := range []netip.Addr{e.IP, e.IP6} {
			if a.IsValid() {
				h.Own = append(h.Own, a)
			}
		}
		if !h.Gateway.IsValid() || nets[i].Name == network.Bridge {
			h.Gateway = e.Gateway
		}
	}
	if box.Engine == engineRelay {
		h.Gateway = netip.MustParseAddr(hostIP)
		if ipv6 {
			h.Gateway6 = netip.MustParseAddr(hostIP6)
		}
	}
	if !slices.ContainsFunc(nets, func(n *network.Network) bool { return n.Name == network.Bridge }) {
		return h, nil
	}
	for _, l := range req.Links {
		name, alias, _ := strings.Cut(l, ":")
		c, e, err := s.linked(name, alias)
		if err != nil {
			return h, err
		}
		h.Links = append(h.Links, linkLine(c, e, alias))
	}
	return h, nil
}

// readEtc reads a file of the container's; one that is too long is not looked at.
func readEtc(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEtc+1))
	if err == nil && len(b) > maxEtc {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxEtc)
	}
	return string(b), err
}

// rewrite replaces the content of a file that may be mounted: its inode stays.
func rewrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// hash tells two texts apart.
func hash(text string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return strconv.FormatUint(h.Sum64(), 16)
}
