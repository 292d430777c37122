// Package netlink speaks netlink(7): messages as bytes, one socket, and what a
// container's network takes of rtnetlink. A monitor is made of it, so it imports
// next to nothing. Numbers are those of linux/netlink.h, rtnetlink.h, if_link.h.
package netlink

import (
	"os"
	"syscall"
	"unsafe"
)

// Message is a netlink message that is being written. Its errors are those of the
// kernel that reads it.
type Message struct {
	b    []byte
	open []int // where the attributes begin that are not closed yet
	what string
}

// New begins a message of type typ. what says for people what it asks for.
func New(what string, typ uint16, flags uint16) *Message {
	m := &Message{b: make([]byte, 16, 256), what: what}
	put16(m.b[4:], typ)
	put16(m.b[6:], flags|syscall.NLM_F_REQUEST)
	return m
}

// Raw appends a structure, padded to four bytes.
func (m *Message) Raw(b ...byte) *Message {
	m.b = append(m.b, b...)
	return m.pad()
}

func (m *Message) pad() *Message {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
	return m
}

// Attr appends an attribute with data v.
func (m *Message) Attr(typ uint16, v ...byte) *Message {
	n := 4 + len(v)
	m.b = append(m.b, byte(n), byte(n>>8), byte(typ), byte(typ>>8))
	m.b = append(m.b, v...)
	return m.pad()
}

// Text appends an attribute with a text, ended by NUL.
func (m *Message) Text(typ uint16, v string) *Message {
	n := 5 + len(v)
	m.b = append(m.b, byte(n), byte(n>>8), byte(typ), byte(typ>>8))
	m.b = append(append(m.b, v...), 0)
	return m.pad()
}

// U32 appends an attribute with a number in this machine's order.
func (m *Message) U32(typ uint16, v uint32) *Message {
	return m.Attr(typ, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}

// BE32 appends an attribute with a number in the network's order.
func (m *Message) BE32(typ uint16, v uint32) *Message {
	return m.Attr(typ, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// Begin opens a nest of attributes, for End.
func (m *Message) Begin(typ uint16) *Message {
	m.open = append(m.open, len(m.b))
	m.b = append(m.b, 0, 0, byte(typ), byte(typ>>8))
	return m
}

// Nest is Begin with the flag that newer protocols want.
func (m *Message) Nest(typ uint16) *Message { return m.Begin(typ | 1<<15) }

// End closes the nest that Begin opened last.
func (m *Message) End() *Message {
	at := m.open[len(m.open)-1]
	m.open = m.open[:len(m.open)-1]
	put16(m.b[at:], uint16(len(m.b)-at))
	return m
}

// Bytes returns the message as it is sent, without its number.
func (m *Message) Bytes() []byte {
	put32(m.b, uint32(len(m.b)))
	return m.b
}

func put16(b []byte, v uint16) { b[0], b[1] = byte(v), byte(v>>8) }
func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}
func get16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }
func get32(b []byte) uint32 { return uint32(get16(b)) | uint32(get16(b[2:]))<<16 }

// Error is a request that the kernel refused.
type Error struct {
	What  string
	Errno syscall.Errno
	Text  string // what the kernel adds in words; often empty
}

// Error says what was asked for and why it was refused.
func (e *Error) Error() string {
	if e.Text != "" {
		return e.What + ": " + e.Errno.Error() + " (" + e.Text + ")"
	}
	return e.What + ": " + e.Errno.Error()
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is reports whether err is the kernel's refusal with errno.
func Is(err error, errno syscall.Errno) bool {
	e, ok := err.(*Error) //nolint:errorlint // as Do returns it
	return ok && e.Errno == errno
}

// Conn is a netlink socket in the namespace of the thread that made it. It serves
// one thread at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// Families of netlink(7).
const (
	FamilyRoute     = 0
	FamilyNetfilter = 12
)

// Dial opens a socket in the calling thread's namespace.
func Dial(family int) (*Conn, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	const (
		solNetlink = 270
		extAck     = 11
		capAck     = 10
	)
	_ = syscall.SetsockoptInt(fd, solNetlink, extAck, 1) // words beside errors; older kernels have none
	_ = syscall.SetsockoptInt(fd, solNetlink, capAck, 1) // errors do not repeat the request
	return &Conn{fd: fd}, nil
}

// FD returns the socket.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket. What belongs to it goes with it.
func (c *Conn) Close() {
	if c != nil && c.fd >= 0 {
		_ = syscall.Close(c.fd) // nothing is pending
		c.fd = -1
	}
}

// Do sends messages in one packet and waits until the kernel has answered each. It
// returns the first error; the kernel tries the others nevertheless.
func (c *Conn) Do(messages ...*Message) error {
	first := c.seq + 1
	var out []byte
	for _, m := range messages {
		c.seq++
		b := m.Bytes()
		put16(b[6:], get16(b[6:])|syscall.NLM_F_ACK)
		put32(b[8:], c.seq)
		out = append(out, b...)
	}
	if err := c.send(out); err != nil {
		return err
	}
	var failed error
	for left := len(messages); left > 0; {
		err := c.receive(func(typ uint16, seq uint32, body []byte) {
			if typ != syscall.NLMSG_ERROR || seq-first >= uint32(len(messages)) {
				return
			}
			left--
			if e := refusal(body, messages[seq-first].what); e != nil && failed == nil {
				failed = e
			}
		})
		if err != nil {
			return err
		}
	}
	return failed
}

// Get sends a request and calls each with the body of every answer.
func (c *Conn) Get(m *Message, each func(typ uint16, body []byte)) error {
	c.seq++
	b := m.Bytes()
	put32(b[8:], c.seq)
	dump := get16(b[6:])&syscall.NLM_F_DUMP == syscall.NLM_F_DUMP
	if !dump {
		put16(b[6:], get16(b[6:])|syscall.NLM_F_ACK)
	}
	if err := c.send(b); err != nil {
		return err
	}
	var failed error
	for done := false; !done; {
		err := c.receive(func(typ uint16, seq uint32, body []byte) {
			switch {
			case seq != c.seq:
			case typ == syscall.NLMSG_ERROR:
				done = true
				if e := refusal(body, m.what); e != nil {
					failed = e
				}
			case typ == syscall.NLMSG_DONE:
				done = true
			default:
				each(typ, body)
			}
		})
		if err != nil {
			return err
		}
	}
	return failed
}

// Batch sends messages between a begin and an end of nfnetlink, all or none of
// which take effect.
func (c *Conn) Batch(messages ...*Message) error {
	if len(messages) == 0 {
		return nil
	}
	const begin, end, subsys = 16, 17, 10 // NFNL_MSG_BATCH_BEGIN, _END, NFNL_SUBSYS_NFTABLES
	edge := func(typ uint16) *Message {
		return New("nftables", typ, 0).Raw(0, 0, subsys>>8, subsys)
	}
	first := c.seq + 1
	var out []byte
	add := func(m *Message, flags uint16) {
		c.seq++
		b := m.Bytes()
		put16(b[6:], get16(b[6:])|flags)
		put32(b[8:], c.seq)
		out = append(out, b...)
	}
	add(edge(begin), 0)
	for _, m := range messages {
		add(m, syscall.NLM_F_ACK)
	}
	add(edge(end), 0)
	if err := c.send(out); err != nil {
		return err
	}
	var failed error
	for left := len(messages); left > 0; {
		err := c.receive(func(typ uint16, seq uint32, body []byte) {
			if typ != syscall.NLMSG_ERROR || seq-first > uint32(len(messages))+1 {
				return
			}
			i := int(seq-first) - 1
			what := "nftables"
			if i >= 0 && i < len(messages) {
				what = messages[i].what
				left--
			}
			if e := refusal(body, what); e != nil {
				if failed == nil {
					failed = e
				}
				if i < 0 || i >= len(messages) {
					left = 0 // the batch as a whole
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return failed
}

// refusal turns the body of an NLMSG_ERROR into an error, or nil.
func refusal(body []byte, what string) error {
	if len(body) < 4 {
		return &Error{What: what, Errno: syscall.EBADMSG}
	}
	code := int32(get32(body))
	if code == 0 {
		return nil
	}
	e := &Error{What: what, Errno: syscall.Errno(-code)}
	if len(body) >= 20 {
		Attributes(body[20:], func(typ uint16, v []byte) {
			if typ == 1 && len(v) > 1 { // NLMSGERR_ATTR_MSG
				e.Text = string(v[:len(v)-1])
			}
		})
	}
	return e
}

func (c *Conn) send(b []byte) error {
	// The buffer for a big batch: one container's rules are 4 kB.
	if len(b) > 100<<10 {
		_ = syscall.SetsockoptInt(c.fd, syscall.SOL_SOCKET, 32, 2*len(b)) // SO_SNDBUFFORCE; the send tells
		_ = syscall.SetsockoptInt(c.fd, syscall.SOL_SOCKET, 33, 2*len(b)) // SO_RCVBUFFORCE
	}
	for {
		err := syscall.Sendto(c.fd, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK})
		if err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return os.NewSyscallError("sendto(AF_NETLINK)", err)
		}
	}
}

// receive reads one packet and calls each with its messages.
func (c *Conn) receive(each func(typ uint16, seq uint32, body []byte)) error {
	if c.buf == nil {
		c.buf = make([]byte, 32<<10)
	}
	n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(&c.buf[0])), uintptr(len(c.buf)), 0, 0, 0)
	if errno == syscall.EINTR {
		return nil
	}
	if errno != 0 {
		return os.NewSyscallError("recvfrom(AF_NETLINK)", errno)
	}
	Messages(c.buf[:n], each)
	return nil
}

// Messages calls each with the messages in a packet.
func Messages(b []byte, each func(typ uint16, seq uint32, body []byte)) {
	for len(b) >= 16 {
		n := int(get32(b))
		if n < 16 || n > len(b) {
			return
		}
		each(get16(b[4:]), get32(b[8:]), b[16:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// Attributes calls each with the attributes in b, without the flags of their type.
func Attributes(b []byte, each func(typ uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(get16(b))
		if n < 4 || n > len(b) {
			return
		}
		each(get16(b[2:])&0x3fff, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}
