package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/faultproxy"
)

// clock is a sleep that takes no time and remembers how long it should have.
type clock struct {
	mu    sync.Mutex
	slept []time.Duration
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept = append(c.slept, d)
	return ctx.Err()
}

// client returns one whose waits take no time.
func client(t *testing.T, o Options) (*Client, *clock) {
	c, k := New(o), &clock{}
	c.sleep = k.sleep
	t.Cleanup(c.Close)
	return c, k
}

// serve returns a handler's host:port.
func serve(t testing.TB, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func parse(t *testing.T, s string) oci.Reference {
	t.Helper()
	r, err := oci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestManifest(t *testing.T) {
	reg := faultproxy.Registry()
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "b"))
	faultproxy.Push(reg, "ns/app", "1", img)
	p := faultproxy.New(reg)
	host := serve(t, p)
	c, _ := client(t, Options{})

	ref := parse(t, host+"/ns/app:1")
	doc, err := c.Manifest(t.Context(), ref)
	if err != nil || doc.Digest != img.Manifest.Digest || doc.MediaType != oci.TypeOCIManifest || !bytes.Equal(doc.Data, img.Manifest.Data) {
		t.Errorf("Manifest: %+v, %v", doc, err)
	}
	if d, err := c.Head(t.Context(), ref); err != nil || d.Digest != img.Manifest.Digest {
		t.Errorf("Head: %+v, %v", d, err)
	}
	if doc, err = c.Manifest(t.Context(), ref.WithDigest(img.Manifest.Digest)); err != nil || doc.Digest != img.Manifest.Digest {
		t.Errorf("Manifest by digest: %+v, %v", doc, err)
	}
	conf, err := c.Config(t.Context(), ref, img.Config.Descriptor)
	if err != nil || !bytes.Equal(conf, img.Config.Data) {
		t.Errorf("Config: %s, %v", conf, err)
	}
	if n := len(p.Requests("/v2/")) - len(p.Requests("/v2/ns/")); n != 1 {
		t.Errorf("%d pings, want 1 for the whole session", n)
	}
}

func TestManifestRefused(t *testing.T) {
	reg := faultproxy.Registry()
	img := faultproxy.NewImage("linux/amd64", nil)
	faultproxy.Push(reg, "app", "1", img)
	faultproxy.Push(reg, "app", "big", img)
	faultproxy.PushManifest(reg, "app", "large", faultproxy.NewBlob(oci.TypeOCIManifest,
		append(bytes.TrimSpace(img.Manifest.Data), bytes.Repeat([]byte(" "), oci.MaxManifest)...)))
	tests := []struct {
		name  string
		fault faultproxy.Fault
		ref   string
		kind  errs.Kind
		text  string
		tries int // 0: 1
	}{
		{name: "no such tag", ref: "app:nope", kind: errs.NotFound, text: "manifest for HOST/app:nope not found: manifest unknown"},
		{name: "no such repository", ref: "nope:1", kind: errs.NotFound, text: "not found"},
		{name: "flipped", ref: "app:1", fault: faultproxy.Fault{FlipAt: 3}, kind: errs.Invalid, text: "manifest does not have its digest: want " + img.Manifest.Digest},
		{name: "too large", ref: "app:large", kind: errs.Invalid, text: "more than the 4194304 bytes"},
		{name: "401", ref: "app:1", fault: faultproxy.Fault{Status: 401}, kind: errs.Denied, text: "pull access denied for HOST/app, repository does not exist or may require 'cais login'"},
		{name: "403", ref: "app:1", fault: faultproxy.Fault{Status: 403}, kind: errs.Denied, text: "pull access denied"},
		{name: "500 for ever", ref: "app:1", fault: faultproxy.Fault{Status: 500}, kind: errs.Unavailable, text: "500", tries: 4},
		{name: "503 for ever", ref: "app:1", fault: faultproxy.Fault{Status: 503}, kind: errs.Unavailable, text: "503", tries: 4},
		{name: "500 twice", ref: "app:1", fault: faultproxy.Fault{Status: 500, Times: 2}, tries: 3},
		{name: "cut once", ref: "app:1", fault: faultproxy.Fault{CutAt: 10, Times: 1}, tries: 2},
		{name: "cut for ever", ref: "app:1", fault: faultproxy.Fault{CutAt: 10}, kind: errs.Unavailable, text: "broke off", tries: 4},
		{name: "429 for ever", ref: "app:1", fault: faultproxy.Fault{Status: 429, Header: map[string]string{"Ratelimit-Limit": "100;w=21600", "Ratelimit-Remaining": "0;w=21600"}},
			kind: errs.Unavailable, text: "too many requests (limit 100;w=21600, remaining 0;w=21600)", tries: 5},
		{name: "429 twice", ref: "app:1", fault: faultproxy.Fault{Status: 429, Times: 2, Header: map[string]string{"Retry-After": "7"}}, tries: 3},
		{name: "429 for hours", ref: "app:1", fault: faultproxy.Fault{Status: 429, Header: map[string]string{"Retry-After": "7200"}},
			kind: errs.Unavailable, text: "to be tried again after 7200 s"},
		{name: "418", ref: "app:1", fault: faultproxy.Fault{Status: 418}, kind: errs.Denied, text: "418"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := faultproxy.New(reg)
			tt.fault.Path = "/manifests/"
			p.Add(tt.fault)
			host := serve(t, p)
			c, _ := client(t, Options{})
			_, err := c.Manifest(t.Context(), parse(t, host+"/"+tt.ref))
			want := strings.ReplaceAll(tt.text, "HOST", host)
			if errs.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got %v (kind %v); want kind %v, %q", err, errs.KindOf(err), tt.kind, want)
			}
			if got := len(p.Requests("/manifests/")); got != max(1, tt.tries) {
				t.Errorf("%d requests, want %d", got, max(1, tt.tries))
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	reg := faultproxy.Registry()
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil))
	p := faultproxy.New(reg)
	p.Add(faultproxy.Fault{Path: "/manifests/", Status: 429, Times: 1, Header: map[string]string{"Retry-After": "7"}})
	p.Add(faultproxy.Fault{Path: "/manifests/", Status: 429, Times: 2})
	c, k := client(t, Options{})
	if _, err := c.Manifest(t.Context(), parse(t, serve(t, p)+"/app:1")); err != nil {
		t.Fatal(err)
	}
	// The server's own time once, then doubling.
	if want := []time.Duration{7 * time.Second, 2 * time.Second, 4 * time.Second}; !equal(k.slept, want) {
		t.Errorf("slept %v, want %v", k.slept, want)
	}

	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "3": 3 * time.Second,
		"Wed, 02 Jan 2030 03:04:35 GMT": 30 * time.Second,
		"Wed, 02 Jan 2030 03:00:00 GMT": 0, // past
		"":                              -1, "-1": -1, "1.5": -1, "soon": -1, "99999999999999999999": -1,
	} {
		got, ok := retryAfter(http.Header{"Retry-After": {value}}, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("Retry-After %q: got %v, want %v", value, got, want)
		}
	}
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestCredentials(t *testing.T) {
	reg := faultproxy.Registry()
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil))
	creds := func(user, password string) func(context.Context, string) (config.Credentials, error) {
		return func(_ context.Context, name string) (config.Credentials, error) {
			return config.Credentials{Username: user, Password: password, Source: "/f for " + name}, nil
		}
	}
	a := &faultproxy.Auth{Next: reg, User: "u", Password: "p", Uses: 2}
	host := serve(t, a)
	ref := parse(t, host+"/app:1")

	c, _ := client(t, Options{Credentials: creds("u", "p")})
	for range 5 { // a token is good for two
		if _, err := c.Manifest(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if a.Issued() < 3 {
		t.Errorf("%d tokens for 5 requests, want a new one for every second", a.Issued())
	}

	c, _ = client(t, Options{Credentials: creds("u", "wrong")})
	_, err := c.Manifest(t.Context(), ref)
	if errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "/f for "+host+"/app") || !strings.Contains(errs.HintOf(err), "cais login "+host) {
		t.Errorf("wrong password: %v, hint %q", err, errs.HintOf(err))
	}
	c, _ = client(t, Options{})
	_, err = c.Manifest(t.Context(), ref)
	if errs.KindOf(err) != errs.Denied || !strings.Contains(errs.HintOf(err), "cais login "+host) {
		t.Errorf("anonymous: %v, hint %q", err, errs.HintOf(err))
	}
	broken := errors.New("broken file")
	c, _ = client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) { return config.Credentials{}, broken }})
	if _, err = c.Manifest(t.Context(), ref); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// What is for the registry must not reach the host that it redirects to.
func TestRedirectGetsNoCredentials(t *testing.T) {
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("a", 1<<20, 1)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	cdn := faultproxy.New(reg)
	cdn.Add(faultproxy.Fault{CutAt: 300_000, Times: 2})
	cdnHost := serve(t, cdn)
	for _, scheme := range []string{"basic", "bearer"} {
		cdn.Reset()
		var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, "http://"+strings.Replace(cdnHost, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			reg.ServeHTTP(w, r)
		})
		if scheme == "bearer" {
			h = &faultproxy.Auth{Next: h, User: "u", Password: "p"}
		} else {
			inner := h
			h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, _, ok := r.BasicAuth(); !ok {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				inner.ServeHTTP(w, r)
			})
		}
		host := serve(t, h)
		c, _ := client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) {
			return config.Credentials{Username: "u", Password: "p"}, nil
		}})
		body, err := c.Blob(t.Context(), parse(t, host+"/app:1"), l.Descriptor, 0)
		if err != nil {
			t.Fatal(scheme, err)
		}
		data, err := io.ReadAll(body)
		body.Close()
		if err != nil || !bytes.Equal(data, l.Data) {
			t.Errorf("%s: %d bytes, %v", scheme, len(data), err)
		}
		for _, r := range cdn.Requests("") {
			if r.Authorization != "" {
				t.Errorf("%s: the redirect's target saw %q", scheme, r.Authorization)
			}
		}
		if len(cdn.Requests("")) == 0 {
			t.Errorf("%s: nothing was redirected", scheme)
		}
	}
}

func TestMirrors(t *testing.T) {
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "b"))
	full, empty := faultproxy.Registry(), faultproxy.Registry()
	faultproxy.Push(full, "app", "1", img)
	faultproxy.Push(full, "cache/app", "1", img)
	good, bad := faultproxy.New(full), faultproxy.New(empty)
	goodHost, badHost := serve(t, good), serve(t, bad)
	endpoints := func(mirror string) func(string, bool) ([]config.Endpoint, error) {
		return func(name string, _ bool) ([]config.Endpoint, error) {
			return []config.Endpoint{{Name: mirror, Mirror: true}, {Name: goodHost + "/app"}}, nil
		}
	}
	for name, mirror := range map[string]string{"has not": badHost + "/app", "is down": "127.0.0.1:1/app", "has it": goodHost + "/cache/app"} {
		good.Reset()
		c, _ := client(t, Options{Endpoints: endpoints(mirror)})
		ref := parse(t, "name.x/app:1")
		doc, err := c.Manifest(t.Context(), ref)
		if err != nil || doc.Digest != img.Manifest.Digest {
			t.Errorf("mirror %s: %v, %v", name, doc.Digest, err)
		}
		cached, own := len(good.Requests("/cache/app/")), len(good.Requests("/v2/app/"))
		if name == "has it" && (cached != 1 || own != 0) || name != "has it" && own != 1 {
			t.Errorf("mirror %s: %d requests to it, %d to the registry", name, cached, own)
		}
		// A second attempt at a blob starts with the next in the list.
		body, err := c.Blob(t.Context(), ref, img.Layers[0].Descriptor, 1)
		if err != nil {
			t.Fatal(err)
		}
		if body.Close(); len(good.Requests("/v2/app/blobs/")) != 1 {
			t.Errorf("mirror %s: the second attempt did not go to the registry", name)
		}
	}
	c, _ := client(t, Options{Endpoints: endpoints(badHost + "/app")})
	if _, err := c.Manifest(t.Context(), parse(t, "name.x/app:nope")); errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "name.x/app:nope") {
		t.Errorf("got %v, want NotFound of the name as asked", err)
	}
}

func TestTags(t *testing.T) {
	var page int
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/":
		case "/v2/app/tags/list":
			if page++; r.URL.Query().Get("last") == "" {
				w.Header().Set("Link", `<https://elsewhere.x/v2/app/tags/list?n=1000&last=b>; rel="next"`)
				io.WriteString(w, `{"tags":["a","b","../c"]}`)
				return
			}
			io.WriteString(w, `{"tags":["d"]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	host := serve(t, h)
	c, _ := client(t, Options{})
	tags, err := c.Tags(t.Context(), parse(t, host+"/app"))
	if err != nil || !equal(tags, []string{"a", "b", "d"}) || page != 2 {
		t.Errorf("got %q, %v after %d pages", tags, err, page)
	}
	if _, err := c.Tags(t.Context(), parse(t, host+"/nope")); errs.KindOf(err) != errs.NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
}

func TestConnections(t *testing.T) {
	reg := faultproxy.Registry()
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil))
	secure := httptest.NewUnstartedServer(reg)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	host := strings.TrimPrefix(secure.URL, "https://")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	yes, no := true, false

	tests := []struct {
		name  string
		host  string
		o     Options
		kind  errs.Kind
		text  string
		hint  string
		fails bool
	}{
		{name: "certificate nobody vouches for", host: host, o: Options{TLSVerify: &yes}, fails: true, kind: errs.Denied, hint: "certs.d/" + host},
		{name: "loopback needs none", host: host},
		{name: "--tls-verify=false", host: host, o: Options{TLSVerify: &no}},
		{name: "own authority", host: host, o: Options{TLSVerify: &yes, Certs: func(h string) (config.Certs, error) {
			if h != host {
				t.Errorf("certificates of %q were asked for, want %q", h, host)
			}
			return config.Certs{CAs: [][]byte{ca}}, nil
		}}},
		{name: "broken authority", host: host, o: Options{TLSVerify: &yes, Certs: func(string) (config.Certs, error) {
			return config.Certs{CAs: [][]byte{{'x'}}, Dir: "/certs"}, nil
		}}, fails: true, kind: errs.Invalid, text: "/certs"},
		{name: "no such host", host: "no-such-host.invalid", fails: true, kind: errs.Unavailable, hint: "network"},
		{name: "nobody listens", host: "127.0.0.1:1", fails: true, kind: errs.Unavailable, hint: "Nothing listens there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := client(t, tt.o)
			_, err := c.Manifest(t.Context(), parse(t, tt.host+"/app:1"))
			if !tt.fails {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if errs.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) || !strings.Contains(errs.HintOf(err), tt.hint) {
				t.Errorf("got %v, kind %v, hint %q; want %v, %q, %q", err, errs.KindOf(err), errs.HintOf(err), tt.kind, tt.text, tt.hint)
			}
		})
	}
}

// A registry that is not on this machine and not called insecure is never asked
// in the clear, whatever library is between.
func TestNoPlainHTTP(t *testing.T) {
	c, _ := client(t, Options{})
	for _, name := range []string{"192.168.1.1:5000/a", "10.0.0.1/a", "host.local/a", "host.x/a"} {
		list, err := c.endpoints(parse(t, name))
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodGet, "http://"+list[0].host+"/v2/", nil)
		var plain *plainHTTPError
		if _, err := (&edge{c, list[0]}).RoundTrip(req); !errors.As(err, &plain) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.9.9.9:1": true, "[::1]:5000": true, "[::1]": true,
		"localhost.x": false, "127.0.0.1.x": false, "0.0.0.0": false, "10.0.0.1": false, "x": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("isLoopback(%q) = %v, want %v", host, got, want)
		}
	}
}

// An insecure registry's realm is not told the password in the clear.
func TestPlainRealmGetsNoCredentials(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://192.0.2.1:1/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	for _, creds := range []config.Credentials{{Username: "u", Password: "p"}, {IdentityToken: "t"}} {
		c, _ := client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) { return creds, nil }})
		_, err := c.Manifest(t.Context(), parse(t, host+"/app:1"))
		var plain *plainHTTPError
		if !errors.As(err, &plain) {
			t.Errorf("%v, want a refusal", err)
		}
	}
}

func TestHubEndpoint(t *testing.T) {
	c, _ := client(t, Options{})
	list, err := c.endpoints(parse(t, "alpine"))
	if err != nil || len(list) != 1 || list[0].host != "registry-1.docker.io" || list[0].path != "library/alpine" || list[0].Insecure {
		t.Errorf("got %+v, %v", list[0], err)
	}
}

func TestCancelIsPrompt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept() // never answers
		if err == nil {
			cancel()
			t.Cleanup(func() { conn.Close() })
		}
	}()
	c, _ := client(t, Options{})
	if _, err := c.Manifest(ctx, parse(t, l.Addr().String()+"/app:1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestRunHelper(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("good", `read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$1\",\"Secret\":\"$s\"}"`)
	script("token", `echo '{"Username":"<token>","Secret":"t"}'`)
	script("none", `echo "credentials not found in native keychain"; exit 1`)
	script("bad", `echo "no bus"; exit 1`)
	script("junk", `echo junk`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	if c, err := RunHelper(t.Context(), "good", "h.x"); err != nil || c.Username != "get" || c.Password != "h.x" {
		t.Errorf("good: %+v, %v", c, err)
	}
	if c, err := RunHelper(t.Context(), "token", "h.x"); err != nil || c.IdentityToken != "t" || c.Username != "" {
		t.Errorf("token: %+v, %v", c, err)
	}
	if c, err := RunHelper(t.Context(), "none", "h.x"); err != nil || !c.Anonymous() {
		t.Errorf("none: %+v, %v", c, err)
	}
	if _, err := RunHelper(t.Context(), "missing", "h.x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v, want ErrNotExist", err)
	}
	if _, err := RunHelper(t.Context(), "bad", "h.x"); errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "no bus") {
		t.Errorf("bad: %v", err)
	}
	for _, name := range []string{"junk", "../x"} {
		if _, err := RunHelper(t.Context(), name, "h.x"); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}
