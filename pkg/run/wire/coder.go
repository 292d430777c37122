package wire

import "cais.dev/cais/pkg/errs"

// Marshal returns m as a packet, or, for a Job, as the content of a memfd.
func Marshal(m Message) []byte {
	c := coder{b: make([]byte, 0, 256)}
	c.b = append(c.b, byte(m.Kind()), Needs)
	m.fields(&c)
	return c.b
}

// Unmarshal fills m from packet p, which must be of m's kind. Byte slices in m
// share p's memory.
func Unmarshal(p []byte, m Message) error {
	switch {
	case len(p) < 2 || Kind(p[0]) != m.Kind():
		return errs.New(errs.Internal, "wire: not the message that was expected")
	case p[1] == 0 || p[1] > Version:
		return &errs.Error{
			Kind: errs.Unsupported,
			Hint: "The container was started by another version of cais: restart it to use this one.",
			Err:  errVersion{},
		}
	}
	c := coder{b: p[2:], reading: true}
	m.fields(&c)
	if c.bad {
		return errs.New(errs.Internal, "wire: a message is cut off")
	}
	return nil
}

// KindOf returns the kind of packet p; 0 if it is empty.
func KindOf(p []byte) Kind {
	if len(p) == 0 {
		return 0
	}
	return Kind(p[0])
}

type errVersion struct{}

func (errVersion) Error() string { return "wire: the peer speaks another version" }

// coder appends fields to b or, if reading, takes them off its front. One visit
// of the fields serves both, so that the two cannot drift apart.
type coder struct {
	b       []byte
	reading bool
	bad     bool // a field was cut off
}

// take returns the next n bytes; nil at the end of the message, where fields
// that an older peer does not know are missing, and when it is cut off.
func (c *coder) take(n int) []byte {
	if len(c.b) == 0 {
		return nil
	}
	if n > len(c.b) {
		c.bad = true
		c.b = nil
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

// num codes *v in size bytes, the lowest first.
func (c *coder) num(v *uint64, size int) {
	if !c.reading {
		for i := range size {
			c.b = append(c.b, byte(*v>>(8*i)))
		}
		return
	}
	*v = 0
	for i, b := range c.take(size) {
		*v |= uint64(b) << (8 * i)
	}
}

func (c *coder) u8(p *uint8) {
	v := uint64(*p)
	c.num(&v, 1)
	*p = uint8(v)
}

func (c *coder) u16(p *uint16) {
	v := uint64(*p)
	c.num(&v, 2)
	*p = uint16(v)
}

func (c *coder) i64(p *int64) {
	v := uint64(*p)
	c.num(&v, 8)
	*p = int64(v)
}

func (c *coder) int(p *int) {
	v := uint64(int64(*p))
	c.num(&v, 8)
	*p = int(int64(v))
}

func (c *coder) flag(p *bool) {
	var v uint64
	if *p {
		v = 1
	}
	c.num(&v, 1)
	*p = v != 0
}

func (c *coder) bytes(p *[]byte) {
	n := uint64(len(*p))
	c.num(&n, 4)
	if !c.reading {
		c.b = append(c.b, *p...)
		return
	}
	*p = nil
	if n == 0 {
		return
	}
	if n > uint64(len(c.b)) { // also when nothing is left: the length promised something
		c.bad = true
		c.b = nil
		return
	}
	*p = c.take(int(n))
}

func (c *coder) str(p *string) {
	if !c.reading {
		n := uint64(len(*p))
		c.num(&n, 4)
		c.b = append(c.b, *p...)
		return
	}
	var b []byte
	c.bytes(&b)
	*p = string(b)
}

func (c *coder) strs(p *[]string) {
	n := uint64(len(*p))
	c.num(&n, 4)
	if !c.reading {
		for i := range *p {
			c.str(&(*p)[i])
		}
		return
	}
	*p = nil
	if n > uint64(len(c.b)/4) { // each has a length of 4 bytes: no allocation beyond the message's size
		c.bad = true
		c.b = nil
		return
	}
	if n > 0 {
		*p = make([]string, n)
	}
	for i := range *p {
		c.str(&(*p)[i])
	}
}
