// Package dbus is as much of D-Bus as it takes to call a method and to read its
// answer: of systemd, by a socket of its own, and of services on the message bus.
// The D-Bus specification, little-endian throughout.
package dbus

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Body is the arguments of a call while they are written.
type Body []byte

// Align fills up to a multiple of n bytes.
func (b *Body) Align(n int) {
	for len(*b)%n != 0 {
		*b = append(*b, 0)
	}
}

// Uint32 writes a number, or a boolean.
func (b *Body) Uint32(v uint32) {
	b.Align(4)
	*b = binary.LittleEndian.AppendUint32(*b, v)
}

// Text writes a string, or an object's path.
func (b *Body) Text(s string) {
	b.Uint32(uint32(len(s)))
	*b = append(append(*b, s...), 0)
}

// Signature writes the name of a type.
func (b *Body) Signature(s string) { *b = append(append(append(*b, byte(len(s))), s...), 0) }

// Array writes the elements that fill writes, each aligned to align.
func (b *Body) Array(align int, fill func()) {
	b.Uint32(0)
	at := len(*b) - 4
	b.Align(align)
	start := len(*b)
	fill()
	binary.LittleEndian.PutUint32((*b)[at:], uint32(len(*b)-start))
}

// Call is a method's call.
type Call struct {
	To, Path, Interface, Member string
	Signature                   string // the types of what Body has
	Body                        Body
}

func (c *Call) message(serial uint32) []byte {
	m := Body{'l', 1, 0, 1} // a method call
	m.Uint32(uint32(len(c.Body)))
	m.Uint32(serial)
	m.Array(8, func() {
		for _, f := range []struct {
			code        byte
			kind, value string
		}{{1, "o", c.Path}, {2, "s", c.Interface}, {3, "s", c.Member}, {6, "s", c.To}} {
			m.Align(8)
			m = append(m, f.code)
			m.Signature(f.kind)
			m.Text(f.value)
		}
		m.Align(8)
		m = append(m, 8)
		m.Signature("g")
		m.Signature(c.Signature)
	})
	m.Align(8)
	return append(m, c.Body...)
}

// Conn is a connection on which one call is made after the other.
type Conn struct {
	conn   net.Conn
	r      *bufio.Reader
	serial uint32
	free   func() bool // of ctx
}

// Dial connects with the socket at path, as who this process is. The connection ends
// with ctx: who is there may never answer.
func Dial(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn, r: bufio.NewReader(conn)}
	c.free = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // long ago: what waits, ends
	if err := c.begin(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) begin() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := c.conn.Write([]byte("\x00AUTH EXTERNAL " + uid + "\r\n")); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil || !strings.HasPrefix(string(line), "OK ") {
		return errors.Join(err, fmt.Errorf("D-Bus does not let us in: %q", line))
	}
	_, err = c.conn.Write([]byte("BEGIN\r\n"))
	return err
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.free()
	return c.conn.Close()
}

// Do makes a call and returns what its answer has.
func (c *Conn) Do(call Call) ([]byte, error) {
	c.serial++
	if _, err := c.conn.Write(call.message(c.serial)); err != nil {
		return nil, err
	}
	for {
		kind, body, err := receive(c.r)
		switch {
		case err != nil:
			return nil, err
		case kind == 3:
			return nil, errors.New(Text(body))
		case kind == 2:
			return body, nil
		} // a signal
	}
}

// receive reads one message.
func receive(r io.Reader) (kind byte, body []byte, err error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size, fields := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
	if head[0] != 'l' || size > 1<<18 || fields > 1<<18 {
		return 0, nil, errors.New("D-Bus answers in an unknown way")
	}
	rest := make([]byte, (fields+7)/8*8+size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return 0, nil, err
	}
	return head[1], rest[uint32(len(rest))-size:], nil
}

// Text is the string that an answer begins with; "" if it does not.
func Text(body []byte) string {
	if len(body) < 4 {
		return ""
	}
	n := binary.LittleEndian.Uint32(body)
	if uint64(n)+4 > uint64(len(body)) {
		return ""
	}
	return string(body[4 : 4+n])
}
