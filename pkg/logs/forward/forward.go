// Package forward sends a container's output to a syslog server or to journald,
// line by line. It belongs to the monitor, so it imports next to nothing, and it
// never waits long: a server that does not answer costs a pause now and then and
// its lines, never the container.
//
// Sources: RFC 3164 and RFC 5424; https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
package forward

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

// Options say where lines go and what goes before them.
type Options struct {
	Net  string // "journald", or for syslog "udp", "tcp", "tcp+tls", "unix", "unixgram"
	Path string // of the socket, for journald, unix and unixgram
	IP   []byte // 4 or 16 bytes, for udp and tcp
	Port int
	// Dial returns the stream for tcp+tls. If wait, the server must have answered;
	// else it may do so later.
	Dial func(wait bool) (fd int, err error)

	Fields string // journald: the fields that each entry carries, as they are sent

	Format   string // syslog: "", "rfc3164", "rfc5424", "rfc5424micro"
	Facility int    // syslog: 0–23
	Tag      string // syslog
	Hostname string // syslog
}

const (
	patience = 200 * time.Millisecond // what one line may wait for the server
	first    = 5 * time.Second        // what the first connection may take
	pause    = 5 * time.Second        // between two tries to connect
)

// TLS is the Net of a syslog server behind TLS.
const TLS = "tcp+tls"

// Conn is where lines go. A line that cannot be sent is lost and counted.
type Conn struct {
	o     Options
	fd    int // -1: not connected
	tryAt time.Time
	buf   []byte
	Lost  int // lines that could not be sent
}

// Open connects. That it cannot be done is told here and only here.
func Open(o Options) (*Conn, error) {
	c := &Conn{o: o, fd: -1}
	if err := c.connect(first); err != nil {
		return nil, err
	}
	return c, nil
}

// Close closes the connection.
func (c *Conn) Close() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd) // each write has been checked
		c.fd = -1
	}
}

func (c *Conn) connect(limit time.Duration) error {
	if c.o.Net == TLS {
		fd, err := c.o.Dial(limit == first)
		if err == nil {
			setPatience(fd, patience)
			c.fd = fd
		}
		return err
	}
	var to syscall.Sockaddr
	family, kind := syscall.AF_UNIX, syscall.SOCK_DGRAM
	switch {
	case c.o.Path != "":
		to = &syscall.SockaddrUnix{Name: c.o.Path}
	case len(c.o.IP) == 4:
		family = syscall.AF_INET
		to = &syscall.SockaddrInet4{Port: c.o.Port, Addr: [4]byte(c.o.IP)}
	default:
		family = syscall.AF_INET6
		to = &syscall.SockaddrInet6{Port: c.o.Port, Addr: [16]byte(c.o.IP)}
	}
	if c.o.Net == "tcp" || c.o.Net == "unix" {
		kind = syscall.SOCK_STREAM
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	setPatience(fd, limit)
	if err := retry(func() error { return syscall.Connect(fd, to) }); err != nil {
		_ = syscall.Close(fd) // never used
		return os.NewSyscallError("connect", err)
	}
	setPatience(fd, patience)
	c.fd = fd
	return nil
}

// setPatience bounds how long connecting and sending may take.
func setPatience(fd int, d time.Duration) {
	tv := syscall.NsecToTimeval(int64(d))
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &tv) // cannot fail for a socket
}

// Send sends a line, without its newline, that was written to stderr or stdout at
// now. If not whole, the line goes on in the next call.
func (c *Conn) Send(line []byte, stderr bool, now time.Time, whole bool) {
	if len(line) == 0 && c.o.Net == "journald" {
		return // the journal has no empty messages
	}
	if c.o.Net == "journald" {
		c.buf = c.journal(c.buf[:0], line, stderr, whole)
	} else {
		c.buf = append(c.syslog(c.buf[:0], stderr, now), line...)
		c.buf = append(c.buf, '\n')
		if c.o.Net == TLS && c.o.Format != "" && c.o.Format != "rfc3164" {
			c.buf = counted(c.buf)
		}
	}
	if c.fd < 0 && now.Before(c.tryAt) {
		c.Lost++
		return
	}
	err := c.write()
	if err == nil {
		return
	}
	c.Close()
	if err != syscall.EAGAIN { //nolint:errorlint // a system call's own errno
		// The server may have been started again: once more, with a new connection.
		if c.connect(patience) == nil && c.write() == nil {
			return
		}
		c.Close()
	}
	c.tryAt = now.Add(pause)
	c.Lost++
}

// write sends what is in buf.
func (c *Conn) write() error {
	if c.fd < 0 {
		return syscall.ENOTCONN
	}
	for rest := c.buf; len(rest) > 0; {
		n := 0
		err := retry(func() (err error) {
			n, err = syscall.Write(c.fd, rest) // Go overlooks SIGPIPE
			return err
		})
		if err == syscall.EMSGSIZE { //nolint:errorlint // a system call's own errno
			return nil // longer than this server's messages: another connection would not help
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// counted puts the length before a message, as RFC 5425 wants it and as Docker sends
// it with the formats of RFC 5424 only.
func counted(b []byte) []byte {
	n := strconv.AppendInt(nil, int64(len(b)), 10)
	b = append(b, make([]byte, len(n)+1)...)
	copy(b[len(n)+1:], b)
	b[copy(b, n)] = ' '
	return b
}

// journal appends a message in journald's own form.
func (c *Conn) journal(b, line []byte, stderr, whole bool) []byte {
	b = append(b, c.o.Fields...)
	if stderr {
		b = append(b, "PRIORITY=3\n"...)
	} else {
		b = append(b, "PRIORITY=6\n"...)
	}
	if !whole {
		b = append(b, "CONTAINER_PARTIAL_MESSAGE=true\n"...)
	}
	return AppendField(b, "MESSAGE", string(line))
}

// AppendField appends a field as journald reads it: a value with a newline goes
// behind its length.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	for i := range len(value) {
		if value[i] != '\n' {
			continue
		}
		b = append(b, '\n')
		for n, k := uint64(len(value)), 0; k < 8; k++ {
			b = append(b, byte(n>>(8*k)))
		}
		b = append(b, value...)
		return append(b, '\n')
	}
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

// syslog appends what goes before a line.
func (c *Conn) syslog(b []byte, stderr bool, now time.Time) []byte {
	severity := 6
	if stderr {
		severity = 3
	}
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(c.o.Facility<<3|severity), 10)
	b = append(b, '>')
	switch c.o.Format {
	case "rfc5424", "rfc5424micro":
		layout := time.RFC3339
		if c.o.Format == "rfc5424micro" {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		b = append(b, "1 "...)
		b = now.AppendFormat(b, layout)
		b = c.word(b, c.o.Hostname)
		b = c.word(b, c.o.Tag)
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64(os.Getpid()), 10)
		b = c.word(b, c.o.Tag)
		return append(b, " - "...)
	case "rfc3164":
		b = now.AppendFormat(b, time.Stamp)
		b = c.word(b, c.o.Hostname)
	default:
		b = now.AppendFormat(b, time.Stamp)
	}
	b = c.word(b, c.o.Tag)
	b = append(b, '[')
	b = strconv.AppendInt(b, int64(os.Getpid()), 10)
	return append(b, "]: "...)
}

func (*Conn) word(b []byte, s string) []byte { return append(append(b, ' '), s...) }

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return err
		}
	}
}
