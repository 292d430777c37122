package logs

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// TLS is a syslog server behind TLS. A monitor does not link that: a process of its
// own has the connection, and sends the lines that package forward makes.
type TLS struct {
	Address    string // host:port
	CA         string // file; empty: the machine's certificates
	Cert, Key  string // files; empty: the server asks for none
	SkipVerify bool
}

// Config reads the files.
func (t TLS) Config() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(t.Address)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: host, InsecureSkipVerify: t.SkipVerify, MinVersion: tls.VersionTLS12} //nolint:gosec // the user asks for it
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate %q: %w", t.CA, err)
		}
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			c.RootCAs = x509.NewCertPool() // a machine without any
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", t.CA)
		}
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("could not load X509 key pair (is the key encrypted?): %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

const (
	tlsPatience = 5 * time.Second // for connecting, and for sending a line
	tlsPause    = 5 * time.Second // between two tries to connect
)

// Relay connects and says so on s, by an empty line or one that tells what went
// wrong. Then it sends each line that it reads from s, until that ends. Lines that
// come while the server is away are lost, as with the other transports.
func (t TLS) Relay(ctx context.Context, s io.ReadWriter) error {
	config, err := t.Config()
	r := &relay{address: t.Address, config: config}
	if err == nil {
		err = r.connect(ctx)
	}
	if err != nil {
		_, werr := fmt.Fprintln(s, err)
		return werr
	}
	defer r.close()
	if _, err := fmt.Fprintln(s); err != nil {
		return err
	}
	for in := bufio.NewReaderSize(s, 64<<10); ; { // longer than any line
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.send(ctx, line)
	}
}

// relay is a connection that is made again when it breaks.
type relay struct {
	address string
	config  *tls.Config
	conn    net.Conn // nil: none
	tryAt   time.Time
}

func (r *relay) connect(ctx context.Context) error {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: tlsPatience}, Config: r.config}
	conn, err := d.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return err
	}
	r.conn = conn
	// A server says nothing but that it goes: then the next line finds the
	// connection closed, rather than being lost in it.
	go func() {
		_, _ = io.Copy(io.Discard, conn) // its end is what is waited for
		_ = conn.Close()                 // the next write tells
	}()
	return nil
}

// send sends a line: once more, with a new connection, if the old one is broken.
func (r *relay) send(ctx context.Context, line []byte) {
	for range 2 {
		if r.conn == nil {
			if time.Now().Before(r.tryAt) {
				return
			}
			if r.connect(ctx) != nil {
				r.tryAt = time.Now().Add(tlsPause)
				return
			}
		}
		_ = r.conn.SetWriteDeadline(time.Now().Add(tlsPatience)) // the write tells
		if _, err := r.conn.Write(line); err == nil {
			return
		}
		r.close()
	}
}

func (r *relay) close() {
	if r.conn != nil {
		_ = r.conn.Close() // each write has been checked
		r.conn = nil
	}
}
