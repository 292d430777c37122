package registry

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/test/faultproxy"
)

// dockerRegistry runs Docker's own registry with the user u, password p, and
// returns its host:port.
func dockerRegistry(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"docker-registry", "htpasswd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	dir := t.TempDir()
	users, err := exec.Command("htpasswd", "-Bbn", "u", "p").Output()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, most likely a moment later too
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	conf := fmt.Sprintf(`version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/data}}
http: {addr: %q}
auth: {htpasswd: {realm: test, path: %s/users}}
`, dir, host, dir)
	for name, data := range map[string][]byte{"users": users, "config.yml": []byte(conf)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if strings.Contains(lines.Text(), "listening on") {
			go func() { // until it ends: a full pipe would stop it
				_, _ = io.Copy(io.Discard, log)
			}()
			return host
		}
	}
	t.Fatal("docker-registry ended")
	return ""
}

// pusher passes what faultproxy pushes on to a real registry, which takes blobs
// in two steps.
func pusher(t *testing.T, host string) http.Handler {
	send := func(method, url string, body []byte, typ string) *http.Response {
		req, err := http.NewRequest(method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", typ)
		req.SetBasicAuth("u", "p")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		url, typ := "http://"+host+r.URL.Path, r.Header.Get("Content-Type")
		if r.Method == http.MethodPost {
			url = send(http.MethodPost, url, nil, "").Header.Get("Location") + "&digest=" + r.URL.Query().Get("digest")
			typ = "application/octet-stream"
		}
		w.WriteHeader(send(http.MethodPut, url, body, typ).StatusCode)
	})
}

func TestDockerRegistry(t *testing.T) {
	host := dockerRegistry(t)
	l := faultproxy.RandomLayer("f", 3<<20, 9)
	img := faultproxy.NewImage("linux/amd64", nil, l)
	faultproxy.Push(pusher(t, host), "ns/app", "1", img)
	ref := parse(t, host+"/ns/app:1")

	c, _ := client(t, Options{})
	if _, err := c.Manifest(t.Context(), ref); errs.KindOf(err) != errs.Denied {
		t.Errorf("anonymous: %v, want Denied", err)
	}

	// Through a proxy that breaks the connection, with the credentials.
	p := faultproxy.New(&forward{host})
	p.Add(faultproxy.Fault{Path: "/blobs/", CutAt: 1<<20 + 1})
	ref = parse(t, serve(t, p)+"/ns/app:1")
	c, _ = client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) {
		return config.Credentials{Username: "u", Password: "p"}, nil
	}})
	if d, err := c.Head(t.Context(), ref); err != nil || d.Digest != img.Manifest.Digest {
		t.Errorf("Head: %+v, %v", d, err)
	}
	if doc, err := c.Manifest(t.Context(), ref); err != nil || doc.Digest != img.Manifest.Digest {
		t.Errorf("Manifest: %v, %v", doc.Digest, err)
	}
	body, err := c.Blob(t.Context(), ref, l.Descriptor, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, l.Data) {
		t.Errorf("%d bytes of %d, %v", len(data), len(l.Data), err)
	}
	if n := len(p.Requests("/blobs/")); n != 4 {
		t.Errorf("%d requests for the blob, want 4", n)
	}
	if tags, err := c.Tags(t.Context(), ref); err != nil || !equal(tags, []string{"1"}) {
		t.Errorf("Tags: %q, %v", tags, err)
	}
	if _, err := c.Manifest(t.Context(), ref.WithTag("2")); errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "manifest unknown") {
		t.Errorf("no such tag: %v", err)
	}
}

// forward passes requests on to host.
type forward struct{ host string }

func (h *forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := r.Clone(r.Context())
	req.URL.Scheme, req.URL.Host, req.RequestURI = "http", h.host, ""
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the proxy in front breaks it on purpose
}
