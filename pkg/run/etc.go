package run

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

// The files that a container gets for its own, by where they go.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
	passwdFile   = "passwd"
)

// etcFiles returns the contents of the container's own files in /etc, by their
// names in its directory. Which there are depends on the request alone. Those of
// a container with networks are made at its start, when its addresses are known.
func etcFiles(req plan.Request, hostname string) (map[string]string, error) {
	files := map[string]string{}
	if strings.HasPrefix(req.Network, "container:") {
		return files, nil // the other container's are mounted instead
	}
	if !req.NoHostname {
		files[hostnameFile] = hostname + "\n"
	}
	if len(req.Attached()) > 0 && !req.SharesNetwork() && req.Network != "none" {
		return files, nil
	}
	if !req.NoHosts {
		text, err := hosts(req)
		if err != nil {
			return nil, err
		}
		files[hostsFile] = text
	}
	path, keep := "/etc/resolv.conf", req.Network == "host"
	if ns, ok := strings.CutPrefix(req.Network, "ns:"); ok {
		keep = true
		if dir := filepath.Dir(ns); dir == "/run/netns" || dir == "/var/run/netns" { // made by ip netns
			if own := filepath.Join("/etc/netns", filepath.Base(ns), "resolv.conf"); exists(own) {
				path = own
			}
		}
	}
	text, err := readText(path)
	files[resolvFile], _ = network.Resolv{
		Host: text, Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions, Keep: keep,
	}.Text()
	return files, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readText reads a file that may be missing.
func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(b), err
}

// hosts is /etc/hosts of a container without a network of its own.
func hosts(req plan.Request) (string, error) {
	if req.SharesNetwork() && len(req.AddHosts) == 0 {
		if text, err := readText("/etc/hosts"); err != nil || text != "" {
			return text, err
		}
	}
	return network.Hosts{Extra: req.AddHosts, IPv6: true}.Text(), nil
}

// resolv is what the container's resolv.conf is made of. own says that the
// container has a name server, ipv6 that it has IPv6.
func (s *Service) resolv(req plan.Request, own, ipv6 bool) network.Resolv {
	text, _ := readText("/etc/resolv.conf") // unreadable is empty: names are still answered
	return network.Resolv{Host: text, Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions, Own: own, NoIPv6: !ipv6}
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
		have, err := readEtc(filepath.Join(dir, hostsFile))
		text := h.Text()
		if have != "" {
			text = h.Edit(have)
		}
		if err == nil && text != have {
			err = rewrite(filepath.Join(dir, hostsFile), text)
		}
		if err != nil {
			return err
		}
	}
	text, _ := s.resolv(req, s.ownNames(rec, nets), ipv6).Text()
	path := filepath.Join(dir, resolvFile)
	have, err := readEtc(path)
	if err != nil {
		return err
	}
	if note, err := readText(path + ".hash"); err != nil || have != "" && note != hash(have) {
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
	id, err := s.store.Find(name)
	if err != nil {
		return nil, nil, errs.E("could not get container for "+name, errs.KindOf(err), err)
	}
	c, err := s.store.Load(id)
	if err != nil {
		return nil, nil, err
	}
	eps, err := s.nets().Endpoints(network.BuiltinID(network.Bridge))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range eps {
		if e.Container == id && e.IP.IsValid() {
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

// linkEnv adds the variables of --link to a process's environment. Another
// container that does not run now has none to give.
func (s *Service) linkEnv(env []string, req plan.Request, name string) []string {
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

// writeEtc writes them. They are bind-mounted, so they keep their inode: a
// later change must write into them.
func writeEtc(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil { //nolint:forbidigo // new, and its inode counts
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// mountPoints makes, once for all containers, the lowest layer of every
// container: empty places for what is always mounted, so that no mount needs to
// make one in the upper layer. Its name carries a version.
func mountPoints(root string) (string, error) {
	dir := filepath.Join(root, "mountpoints-1")
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(root, ".mountpoints-")
	if err != nil {
		return "", errs.WithHint(fmt.Errorf("make the places for mounts: %w", err), "Set CAIS_ROOT to a directory that cais may write to.")
	}
	if err = fillMountPoints(tmp); err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(tmp))
	}
	if _, other := os.Lstat(dir); other == nil {
		return dir, nil // somebody else was quicker
	}
	return dir, err
}

func fillMountPoints(dir string) error {
	var all []error
	for _, d := range []string{"dev", "proc", "sys", "etc"} {
		all = append(all, makeDir(filepath.Join(dir, d), 0o755))
	}
	all = append(all, writeEtc(filepath.Join(dir, "etc"), map[string]string{hostsFile: "", hostnameFile: "", resolvFile: ""}))
	return errors.Join(append(all, os.Chmod(dir, 0o755))...)
}

func makeDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode) // whatever the umask
}
