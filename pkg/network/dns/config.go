// Package dns is the name server of one container, at 127.0.0.11 in its network
// namespace: it answers for the containers of its networks and asks this
// machine's servers about everything else. It lives in the container's monitor and
// imports next to nothing.
//
// What it is sent is hostile, by a container and by servers alike: every message
// is read with its bounds checked, names are never followed in circles, and what
// is forwarded is not decoded.
package dns

// Config is what the name server knows beside the endpoints' files.
type Config struct {
	Dir    string // of the endpoints' files
	Resolv string // this machine's resolv.conf; its servers are asked

	Networks []Network
	Links    []Link   // names that only this container knows
	Servers  [][]byte // asked instead of this machine's, from the container's side: 4 or 16 bytes each

	NoForward bool // all networks are internal: nobody else is asked
	NoSingle  bool // names without a dot are not asked elsewhere: the user has set ndots
}

// Network is a network that the container is in.
type Network struct{ ID, Name string }

// Link is another name of a container.
type Link struct {
	Alias  string
	Target string // the container's name or id
}

// version is the first byte of a marshalled config. A config grows at its end: a
// reader takes what is missing as zero.
const version = 1

// Marshal returns c as [Unmarshal] reads it.
func (c *Config) Marshal() []byte {
	b := []byte{version}
	b = putString(b, c.Dir)
	b = putString(b, c.Resolv)
	b = putLen(b, len(c.Networks))
	for _, n := range c.Networks {
		b = putString(putString(b, n.ID), n.Name)
	}
	b = putLen(b, len(c.Links))
	for _, l := range c.Links {
		b = putString(putString(b, l.Alias), l.Target)
	}
	b = putLen(b, len(c.Servers))
	for _, s := range c.Servers {
		b = putString(b, string(s))
	}
	var flags byte
	if c.NoForward {
		flags |= 1
	}
	if c.NoSingle {
		flags |= 2
	}
	return append(b, flags)
}

func putLen(b []byte, n int) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}

func putString(b []byte, s string) []byte { return append(putLen(b, len(s)), s...) }

// Unmarshal reads a config. ok is false if it is cut off, or another version's.
func Unmarshal(b []byte) (c Config, ok bool) {
	if len(b) == 0 || b[0] != version {
		return c, false
	}
	r := reader{b: b[1:]}
	c.Dir, c.Resolv = r.string(), r.string()
	for range r.count() {
		c.Networks = append(c.Networks, Network{r.string(), r.string()})
	}
	for range r.count() {
		c.Links = append(c.Links, Link{r.string(), r.string()})
	}
	for range r.count() {
		c.Servers = append(c.Servers, []byte(r.string()))
	}
	if len(r.b) > 0 {
		c.NoForward, c.NoSingle = r.b[0]&1 != 0, r.b[0]&2 != 0
	}
	return c, !r.bad
}

type reader struct {
	b   []byte
	bad bool
}

func (r *reader) len() int {
	if len(r.b) < 4 {
		r.bad, r.b = true, nil
		return 0
	}
	n := int(r.b[0]) | int(r.b[1])<<8 | int(r.b[2])<<16 | int(r.b[3])<<24
	r.b = r.b[4:]
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

// count is a number of elements, of which each takes four bytes at least.
func (r *reader) count() int {
	n := r.len()
	if n > len(r.b)/4 {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

func (r *reader) string() string {
	n := r.len()
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
