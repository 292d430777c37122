package logs

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// server is a syslog server behind TLS, and the file with its certificate.
func server(t *testing.T, address string) (net.Listener, string) {
	t.Helper()
	h := httptest.NewUnstartedServer(nil)
	h.StartTLS() // for its certificate, which is of 127.0.0.1
	h.Close()
	l, err := tls.Listen("tcp", address, &tls.Config{Certificates: h.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return l, file
}

// accept takes a connection, and shakes hands.
func accept(t *testing.T, l net.Listener) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.(*tls.Conn).Handshake(); err != nil { //nolint:forcetypeassert // a listener of package tls
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func TestRelay(t *testing.T) {
	l, ca := server(t, "127.0.0.1:0")
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- TLS{Address: l.Addr().String(), CA: ca}.Relay(t.Context(), theirs)
	}()
	expect := func(from *bufio.Reader, want string) {
		t.Helper()
		if got, err := from.ReadString('\n'); err != nil || got != want {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	}
	say := func(text string) {
		t.Helper()
		if _, err := ours.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	conn, lines := accept(t, l)
	expect(bufio.NewReader(ours), "\n")
	say("one\ntwo\nthr")
	expect(lines, "one\n")
	expect(lines, "two\n")
	say("ee\n")
	expect(lines, "three\n")

	// The server starts again: what comes then, arrives there, and whole lines only.
	if err := conn.(*tls.Conn).CloseWrite(); err != nil { //nolint:forcetypeassert // a listener of package tls
		t.Fatal(err)
	}
	if rest, err := lines.ReadString('\n'); !errors.Is(err, io.EOF) { // now the relay has seen it
		t.Fatalf("%q %v", rest, err)
	}
	_ = conn.Close()
	say("four\n")
	_, lines = accept(t, l)
	expect(lines, "four\n")
	say("five\nhalf a li")
	_ = ours.Close()
	expect(lines, "five\n")
	if rest, err := lines.ReadString('\n'); rest != "" {
		t.Errorf("%q %v came behind the end", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRelayRefuses: what is wrong is said, in one line.
func TestRelayRefuses(t *testing.T) {
	l, ca := server(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() //nolint:forcetypeassert // it fails, as it shall
			_ = c.Close()
		}
	}()
	address := l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	for want, job := range map[string]TLS{
		"failed to verify certificate": {Address: address},
		"not localhost":                {Address: "localhost:" + port, CA: ca},
		"no such file":                 {Address: address, CA: ca + "x"},
		"no certificate in it":         {Address: address, CA: "/dev/null"},
		"failed to find any PEM data":  {Address: address, CA: ca, Cert: "/dev/null", Key: "/dev/null"},
		"connection refused":           {Address: "127.0.0.1:1", CA: ca},
		"missing port in address":      {Address: "127.0.0.1"},
	} {
		var said strings.Builder
		err := job.Relay(t.Context(), struct {
			*strings.Reader
			*strings.Builder
		}{strings.NewReader(""), &said})
		if text := said.String(); err != nil || !strings.Contains(text, want) || strings.Count(text, "\n") != 1 {
			t.Errorf("%q %v, want %s", text, err, want)
		}
	}
	var said strings.Builder
	if err := (TLS{Address: address, SkipVerify: true}).Relay(t.Context(), struct {
		*strings.Reader
		*strings.Builder
	}{strings.NewReader(""), &said}); err != nil || said.String() != "\n" {
		t.Errorf("unverified: %q %v", said.String(), err)
	}
}
