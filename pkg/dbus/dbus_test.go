package dbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMessageIsWellFormed(t *testing.T) {
	c := Call{To: "a.b", Path: "/a/b", Interface: "a.b.C", Member: "Do", Signature: "s"}
	c.Body.Text("hello")
	m := c.message(7)
	size, fields := int(binary.LittleEndian.Uint32(m[4:])), int(binary.LittleEndian.Uint32(m[12:]))
	if start := (16 + fields + 7) / 8 * 8; start+size != len(m) || Text(m[start:]) != "hello" {
		t.Errorf("fields %d, body %d, all %d: %q", fields, size, len(m), m)
	}
	for _, want := range []string{"\x01\x01o\x00\x04\x00\x00\x00/a/b\x00", "\x06\x01s\x00\x03\x00\x00\x00a.b\x00", "\x08\x01g\x00\x01s\x00"} {
		if !strings.Contains(string(m), want) {
			t.Errorf("%q is not in %q", want, m)
		}
	}
}

// A service that sends a signal before each answer, of which the second is an error.
func TestDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		_, _ = conn.Read(buf)
		_, _ = conn.Write([]byte("OK 0123\r\n"))
		_, _ = io.ReadFull(conn, buf[:len("BEGIN\r\n")])
		for _, answer := range []struct {
			kind byte
			text string
		}{{2, "fine"}, {3, "no such slice"}} {
			_, _ = conn.Read(buf)
			var body Body
			body.Text(answer.text)
			for _, kind := range []byte{4, answer.kind} {
				m := Body{'l', kind, 0, 1}
				m.Uint32(uint32(len(body)))
				m.Uint32(7)
				m.Array(8, func() { m.Align(8); m = append(m, 5); m.Signature("u"); m.Uint32(1) })
				m.Align(8)
				_, _ = conn.Write(append(m, body...))
			}
		}
		_, _ = conn.Read(buf)
		_, _ = conn.Write([]byte("HTTP/1.1 400 no\r\n\r\n"))
	}()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if body, err := c.Do(Call{Member: "X"}); err != nil || Text(body) != "fine" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := c.Do(Call{Member: "X"}); err == nil || err.Error() != "no such slice" {
		t.Errorf("an error: %v", err)
	}
	if _, err := c.Do(Call{Member: "X"}); err == nil {
		t.Error("garbage is taken for an answer")
	}
}

// Who waits for a bus that says nothing, or only what nobody asked for, can stop.
func TestBusThatNeverAnswers(t *testing.T) {
	for name, say := range map[string]string{"at first": "", "later": "OK 0\r\n", "but signals": "OK 0\r\n" + "l\x04\x00\x01" + strings.Repeat("\x00", 12)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Write([]byte(say))
				buf := make([]byte, 1<<10)
				_, _ = conn.Read(buf) // it has asked
				cancel()
				_, _ = io.Copy(io.Discard, conn)
			}()
			c, err := Dial(ctx, path)
			if err == nil {
				defer c.Close()
				_, err = c.Do(Call{Member: "X"})
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v, want that it ended", err)
			}
		})
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"": "", "\x01": "", "\xff\xff\xff\xffabc": "", "\x02\x00\x00\x00ab\x00": "ab"} {
		if got := Text([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzReceive reads what a bus may say: it ends, and takes no more than it may.
func FuzzReceive(f *testing.F) {
	call := Call{To: "a", Path: "/", Interface: "a", Member: "b", Signature: "s"}
	call.Body.Text("text")
	f.Add([]byte(call.message(1)))
	f.Add([]byte("l\x03\x00\x01\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xffabcd"))
	f.Add([]byte("l\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			_, body, err := receive(r)
			if err != nil {
				return
			}
			if len(body) > len(b) || len(Text(body)) > max(0, len(body)-4) {
				t.Fatalf("%d bytes and a text of %d, of %d", len(body), len(Text(body)), len(b))
			}
		}
	})
}
