package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/faultproxy"
)

// unknown is content whose digest is told at its end only.
func unknown(data []byte) Content {
	c := inMemory("", data)
	c.Size = -1
	c.Digest = func() (string, int64, error) { return faultproxy.Digest(data), int64(len(data)), nil }
	return c
}

func random(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	return data
}

// blobOf gets a blob from a registry in memory.
func blobOf(reg http.Handler, repo, digest string) []byte {
	rec := httptest.NewRecorder()
	reg.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v2/"+repo+"/blobs/"+digest, nil))
	if rec.Code != http.StatusOK {
		return nil
	}
	return rec.Body.Bytes()
}

func TestPutBlobFaults(t *testing.T) {
	data := random(3 << 20)
	small := random(1000)
	digest := faultproxy.Digest(data)
	for _, c := range []struct {
		name   string
		faults []faultproxy.Fault
		stall  time.Duration
		err    string
		kind   errs.Kind
		slept  time.Duration
	}{
		{name: "nothing"},
		{name: "500 to POST", faults: []faultproxy.Fault{{Method: "POST", Status: 500, Times: 2}}},
		{name: "500 to PATCH", faults: []faultproxy.Fault{{Method: "PATCH", Status: 500, Times: 2}}},
		{name: "502 to PUT", faults: []faultproxy.Fault{{Method: "PUT", Status: 502, Times: 1}}},
		{name: "500 for ever", faults: []faultproxy.Fault{{Method: "PATCH", Status: 500}}, err: "500", kind: errs.Unavailable},
		{name: "429", faults: []faultproxy.Fault{{Method: "PATCH", Status: 429, Times: 1, Header: map[string]string{"Retry-After": "7"}}}, slept: 7 * time.Second},
		{name: "429 for long", faults: []faultproxy.Fault{{Method: "PATCH", Status: 429, Header: map[string]string{"Retry-After": "3600"}}}, err: "too many requests", kind: errs.Unavailable},
		{name: "cut", faults: []faultproxy.Fault{{Method: "PATCH", TakeCutAt: 1 << 20, Times: 2}}},
		{name: "cut by reset", faults: []faultproxy.Fault{{Method: "PATCH", TakeCutAt: 1 << 20, Reset: true, Times: 2}}},
		{name: "cut at the end", faults: []faultproxy.Fault{{Method: "PUT", TakeCutAt: 1, Times: 1}}},
		{name: "cut for ever", faults: []faultproxy.Fault{{Method: "PATCH", TakeCutAt: 1 << 20}}, err: "the upload broke again", kind: errs.Unavailable},
		{name: "stalled", faults: []faultproxy.Fault{{Method: "PATCH", TakeStallAt: 100, Times: 1}}, stall: 50 * time.Millisecond},
		{name: "stalled for ever", faults: []faultproxy.Fault{{Method: "PATCH", TakeStallAt: 100}}, stall: 20 * time.Millisecond, err: "no data for too long", kind: errs.Unavailable},
		{name: "404 to PATCH", faults: []faultproxy.Fault{{Method: "PATCH", Status: 404, Times: 1}}},
		{name: "404 to PUT", faults: []faultproxy.Fault{{Method: "PUT", Status: 404, Times: 1}}},
		{name: "401", faults: []faultproxy.Fault{{Method: "POST", Status: 401}}, err: "push access denied for", kind: errs.Denied},
		{name: "403", faults: []faultproxy.Fault{{Method: "PATCH", Status: 403}}, err: "push access denied for", kind: errs.Denied},
		{name: "400", faults: []faultproxy.Fault{{Method: "PUT", Status: 400, Times: 99}}, err: "400", kind: errs.Denied},
		{name: "413 for ever", faults: []faultproxy.Fault{{Method: "PATCH", Status: 413}}, err: "413", kind: errs.Denied},
		{name: "no location", faults: []faultproxy.Fault{{Method: "POST", Status: 202}}, err: "where to upload", kind: errs.Invalid},
	} {
		for _, content := range []Content{inMemory(digest, data), unknown(data), inMemory(faultproxy.Digest(small), small)} {
			isSmall := content.Size == int64(len(small))
			if isSmall && len(c.faults) > 0 && c.faults[0].Method == "PATCH" {
				continue // it is sent in one PUT
			}
			reg := faultproxy.Registry()
			p := faultproxy.New(reg)
			for _, f := range c.faults {
				f.Path = "/blobs/uploads"
				p.Add(f)
			}
			host := serve(t, p)
			cl, clock := client(t, Options{})
			if c.stall > 0 {
				cl.stall = c.stall
			}
			target, err := cl.Target(t.Context(), parse(t, host+"/ns/app"))
			if err != nil {
				t.Fatal(err)
			}
			err = target.PutBlob(t.Context(), content)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || errs.KindOf(err) != c.kind {
					t.Errorf("%s: %v (%v)", c.name, err, errs.KindOf(err))
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			want := data
			if isSmall {
				want = small
			}
			if got := blobOf(reg, "ns/app", faultproxy.Digest(want)); !bytes.Equal(got, want) {
				t.Errorf("%s: the registry has %d bytes of %d", c.name, len(got), len(want))
			}
			if total := time.Duration(0); c.slept > 0 {
				for _, d := range clock.slept {
					total += d
				}
				if total < c.slept {
					t.Errorf("%s: waited for %v", c.name, total)
				}
			}
		}
	}
}

// A token that expires while a body is on its way does not end the upload, and
// the rest of the body is not taken for all of it.
func TestPutBlobExpiredToken(t *testing.T) {
	data := random(3 << 20)
	reg := faultproxy.Registry()
	host := serve(t, &faultproxy.Auth{Next: reg, User: "u", Password: "p", Uses: 2})
	cl, _ := client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) {
		return config.Credentials{Username: "u", Password: "p"}, nil
	}})
	target, err := cl.Target(t.Context(), parse(t, host+"/ns/app"))
	if err != nil {
		t.Fatal(err)
	}
	if err := target.PutBlob(t.Context(), unknown(data)); err != nil {
		t.Fatal(err)
	}
	if got := blobOf(reg, "ns/app", faultproxy.Digest(data)); !bytes.Equal(got, data) {
		t.Errorf("the registry has %d bytes of %d", len(got), len(data))
	}
}

// What cannot be read here is told as it is, and nothing is left half done.
func TestPutBlobOwnFailure(t *testing.T) {
	p := faultproxy.New(faultproxy.Registry())
	host := serve(t, p)
	cl, clock := client(t, Options{})
	target, err := cl.Target(t.Context(), parse(t, host+"/ns/app"))
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("the disk is gone")
	c := unknown(nil)
	c.Open = func(int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(random(1<<20)), failing{bad})), nil
	}
	if err := target.PutBlob(t.Context(), c); !errors.Is(err, bad) || len(clock.slept) != 0 {
		t.Errorf("%v, after waits of %v", err, clock.slept)
	}
	deleted := false
	for _, r := range p.Requests("/blobs/uploads") {
		deleted = deleted || r.Method == http.MethodDelete
	}
	if !deleted {
		t.Error("the upload is left in the registry")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestMountAndManifest(t *testing.T) {
	reg := faultproxy.Registry()
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "b"))
	faultproxy.Push(reg, "ns/app", "1", img)
	p := faultproxy.New(reg)
	host := serve(t, p)
	cl, _ := client(t, Options{})
	target, err := cl.Target(t.Context(), parse(t, host+"/other/app"), host+"/ns/app", "elsewhere.test/x")
	if err != nil {
		t.Fatal(err)
	}
	l := img.Layers[0].Descriptor
	if ok, err := target.Mount(t.Context(), l.Digest, "elsewhere.test/x"); ok || err != nil {
		t.Errorf("from another registry: %v, %v", ok, err)
	}
	if size, ok, err := target.HasBlob(t.Context(), img.Config.Digest); err != nil {
		t.Errorf("%d, %v, %v", size, ok, err)
	}
	if _, err := target.Mount(t.Context(), l.Digest, host+"/ns/app"); err != nil {
		t.Error(err)
	}
	doc := oci.Document{MediaType: img.Manifest.MediaType, Digest: img.Manifest.Digest, Data: img.Manifest.Data}
	for _, b := range []faultproxy.Blob{img.Layers[0].Blob, img.Config} {
		if err := target.PutBlob(t.Context(), inMemory(b.Digest, b.Data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := target.PutManifest(t.Context(), "2", doc); err != nil {
		t.Fatal(err)
	}
	if d, err := target.Head(t.Context(), "2"); err != nil || d.Digest != doc.Digest {
		t.Errorf("%+v, %v", d, err)
	}
	for _, body := range []string{"", `{"errors":[{"code":"SIZE_INVALID","message":"too big"}]}`} {
		p.Add(faultproxy.Fault{Method: "PUT", Path: "/manifests/", Status: 413, Body: body, Times: 1})
		err := target.PutManifest(t.Context(), "3", doc)
		if err == nil || !strings.Contains(err.Error(), "413 Request Entity Too Large") || body != "" && !strings.Contains(err.Error(), "too big") {
			t.Errorf("answer %q: %v", body, err)
		}
	}
}

// Only the registry itself is pushed to, and a blocked one is not.
func TestTargetEndpoints(t *testing.T) {
	host := serve(t, faultproxy.Registry())
	cl, _ := client(t, Options{Endpoints: func(string, bool) ([]config.Endpoint, error) {
		return []config.Endpoint{{Name: "mirror.invalid/x", Mirror: true}, {Name: host + "/moved/app", Insecure: true}}, nil
	}})
	target, err := cl.Target(t.Context(), parse(t, "registry.test/app"))
	if err != nil {
		t.Fatal(err)
	}
	if target.s.host != host || target.s.path != "moved/app" {
		t.Errorf("%s %s", target.s.host, target.s.path)
	}
	cl, _ = client(t, Options{Endpoints: func(string, bool) ([]config.Endpoint, error) {
		return nil, errs.New(errs.Denied, "blocked")
	}})
	if _, err := cl.Target(t.Context(), parse(t, "registry.test/app")); errs.KindOf(err) != errs.Denied {
		t.Errorf("%v", err)
	}
}

// A token service that renews the refresh token does not change the credentials
// under the requests that are on their way (go test -race sees it).
func TestIdentityTokenStays(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	reg := faultproxy.Registry()
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "b"))
	faultproxy.Push(reg, "ns/app", "1", img)
	n := 0
	host := ""
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			asked = append(asked, r.FormValue("refresh_token"))
			n++
			fmt.Fprintf(w, `{"access_token":"t%d","refresh_token":"new%d"}`, n, n)
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", n) || n%3 == 1 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reg.ServeHTTP(w, r)
	})
	host = serve(t, h)
	c, _ := client(t, Options{Credentials: func(context.Context, string) (config.Credentials, error) {
		return config.Credentials{IdentityToken: "mine"}, nil
	}})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _, _ = c.Head(t.Context(), parse(t, host+"/ns/app:1")) }) // some fail by the service's whims
	}
	wg.Wait()
	for _, token := range asked {
		if token != "mine" {
			t.Errorf("asked with %q", token)
		}
	}
}

// inMemory is content that is in memory.
func inMemory(digest string, data []byte) Content {
	return Content{
		Open:     func(off int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[off:])), nil },
		Size:     int64(len(data)),
		Expected: digest,
		Digest:   func() (string, int64, error) { return digest, int64(len(data)), nil },
	}
}
