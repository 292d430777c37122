package network

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The files that a container's networks are told in, below /etc.
const (
	HostsFile  = "hosts"
	ResolvFile = "resolv.conf"
)

// Hosts is what a container's /etc/hosts is made of.
type Hosts struct {
	Hostname   string
	Domainname string
	Extra      []string     // --add-host: NAME:IP, NAME:host-gateway
	Gateway    netip.Addr   // what host-gateway stands for; zero: there is none
	Gateway6   netip.Addr   //
	Own        []netip.Addr // the container's addresses
	Links      []HostLine   // of --link
	IPv6       bool         // it has ::1, if no other address of IPv6
}

// HostLine is one line: an address and its names.
type HostLine struct {
	IP    netip.Addr
	Names string // separated by blanks
}

// hostNames are the names of this machine that every container knows.
var hostNames = [...]string{"host.docker.internal", "host.containers.internal"}

// Text returns the whole file.
func (h Hosts) Text() string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n")
	if h.IPv6 {
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	given := map[string]bool{}
	for _, e := range h.Extra {
		name, ip, _ := strings.Cut(e, ":")
		given[name] = true
		if ip != "host-gateway" {
			line(&b, ip, name)
			continue
		}
		for _, a := range []netip.Addr{h.Gateway, h.Gateway6} {
			if a.IsValid() {
				line(&b, a.String(), name)
			}
		}
	}
	if h.Gateway.IsValid() {
		var names []string
		for _, n := range hostNames {
			if !given[n] {
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			line(&b, h.Gateway.String(), strings.Join(names, " "))
		}
	}
	h.variable(&b)
	return b.String()
}

func line(b *strings.Builder, ip, names string) {
	b.WriteString(ip + "\t" + names + "\n")
}

// variable writes the lines that a start or a connect changes.
func (h Hosts) variable(b *strings.Builder) {
	for _, l := range h.Links {
		line(b, l.IP.String(), l.Names)
	}
	for _, a := range h.Own {
		line(b, a.String(), ownNames(h.Hostname, h.Domainname))
	}
}

// ownNames are a container's names for itself: with its domain, then without.
func ownNames(hostname, domain string) string {
	full := hostname
	if domain != "" && !strings.HasSuffix(hostname, "."+domain) {
		full += "." + domain
	}
	if short, _, cut := strings.Cut(full, "."); cut {
		return full + " " + short
	}
	return full
}

// Edit returns text, which is what Text made once and the container may have
// edited since, with the lines that change put right: those of old are taken
// out, those of h put at the end.
func (h Hosts) Edit(text string) string {
	ours := map[string]bool{ownNames(h.Hostname, h.Domainname): true}
	for _, l := range h.Links {
		ours[l.Names] = true
	}
	var b strings.Builder
	for l := range strings.Lines(text) {
		ip, names, tab := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
		if _, err := netip.ParseAddr(ip); err == nil && tab && ours[names] {
			continue
		}
		b.WriteString(l)
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	h.variable(&b)
	return b.String()
}

// Resolver is the address at which a container finds its name server.
const Resolver = "127.0.0.11"

// Resolv is what a container's /etc/resolv.conf is made of.
type Resolv struct {
	Host    string   // the text of this machine's file
	Servers []string // --dns
	Search  []string // --dns-search; ".": none
	Options []string // --dns-option
	Own     bool     // the name server is the container's own
	Keep    bool     // --network host: the host's file as it is, but for the flags
	NoIPv6  bool     // servers with IPv6 addresses cannot be reached
}

// Text returns the file. ok is false if no server is left, which Own would cure.
func (r Resolv) Text() (text string, ok bool) {
	if r.Keep && len(r.Servers)+len(r.Search)+len(r.Options) == 0 {
		return r.Host, true
	}
	host := parseResolv(r.Host)
	servers, search, options := r.Servers, r.Search, r.Options
	if len(servers) == 0 {
		for _, s := range host.servers {
			a, err := netip.ParseAddr(s)
			if !r.Keep && (err != nil || a.IsLoopback() || a.Is6() && r.NoIPv6) {
				continue // cannot be reached from the container, or is nonsense
			}
			servers = append(servers, s)
		}
	}
	if r.Own {
		servers = []string{Resolver}
	}
	if len(search) == 0 {
		search = host.search
	}
	if len(search) == 1 && search[0] == "." {
		search = nil
	}
	if len(options) == 0 {
		options = host.options
	}
	if r.Own && !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		options = append(slices.Clone(options), "ndots:0")
	}
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	for _, l := range host.other {
		b.WriteString(l + "\n")
	}
	return b.String(), len(servers) > 0
}

// Ndots returns the value of the option, of the user's or the host's; -1 if
// nobody gave it.
func (r Resolv) Ndots() int {
	options := r.Options
	if len(options) == 0 {
		options = parseResolv(r.Host).options
	}
	for _, o := range options {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return -1
}

type resolvFile struct{ servers, search, options, other []string }

// parseResolv reads resolv.conf(5): the last search or domain counts.
func parseResolv(text string) resolvFile {
	var f resolvFile
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		fields := strings.Fields(l)
		if len(fields) == 0 || l[0] == '#' || l[0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) > 1 {
				f.servers = append(f.servers, fields[1])
			}
		case "search", "domain":
			f.search = fields[1:]
		case "options":
			f.options = append(f.options, fields[1:]...)
		default:
			f.other = append(f.other, l)
		}
	}
	return f
}
