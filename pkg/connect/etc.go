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
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
)

// resolv is what the container's resolv.conf is made of. own says that the
// container has a name server, ipv6 that it has IPv6.
func (s *Service) resolv(req plan.Request, own, ipv6 bool) network.Resolv {
	text, _ := os.ReadFile("/etc/resolv.conf") // unreadable is empty: names are still answered
	return network.Resolv{Host: string(text), Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions, Own: own, NoIPv6: !ipv6}
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
	h := network.Hosts{Hostname: hostname, Domainname: req.Domainname, Extra: req.AddHosts, IPv6: ipv6}
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

// linked is the container of a --link, and where it is on the default network.
func (s *Service) linked(name, alias string) (*container.Container, *network.Endpoint, error) {
	c, err := s.linkTarget(name)
	if err != nil {
		return nil, nil, err
	}
	eps, err := s.nets().Endpoints(network.BuiltinID(network.Bridge))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range eps {
		if e.Container == c.ID && e.IP.IsValid() {
			return c, e, nil
		}
	}
	return nil, nil, errs.New(errs.Conflict, "Cannot link to a non running container: /"+name+" AS "+alias)
}

// linkLine is the line of a --link in /etc/hosts.
func linkLine(c *container.Container, e *network.Endpoint, alias string) network.HostLine {
	var list []string
	for _, n := range []string{alias, c.Record.Request.Hostname, container.ShortID(c.ID), e.Name} {
		if n != "" && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return network.HostLine{IP: e.IP, Names: strings.Join(list, " ")}
}

// LinkEnv adds the variables of --link to a process's environment. Another
// container that does not run now has none to give.
func (s *Service) LinkEnv(env []string, req plan.Request, name string) []string {
	if len(req.Links) == 0 {
		return env
	}
	var links []plan.Link
	for _, l := range req.Links {
		other, alias, _ := strings.Cut(l, ":")
		c, e, err := s.linked(other, alias)
		if err != nil {
			continue // at a start, hostsOf has refused it
		}
		links = append(links, plan.Link{Owner: name, Alias: alias, IP: e.IP.String(), Request: c.Record.Request, Image: c.Record.Image})
	}
	return plan.WithLinks(env, links)
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
