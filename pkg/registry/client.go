// Package registry gets images from registries: the one edge to the network. It
// knows transports, credentials, mirrors, retries and rate limits, and verifies
// what it returns. Authentication is go-containerregistry's, whose own retries
// are not used: [retrier] is the only one.
package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Options say how registries are reached. The zero value is a plain anonymous
// client.
type Options struct {
	// Endpoints returns where a repository is, mirrors first: usually
	// [config.Registries.Endpoints]. nil: where its name says.
	Endpoints func(name string, byDigest bool) ([]config.Endpoint, error)
	// Credentials returns those for a repository: usually
	// [config.AuthSource.Find]. nil: none.
	Credentials func(ctx context.Context, name string) (config.Credentials, error)
	// Certs returns a registry's certificates: usually [config.ReadCerts]. nil:
	// none.
	Certs func(host string) (config.Certs, error)
	// TLSVerify overrides what is known of each registry: --tls-verify.
	TLSVerify *bool
	UserAgent string       // "cais/1.0"; empty: "cais"
	Log       *slog.Logger // nil: says nothing
}

// Client talks to registries. It is meant for one command: it keeps
// connections, tokens and what it learned of each registry. It may be used by
// several goroutines.
type Client struct {
	o   Options
	log *slog.Logger

	// Tests shorten these.
	sleep func(context.Context, time.Duration) error
	stall time.Duration // how long a body may be silent

	mu       sync.Mutex
	sessions map[string]*session // by endpoint name
	bases    map[base]*http.Transport
}

// New returns a client. It opens nothing.
func New(o Options) *Client {
	return &Client{
		o:        o,
		log:      cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		sleep:    sleep,
		stall:    30 * time.Second,
		sessions: map[string]*session{},
		bases:    map[base]*http.Transport{},
	}
}

// Close closes the connections that are kept for reuse.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.bases {
		t.CloseIdleConnections()
	}
}

// session is a repository at one endpoint, reached and logged in to.
type session struct {
	config.Endpoint
	host string // with the port if any; what is dialled
	path string

	push bool     // it is to be written to
	from []string // paths of the repositories that blobs are taken over from

	mu    sync.Mutex // held while it connects
	http  *http.Client
	creds config.Credentials
}

// endpoints returns the sessions to try for a reference, mirrors first.
func (c *Client) endpoints(ref oci.Reference) ([]*session, error) {
	all := []config.Endpoint{{Name: ref.Name()}}
	if c.o.Endpoints != nil {
		var err error
		if all, err = c.o.Endpoints(ref.Name(), ref.Digest != ""); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*session
	for _, e := range all {
		s, ok := c.sessions[e.Name]
		if !ok {
			host, path, _ := strings.Cut(e.Name, "/")
			e.Insecure = e.Insecure || isLoopback(host)
			if c.o.TLSVerify != nil {
				e.Insecure = !*c.o.TLSVerify
			}
			if host == oci.DefaultDomain {
				host = "registry-1.docker.io"
			}
			s = &session{Endpoint: e, host: host, path: path}
			c.sessions[e.Name] = s
		}
		list = append(list, s)
	}
	return list, nil
}

// connect pings the registry, logs in and keeps the result; a failure is not
// kept.
func (c *Client) connect(ctx context.Context, s *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	opts := []name.Option{}
	if s.Insecure {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(s.host, opts...)
	if err != nil {
		return errs.E("", errs.Invalid, err)
	}
	if c.o.Credentials != nil {
		if s.creds, err = c.o.Credentials(ctx, s.Name); err != nil {
			return err
		}
		if s.creds.Warning != "" {
			c.log.Warn("credentials were not looked for everywhere", "registry", s.host, "reason", s.creds.Warning)
		}
	}
	var inner http.RoundTripper = &retrier{next: &edge{c, s}, sleep: c.sleep, log: c.log}
	if s.creds.IdentityToken != "" {
		inner = &oneToken{inner}
	}
	inner = transport.NewUserAgent(inner, cmp.Or(c.o.UserAgent, "cais"))
	rt, err := transport.NewWithContext(ctx, reg, authenticator(s.creds), inner, s.scopes())
	if err != nil {
		return err
	}
	s.http = &http.Client{Transport: rt}
	return nil
}

// scopes are what a token is asked for.
func (s *session) scopes() []string {
	own := "repository:" + s.path + ":pull"
	if s.push {
		own += ",push"
	}
	all := []string{own}
	for _, path := range s.from {
		all = append(all, "repository:"+path+":pull")
	}
	return all
}

func authenticator(c config.Credentials) authn.Authenticator {
	if c.Anonymous() {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: c.Username, Password: c.Password,
		IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	})
}

// oneToken takes new refresh tokens out of the answers of a token service: with
// them, go-containerregistry would replace its credentials while other goroutines
// read them. The identity token that we have goes on being good.
type oneToken struct{ next http.RoundTripper }

const maxToken = 64 << 10 // bytes of a token service's answer, as go-containerregistry has it

func (o *oneToken) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(req)
	if err != nil || req.Method != http.MethodPost || strings.Contains(req.URL.Path, "/v2/") || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(data, &doc) == nil {
		delete(doc, "refresh_token")
		if data, err = json.Marshal(doc); err != nil {
			return nil, err
		}
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	return resp, nil
}

// edge sends a request by the rules of the host that it goes to: an insecure
// registry's laxness and its client certificates end at a redirect.
type edge struct {
	c *Client
	s *session
}

func (e *edge) RoundTrip(req *http.Request) (*http.Response, error) {
	if b, ok := req.Body.(*onceBody); ok && b.begun {
		return nil, errSpent
	}
	home := sameHost(req.URL.Host, e.s.host)
	insecure := home && e.s.Insecure
	if req.URL.Scheme != "https" && !insecure && !e.mayStray(req) {
		return nil, &plainHTTPError{host: req.URL.Host, redirected: !home}
	}
	t, err := e.c.base(base{host: req.URL.Host, insecure: insecure, push: e.s.push})
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

// mayStray reports whether an insecure registry may send req to another host
// without TLS: to where it keeps its blobs, but not to a token service that would
// be told a password, unless that is on this machine.
func (e *edge) mayStray(req *http.Request) bool {
	secret := req.Header.Get("Authorization") != "" || req.Method != http.MethodGet && req.Method != http.MethodHead
	return e.s.Insecure && (!secret || isLoopback(req.URL.Host))
}

// base is what decides how connections to a host are made.
type base struct {
	host     string
	insecure bool
	push     bool // a registry may think long before it answers to an upload's end
}

// base returns the transport for a host, made when it is first used.
func (c *Client) base(b base) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.bases[b]; ok {
		return t, nil
	}
	conf := &tls.Config{InsecureSkipVerify: b.insecure}
	host := b.host
	if host == "registry-1.docker.io" {
		host = oci.DefaultDomain
	}
	certs, err := c.Certs(host)
	if err != nil {
		return nil, err
	}
	if err := addCerts(conf, certs); err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: throughProxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		DisableCompression:     true, // the digest is of what the registry keeps
		ReadBufferSize:         64 << 10,
		Protocols:              new(http.Protocols),
	}
	// A connection for each layer: on a bad line one lost packet then stops one
	// layer, not all, and a reset is one layer's to resume.
	t.Protocols.SetHTTP1(true)
	if b.push {
		t.ResponseHeaderTimeout = 10 * time.Minute
		t.WriteBufferSize = 64 << 10
	}
	c.bases[b] = t
	return t, nil
}

// Certs returns the certificates for a registry, by its name in references.
func (c *Client) Certs(host string) (config.Certs, error) {
	if c.o.Certs == nil {
		return config.Certs{}, nil
	}
	return c.o.Certs(host)
}

func addCerts(conf *tls.Config, certs config.Certs) error {
	if len(certs.CAs) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without any: the registry's own are enough
		}
		for _, pem := range certs.CAs {
			if !pool.AppendCertsFromPEM(pem) {
				return errs.New(errs.Invalid, fmt.Sprintf("no certificate in one of the .crt files of %s", certs.Dir))
			}
		}
		conf.RootCAs = pool
	}
	for _, pair := range certs.Clients {
		cert, err := tls.X509KeyPair(pair[0], pair[1])
		if err != nil {
			return errs.E("client certificate in "+certs.Dir, errs.Invalid, err)
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return nil
}

// isLoopback reports whether host[:port] is this machine by its very name:
// nobody else can listen there, so plain http is as good.
func isLoopback(host string) bool {
	h := hostOnly(host)
	if h == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(h)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostOnly strips the port and the brackets of an IPv6 address.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// sameHost compares two host[:port], with the default ports left out or not.
func sameHost(a, b string) bool {
	trim := func(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, ":443"), ":80") }
	return strings.EqualFold(trim(a), trim(b))
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// each calls do with one session after the other until one succeeds. Only
// mirrors may fail without an error; the last one is the registry itself.
func (c *Client) each(ctx context.Context, list []*session, do func(*session) error) error {
	var failed []error
	for _, s := range list {
		err := c.connect(ctx, s)
		if err == nil {
			err = do(s)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = c.explain(s, err)
		if s.Mirror {
			c.log.Warn("mirror failed", "mirror", s.host, "reason", err)
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		return errors.New("no endpoint")
	}
	return failed[len(failed)-1]
}
