package dns

import (
	"strconv"
	"syscall"
	"time"
)

// zone is what the endpoints' files say of the container's networks. It is read
// again when the directory has changed, which a query looks for: there is nothing
// to wake up a monitor when others come and go, and no limited number of watches.
type zone struct {
	config Config
	read   time.Time        // when; zero: never
	stamp  syscall.Timespec // of the directory then
	hosts  []host
	buf    []byte
}

// host is an endpoint.
type host struct {
	path    string // of its file, whose lock says that it lives
	network string // its id
	owner   string // the container's id
	name    string // in lower case, as all names are
	names   []string
	ip4     []byte
	ip6     []byte
}

// settled is how long a directory must have been as it is before its time stamp
// tells all changes apart: the clock of a file system is coarse.
const settled = 50 * time.Millisecond

// One buffer is for a directory's entries, the other for a file: some hundred
// names.
const dirBuf, fileBuf = 8 << 10, 16 << 10

// refresh reads the files if they have changed.
func (z *zone) refresh(now time.Time) {
	if len(z.config.Networks) == 0 {
		return
	}
	var st syscall.Stat_t
	if syscall.Stat(z.config.Dir, &st) != nil {
		z.hosts, z.read = nil, time.Time{}
		return
	}
	if !z.read.IsZero() && st.Mtim == z.stamp && z.read.Sub(time.Unix(st.Mtim.Sec, st.Mtim.Nsec)) > settled {
		return
	}
	z.read, z.stamp = now, st.Mtim
	z.hosts = z.hosts[:0]
	fd, err := syscall.Open(z.config.Dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	if z.buf == nil {
		z.buf = make([]byte, dirBuf+fileBuf)
	}
	for {
		n, err := syscall.ReadDirent(fd, z.buf[:dirBuf])
		if err != nil || n <= 0 {
			break
		}
		_, _, names := syscall.ParseDirent(z.buf[:n], -1, nil)
		for _, name := range names {
			if id := z.networkOf(name); id != "" {
				z.add(z.config.Dir+"/"+name, id)
			}
		}
	}
	_ = syscall.Close(fd) // only read
}

// networkOf returns the network whose endpoint has this file's name, if it is one
// of the container's.
func (z *zone) networkOf(name string) string {
	for _, n := range z.config.Networks {
		if _, ok := cutSuffix(name, "-"+n.ID+".json"); ok && name[0] != '.' {
			return n.ID
		}
	}
	return ""
}

// add reads one file.
func (z *zone) add(path, network string) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	b := z.buf[dirBuf:]
	n, err := syscall.Read(fd, b)
	_ = syscall.Close(fd) // only read
	if err != nil || n <= 0 {
		return
	}
	h := host{path: path, network: network}
	if h.parse(b[:n]) {
		z.hosts = append(z.hosts, h)
	}
}

// alive reports whether the endpoint's monitor still holds its file.
func (h *host) alive() bool {
	fd, err := syscall.Open(h.path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	err = syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB)
	_ = syscall.Close(fd) // and with it the lock, if we got it
	return err == syscall.EWOULDBLOCK
}

// lookup returns the living endpoints that name means: a private alias, a name on
// one of the networks, or NAME.NETWORK.
func (z *zone) lookup(name string) []*host {
	for _, l := range z.config.Links {
		if lower(l.Alias) == name {
			if found := z.find(lower(l.Target), "", true); len(found) > 0 {
				return found
			}
		}
	}
	if found := z.find(name, "", false); len(found) > 0 {
		return found
	}
	for _, n := range z.config.Networks {
		if rest, ok := cutSuffix(name, "."+lower(n.Name)); ok {
			if found := z.find(rest, n.ID, false); len(found) > 0 {
				return found
			}
		}
	}
	return nil
}

func (z *zone) find(name, network string, target bool) []*host {
	var found []*host
	for i := range z.hosts {
		h := &z.hosts[i]
		if network != "" && h.network != network || !h.is(name, target) || !h.alive() {
			continue
		}
		found = append(found, h)
	}
	return found
}

// is reports whether the endpoint is known by name; a link's target may also be
// the beginning of an id.
func (h *host) is(name string, target bool) bool {
	for _, n := range h.names {
		if n == name {
			return true
		}
	}
	return target && (h.name == name || len(name) >= 4 && len(h.owner) >= len(name) && h.owner[:len(name)] == name)
}

// who returns the name of the endpoint with this address, with its network's; ""
// if there is none.
func (z *zone) who(ip []byte) string {
	for i := range z.hosts {
		h := &z.hosts[i]
		if (string(h.ip4) != string(ip) && string(h.ip6) != string(ip)) || !h.alive() {
			continue
		}
		for _, n := range z.config.Networks {
			if n.ID == h.network {
				return h.name + "." + n.Name
			}
		}
	}
	return ""
}

// parse reads what this program wrote, the JSON of network.Endpoint: a flat object
// of strings, numbers and lists of strings.
func (h *host) parse(b []byte) bool {
	r := jsonReader{b: b}
	ok := r.object(func(key string) {
		switch key {
		case "container":
			h.owner = r.text()
		case "name":
			h.name = lower(r.text())
		case "names":
			r.list(func() { h.names = append(h.names, lower(r.text())) })
		case "ip":
			if ip := parseIP(r.text()); len(ip) == 4 {
				h.ip4 = ip
			}
		case "ip6":
			if ip := parseIP(r.text()); len(ip) == 16 {
				h.ip6 = ip
			}
		default:
			r.skip()
		}
	})
	return ok && h.name != "" && (h.ip4 != nil || h.ip6 != nil)
}

// jsonReader reads a flat JSON object.
type jsonReader struct {
	b   []byte
	bad bool
}

func (r *jsonReader) next() byte {
	for len(r.b) > 0 && (r.b[0] == ' ' || r.b[0] == '\n' || r.b[0] == '\t' || r.b[0] == '\r') {
		r.b = r.b[1:]
	}
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	return r.b[0]
}

func (r *jsonReader) take(c byte) bool {
	if r.bad || r.next() != c {
		return false
	}
	r.b = r.b[1:]
	return true
}

func (r *jsonReader) object(field func(key string)) bool {
	if !r.take('{') {
		return false
	}
	for !r.bad && !r.take('}') {
		key := r.text()
		if !r.take(':') {
			return false
		}
		field(key)
		if !r.take(',') && (r.bad || r.next() != '}') {
			return false
		}
	}
	return !r.bad
}

func (r *jsonReader) list(element func()) {
	if !r.take('[') {
		r.skip() // null
		return
	}
	for !r.bad && !r.take(']') {
		element()
		if !r.take(',') && (r.bad || r.next() != ']') {
			r.bad = true
		}
	}
}

func (r *jsonReader) text() string {
	if !r.take('"') {
		r.bad = true
		return ""
	}
	var out []byte
	for {
		if len(r.b) == 0 {
			r.bad = true
			return ""
		}
		c := r.b[0]
		r.b = r.b[1:]
		switch {
		case c == '"':
			return string(out)
		case c != '\\':
			out = append(out, c)
			continue
		case len(r.b) == 0:
			r.bad = true
			return ""
		}
		c = r.b[0]
		r.b = r.b[1:]
		switch c {
		case 'n':
			c = '\n'
		case 't':
			c = '\t'
		case 'u': // of a name that no question can spell; it need only not be lost count of
			if len(r.b) < 4 {
				r.bad = true
				return ""
			}
			v, err := strconv.ParseUint(string(r.b[:4]), 16, 16)
			if err != nil {
				r.bad = true
				return ""
			}
			r.b = r.b[4:]
			if c = byte(v); v > 0x7e {
				c = 1
			}
		}
		out = append(out, c)
	}
}

// skip passes over a value.
func (r *jsonReader) skip() {
	switch r.next() {
	case '"':
		r.text()
	case '[':
		r.list(r.skip)
	case '{':
		r.object(func(string) { r.skip() })
	default:
		n := 0
		for n < len(r.b) && r.b[n] != ',' && r.b[n] != '}' && r.b[n] != ']' {
			n++
		}
		if n == 0 {
			r.bad = true
		}
		r.b = r.b[n:]
	}
}

// parseIP reads an address as package netip writes it; nil if it is none.
func parseIP(s string) []byte {
	for i := range len(s) {
		if s[i] == ':' {
			return parseIP6(s)
		}
	}
	var ip [4]byte
	n, digits, v := 0, 0, 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			if digits == 0 || v > 255 || n > 3 {
				return nil
			}
			ip[n] = byte(v)
			n, digits, v = n+1, 0, 0
			continue
		}
		if s[i] < '0' || s[i] > '9' || digits == 3 {
			return nil
		}
		v, digits = 10*v+int(s[i]-'0'), digits+1
	}
	if n != 4 {
		return nil
	}
	return ip[:]
}

func parseIP6(s string) []byte {
	var head, tail []byte
	gap := false
	part := &head
	for len(s) > 0 {
		if len(s) >= 2 && s[:2] == "::" {
			if gap {
				return nil
			}
			gap, part, s = true, &tail, s[2:]
			continue
		}
		if s[0] == ':' {
			s = s[1:]
		}
		end, dots := 0, false
		for end < len(s) && s[end] != ':' {
			dots = dots || s[end] == '.'
			end++
		}
		if dots {
			ip4 := parseIP(s[:end])
			if len(ip4) != 4 || end != len(s) {
				return nil
			}
			*part = append(*part, ip4...)
			break
		}
		v, err := strconv.ParseUint(s[:end], 16, 16)
		if err != nil || len(*part) > 14 {
			return nil
		}
		*part = append(*part, byte(v>>8), byte(v))
		s = s[end:]
	}
	n := len(head) + len(tail)
	if n > 16 || !gap && n != 16 || gap && n == 16 {
		return nil
	}
	ip := make([]byte, 16)
	copy(ip, head)
	copy(ip[16-len(tail):], tail)
	return ip
}
