package pull

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	client "cais.dev/cais/pkg/registry"
	"cais.dev/cais/test/faultproxy"
)

// setup is a registry behind a proxy, a store and a puller.
type setup struct {
	reg   http.Handler
	proxy *faultproxy.Proxy
	host  string
	store *fakeStore
	*Puller
}

func newSetup(t *testing.T) *setup {
	s := &setup{reg: faultproxy.Registry(), store: newFake()}
	s.proxy = faultproxy.New(s.reg)
	srv := httptest.NewServer(s.proxy)
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	c := client.New(client.Options{})
	t.Cleanup(c.Close)
	s.Puller = New(Options{Registry: c, Images: s.store, Open: s.store.open, Spool: t.TempDir()})
	t.Cleanup(func() { s.store.clean(t) })
	return s
}

func (s *setup) ref(t *testing.T, name string) oci.Reference {
	t.Helper()
	r, err := oci.Parse(s.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pull pulls one image that must be there.
func (s *setup) pull(t *testing.T, req Request) Result {
	t.Helper()
	r, err := s.Pull(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(r) != 1 {
		t.Fatalf("%d results, want 1", len(r))
	}
	return r[0]
}

func threeLayers() faultproxy.Image {
	return faultproxy.NewImage("linux/amd64", []string{"sh"},
		faultproxy.NewLayer("a", "1"), faultproxy.RandomLayer("b", 1<<20, 1), faultproxy.RandomLayer("c", 300_000, 2))
}

func TestPull(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "latest", img)

	res := s.pull(t, Request{Ref: s.ref(t, "app")})
	if !res.New || res.Digest != img.Manifest.Digest || "sha256:"+res.ID != img.Config.Digest || res.Ref.Tag != "latest" {
		t.Errorf("first: %+v", res)
	}
	if want := "Status: Downloaded newer image for " + s.host + "/app:latest"; res.Status() != want {
		t.Errorf("status %q, want %q", res.Status(), want)
	}
	if len(s.store.layers) != 3 || len(s.store.names()) != 1 || s.store.names()[0] != s.host+"/app:latest" {
		t.Errorf("%d layers, names %q", len(s.store.layers), s.store.names())
	}
	if n := len(s.proxy.Requests("/blobs/")); n != 4 {
		t.Errorf("%d blobs, want 4", n)
	}

	// Again: one HEAD, and the store is not opened for changes.
	s.proxy.Reset()
	res = s.pull(t, Request{Ref: s.ref(t, "app")})
	if res.New || res.Digest != img.Manifest.Digest || !strings.HasPrefix(res.Status(), "Status: Image is up to date for ") {
		t.Errorf("again: %+v", res)
	}
	if r := s.proxy.Requests(""); len(r) != 1 || r[0].Method != http.MethodHead || s.store.opened != 1 {
		t.Errorf("requests %+v, store opened %d times; want one HEAD, once", r, s.store.opened)
	}

	// Another name of it tells of no layer.
	faultproxy.Push(s.reg, "app", "too", img)
	res = s.pull(t, Request{Ref: s.ref(t, "app:too"), Events: func(e Event) {
		if e.Kind != Pulling {
			t.Errorf("another name: %+v", e)
		}
	}})
	if !res.New || len(s.store.names()) != 2 {
		t.Errorf("another name: %+v, names %q", res, s.store.names())
	}

	// Another image on the same base downloads what is new.
	top := faultproxy.NewLayer("d", "4")
	faultproxy.Push(s.reg, "app", "2", faultproxy.NewImage("linux/amd64", nil, append(img.Layers, top)...))
	s.proxy.Reset()
	var events []Event
	s.pull(t, Request{Ref: s.ref(t, "app:2"), Events: func(e Event) { events = append(events, e) }})
	if n := len(s.proxy.Requests("/blobs/")); n != 2 {
		t.Errorf("%d blobs, want the config and one layer", n)
	}
	var kinds []EventKind
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	if want := []EventKind{Pulling, Exists, Exists, Exists, Preparing, Downloading, Extracting, Complete}; !equal(kinds, want) {
		t.Errorf("events %v, want %v", kinds, want)
	}
}

// Parts of a layer are asked for if the store can do with them; else, or if they are
// not what they should be, all of it.
func TestPullParts(t *testing.T) {
	img := threeLayers()
	big := img.Layers[1]
	tests := map[string]struct {
		parts    func(s *setup) func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error)
		fault    faultproxy.Fault
		requests int // for the layer's blob
		retried  bool
	}{
		"it has the rest": {parts: func(s *setup) func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error) {
			return func(ctx context.Context, l Layer, d oci.Descriptor, get Get) (*Staged, error) {
				r, err := get(ctx, 10, 20)
				if err != nil {
					return nil, err
				}
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, big.Data[10:20]) || d.Digest != big.Digest {
					t.Errorf("got %x of %s, %v; want bytes 10 to 20 of %s", got, d.Digest, err, big.Digest)
				}
				staged, err := s.store.Stage(ctx, Layer{DiffID: l.DiffID, Body: bytes.NewReader(big.Tar)})
				return &staged, err
			}
		}, requests: 1},
		"it has nothing": {parts: func(*setup) func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error) {
			return func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error) { return nil, nil }
		}, requests: 1},
		"the registry has no parts": {fault: faultproxy.Fault{IgnoreRange: true}, parts: func(*setup) func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error) {
			return func(ctx context.Context, _ Layer, _ oci.Descriptor, get Get) (*Staged, error) {
				_, err := get(ctx, 10, 20)
				return nil, err
			}
		}, requests: 2},
		"they make another layer": {parts: func(s *setup) func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error) {
			return func(ctx context.Context, l Layer, _ oci.Descriptor, _ Get) (*Staged, error) {
				_, err := s.store.Stage(ctx, Layer{DiffID: l.DiffID, Body: strings.NewReader("not it")})
				return nil, err
			}
		}, requests: 1, retried: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			faultproxy.Push(s.reg, "app", "1", img)
			parts := tt.parts(s)
			s.store.parts = func(ctx context.Context, l Layer, d oci.Descriptor, get Get) (*Staged, error) {
				if l.DiffID != big.DiffID {
					return nil, nil
				}
				return parts(ctx, l, d, get)
			}
			tt.fault.Path = "/blobs/" + big.Digest
			s.proxy.Add(tt.fault)
			retried := false
			s.pull(t, Request{Ref: s.ref(t, "app:1"), Events: func(e Event) { retried = retried || e.Kind == Retrying }})
			if n := len(s.proxy.Requests("/blobs/" + big.Digest)); n != tt.requests || retried != tt.retried {
				t.Errorf("%d requests, told of a failure: %v; want %d, %v", n, retried, tt.requests, tt.retried)
			}
		})
	}
}

// A layer is known by what it unpacks to: neither another compression nor another
// place in an image has it downloaded again, or unpacked from an archive.
func TestPullKnownLayers(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "1", img)
	s.pull(t, Request{Ref: s.ref(t, "app:1")})

	plain := img.Layers[1]
	plain.Blob = faultproxy.NewBlob("application/vnd.oci.image.layer.v1.tar", plain.Tar)
	for name, other := range map[string]faultproxy.Image{
		"same place, other compression": faultproxy.NewImage("linux/amd64", []string{"sh"}, img.Layers[0], plain, img.Layers[2]),
		"other place":                   faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("n", "new"), img.Layers[2], plain),
	} {
		faultproxy.Push(s.reg, "other", "1", other)
		s.proxy.Reset()
		staged := s.store.stages
		if r := s.pull(t, Request{Ref: s.ref(t, "other:1")}); "sha256:"+r.ID != other.Config.Digest {
			t.Errorf("%s: %+v", name, r)
		}
		for _, l := range other.Layers {
			asked, known := len(s.proxy.Requests("/blobs/"+l.Digest)), l.DiffID != other.Layers[0].DiffID || l.DiffID == img.Layers[0].DiffID
			if known && asked > 0 || !known && asked != 1 {
				t.Errorf("%s: layer %s: %d requests", name, l.DiffID, asked)
			}
		}
		if n := s.store.stages - staged; n > 1 {
			t.Errorf("%s: %d layers were unpacked from blobs", name, n)
		}
	}

	// One that cannot be used is as good as none.
	s.store.twins, s.store.twinErr = map[string][]byte{}, errors.New("damaged")
	faultproxy.Push(s.reg, "third", "1", faultproxy.NewImage("linux/amd64", nil, img.Layers[2]))
	s.proxy.Reset()
	s.pull(t, Request{Ref: s.ref(t, "third:1")})
	if n := len(s.proxy.Requests("/blobs/" + img.Layers[2].Digest)); n != 1 {
		t.Errorf("the layer was downloaded %d times", n)
	}
}

// With a registry that wants a token, a command that finds its image up to date asks
// for the registry, the token and one HEAD.
func TestPullAgainAsksForLittle(t *testing.T) {
	s := newSetup(t)
	reg := faultproxy.Registry()
	faultproxy.Push(reg, "app", "1", threeLayers())
	proxy := faultproxy.New(&faultproxy.Auth{Next: reg})
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	ref, err := oci.Parse(strings.TrimPrefix(srv.URL, "http://") + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []bool{true, false} {
		proxy.Reset()
		c := client.New(client.Options{}) // as each command has one
		p := New(Options{Registry: c, Images: s.store, Open: s.store.open})
		if r, err := p.Pull(t.Context(), Request{Ref: ref}); err != nil || r[0].New != first {
			t.Errorf("%+v, %v; want it new: %v", r, err, first)
		}
		c.Close()
	}
	var asked []string
	for _, r := range proxy.Requests("") {
		asked = append(asked, r.Method+" "+strings.Split(r.Path, "?")[0])
	}
	if !equal(asked, []string{"GET /v2/", "GET /token", "HEAD /v2/app/manifests/1"}) {
		t.Errorf("asked for %q", asked)
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

func TestPullPlatforms(t *testing.T) {
	s := newSetup(t)
	amd := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "amd"))
	arm := faultproxy.NewImage("linux/arm/v6", nil, faultproxy.NewLayer("a", "arm"))
	for _, img := range []faultproxy.Image{amd, arm} {
		faultproxy.Push(s.reg, "app", "", img)
	}
	index := faultproxy.NewIndex(amd, arm)
	faultproxy.PushManifest(s.reg, "app", "1", index)
	faultproxy.Push(s.reg, "single", "1", arm)

	platform := func(p string) *oci.Platform {
		v, err := oci.ParsePlatform(p, oci.HostPlatform())
		if err != nil {
			t.Fatal(err)
		}
		return &v
	}
	tests := []struct {
		ref, platform string
		is            faultproxy.Image
		digest, fails string
	}{
		{ref: "app:1", platform: "linux/amd64", is: amd, digest: index.Digest},
		{ref: "app:1", platform: "linux/arm/v7", is: arm, digest: index.Digest},
		{ref: "app@" + arm.Manifest.Digest, is: arm, digest: arm.Manifest.Digest},
		{ref: "app:nope@" + index.Digest, platform: "linux/amd64", is: amd, digest: index.Digest},
		{ref: "app:1", platform: "linux/s390x", fails: "no matching manifest for linux/s390x in the manifest list entries"},
		{ref: "single:1", platform: "linux/amd64", fails: "does not match the specified platform: wanted linux/amd64, actual: linux/arm/v6"},
		{ref: "single:1", is: arm, digest: arm.Manifest.Digest},
	}
	for _, tt := range tests {
		req := Request{Ref: s.ref(t, tt.ref)}
		if tt.platform != "" {
			req.Platform = platform(tt.platform)
		}
		r, err := s.Pull(t.Context(), req)
		if tt.fails != "" {
			if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s for %s: %v, want %q", tt.ref, tt.platform, err, tt.fails)
			}
			continue
		}
		if err != nil || "sha256:"+r[0].ID != tt.is.Config.Digest || r[0].Digest != tt.digest {
			t.Errorf("%s for %s: %+v, %v", tt.ref, tt.platform, r, err)
		}
	}
	// The index's digest makes it up to date, too; another platform does not.
	s.proxy.Reset()
	if r := s.pull(t, Request{Ref: s.ref(t, "app:1"), Platform: platform("linux/arm/v7")}); r.New {
		t.Errorf("%+v, want it up to date", r)
	}
	if r := s.pull(t, Request{Ref: s.ref(t, "app:1"), Platform: platform("linux/amd64")}); !r.New || "sha256:"+r.ID != amd.Config.Digest {
		t.Errorf("%+v, want the other platform's", r)
	}
}

func TestPullPolicies(t *testing.T) {
	s := newSetup(t)
	old, newer := threeLayers(), faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("x", "y"))
	faultproxy.Push(s.reg, "app", "1", old)
	ref := s.ref(t, "app:1")

	if _, err := s.Pull(t.Context(), Request{Ref: ref, Policy: Never}); errs.KindOf(err) != errs.NotFound || err.Error() != "no such image: "+ref.Familiar() {
		t.Errorf("never: %v", err)
	}
	if r := s.pull(t, Request{Ref: ref, Policy: Missing}); !r.New {
		t.Errorf("missing: %+v", r)
	}
	faultproxy.Push(s.reg, "app", "1", newer)
	s.proxy.Reset()
	for _, p := range []Policy{Missing, Never} {
		if r := s.pull(t, Request{Ref: ref, Policy: p}); r.New || "sha256:"+r.ID != old.Config.Digest || len(s.proxy.Requests("")) != 0 {
			t.Errorf("%s: %+v, %d requests", p, r, len(s.proxy.Requests("")))
		}
	}
	s.proxy.Add(faultproxy.Fault{Status: 403})
	if r := s.pull(t, Request{Ref: ref, Policy: Newer}); r.New || r.Warning == nil {
		t.Errorf("newer, registry refuses: %+v", r)
	}
	if _, err := s.Pull(t.Context(), Request{Ref: ref, Policy: Always}); errs.KindOf(err) != errs.Denied {
		t.Errorf("always, registry refuses: %v", err)
	}
	s.proxy.Reset()
	if r := s.pull(t, Request{Ref: ref, Policy: Newer}); !r.New || "sha256:"+r.ID != newer.Config.Digest {
		t.Errorf("newer: %+v", r)
	}

	s.o.Verify = func(context.Context, oci.Reference, []string) error { return errs.New(errs.Denied, "not signed") }
	if _, err := s.Pull(t.Context(), Request{Ref: ref}); errs.KindOf(err) != errs.Denied {
		t.Errorf("what is here, since the policy wants it signed: %v", err)
	}
	s.o.Verify = nil
	s.o.Allow = func(transport, scope string) error { return errs.New(errs.Denied, transport+" "+scope) }
	if _, err := s.Pull(t.Context(), Request{Ref: ref}); errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "docker "+ref.String()) {
		t.Errorf("policy: %v", err)
	}
	for in, want := range map[string]Policy{"": Always, "missing": Missing, "IfNotPresent": Missing, "x": ""} {
		if got, err := ParsePolicy(in, Always); got != want || (err != nil) != (want == "") {
			t.Errorf("ParsePolicy(%q) = %q, %v", in, got, err)
		}
	}
}

// Of several images that may be meant the first that can be had is taken, or the
// first that is here.
func TestPullOneOf(t *testing.T) {
	s := newSetup(t)
	faultproxy.Push(s.reg, "second", "latest", threeLayers())
	a, b, c := s.ref(t, "first"), s.ref(t, "second"), s.ref(t, "third")
	var pulling []string
	r, err := s.Pull(t.Context(), Request{Ref: a, Or: []oci.Reference{b, c}, Events: func(e Event) {
		if e.Kind == Pulling {
			pulling = append(pulling, e.Ref.Path)
		}
	}})
	if err != nil || r[0].Ref.Path != "second" || !equal(pulling, []string{"second"}) {
		t.Errorf("%+v, %v; said to pull %q", r, err, pulling)
	}
	s.proxy.Reset()
	if r, err := s.Pull(t.Context(), Request{Ref: a, Or: []oci.Reference{b}, Policy: Missing}); err != nil || r[0].Ref.Path != "second" || len(s.proxy.Requests("")) > 0 {
		t.Errorf("one is here: %+v, %v, %d requests", r, err, len(s.proxy.Requests("")))
	}
	_, err = s.Pull(t.Context(), Request{Ref: a, Or: []oci.Reference{c}})
	if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "/first") || !strings.Contains(err.Error(), "/third") || strings.Contains(err.Error(), "\n") {
		t.Errorf("neither is there: %v", err)
	}
}

func TestPullAllTags(t *testing.T) {
	s := newSetup(t)
	faultproxy.Push(s.reg, "app", "1", threeLayers())
	faultproxy.Push(s.reg, "app", "2", faultproxy.NewImage("linux/amd64", nil))
	r, err := s.Pull(t.Context(), Request{Ref: s.ref(t, "app"), AllTags: true})
	if err != nil || len(r) != 2 || r[0].Ref.Tag != "1" || r[1].Ref.Tag != "2" {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := s.Pull(t.Context(), Request{Ref: s.ref(t, "app:1"), AllTags: true}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("with a tag: %v, want Invalid", err)
	}
}

func TestPullRefuses(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "1", img)
	push := func(repo, data, typ string) {
		faultproxy.PushManifest(s.reg, repo, "1", faultproxy.NewBlob(typ, []byte(data)))
	}
	manifest := string(img.Manifest.Data)
	push("app/more", strings.Replace(manifest, `"layers":[`, `"layers":[{"mediaType":"x","digest":"`+img.Layers[0].Digest+`","size":1},`, 1), oci.TypeOCIManifest)
	push("app/artifact", strings.Replace(manifest, oci.TypeOCIConfig, "application/vnd.x.chart+json", 1), oci.TypeOCIManifest)
	for _, repo := range []string{"app/more", "app/artifact"} {
		faultproxy.PushBlob(s.reg, repo, img.Config)
	}
	for name, want := range map[string]string{
		"app/more:1":     "the manifest has 4 layers, the config 3",
		"app/artifact:1": "not an image but an artifact of type application/vnd.x.chart+json",
		"app:2":          "manifest for " + s.host + "/app:2 not found: manifest unknown",
	} {
		if _, err := s.Pull(t.Context(), Request{Ref: s.ref(t, name)}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), s.host) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if len(s.store.layers) != 0 {
		t.Errorf("%d layers were recorded", len(s.store.layers))
	}
}

func TestPullWrongBytes(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "1", img)
	bad := img.Layers[1]
	s.proxy.Add(faultproxy.Fault{Path: "/blobs/" + bad.Digest, FlipAt: 5000, Times: 1})
	if r := s.pull(t, Request{Ref: s.ref(t, "app:1")}); !r.New {
		t.Errorf("wrong once: %+v", r)
	}

	s.store = newFake()
	s.Puller.o.Images, s.Puller.o.Open = s.store, s.store.open
	s.proxy.Reset()
	s.proxy.Add(faultproxy.Fault{Path: "/blobs/" + bad.Digest, FlipAt: 5000})
	_, err := s.Pull(t.Context(), Request{Ref: s.ref(t, "app:1")})
	for _, want := range []string{s.host, bad.Digest, "1049", "bytes"} {
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("wrong for ever: %v, want Invalid naming %q", err, want)
		}
	}
	if n := len(s.proxy.Requests("/blobs/" + bad.Digest)); n != 2 {
		t.Errorf("%d downloads, want 2", n)
	}
	if len(s.store.images) != 0 {
		t.Error("there is an image")
	}
}

// Two pulls at once download each layer once.
func TestPullTwice(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "1", img)
	s.proxy.Add(faultproxy.Fault{Path: "/blobs/" + img.Layers[1].Digest, PerSecond: 4 << 20})
	var waited sync.Map
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, err := s.Pull(t.Context(), Request{Ref: s.ref(t, "app:1"), Events: func(e Event) {
				if e.Kind == Waiting {
					waited.Store(e.Layer, true)
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, l := range img.Layers {
		if n := len(s.proxy.Requests("/blobs/" + l.Digest)); n != 1 {
			t.Errorf("layer %d was downloaded %d times", i, n)
		}
	}
	if _, ok := waited.Load(short(img.Layers[1].Digest)); !ok {
		t.Error("nobody waited for the slow layer")
	}
}

// Many layers, more than slots, in two pulls that take the locks in different
// orders, must not stop each other.
func TestPullManyLayersTwice(t *testing.T) {
	s := newSetup(t)
	var layers []faultproxy.Layer
	for i := range 20 {
		layers = append(layers, faultproxy.RandomLayer("f", 1000+i*37%500, uint64(i)))
	}
	faultproxy.Push(s.reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, layers...))
	faultproxy.Push(s.reg, "app", "2", faultproxy.NewImage("linux/amd64", nil, append(append([]faultproxy.Layer(nil), layers...), faultproxy.NewLayer("x", "y"))...))
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), Request{Ref: s.ref(t, []string{"app:1", "app:2"}[i%2])}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.store.stages != 21 || len(s.store.layers) != 21 {
		t.Errorf("%d layers staged, %d recorded; want 21", s.store.stages, len(s.store.layers))
	}
}

func TestPullCancel(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "app", "1", img)
	s.proxy.Add(faultproxy.Fault{Path: "/blobs/" + img.Layers[1].Digest, StallAt: 500_000})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Pull(ctx, Request{Ref: s.ref(t, "app:1"), Events: func(e Event) {
		// The layer below is recorded and the stalled one has begun.
		if e.Kind == Complete {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if len(s.store.layers) != 1 || len(s.store.images) != 0 {
		t.Errorf("%d layers, %d images; want the finished layer", len(s.store.layers), len(s.store.images))
	}
	// The next pull goes on from there.
	s.proxy.Reset()
	s.pull(t, Request{Ref: s.ref(t, "app:1")})
	if n := len(s.proxy.Requests("/blobs/" + img.Layers[0].Digest)); n != 0 {
		t.Error("the finished layer was downloaded again")
	}
}

// A base layer that somebody removes in the middle is pulled again.
func TestPullParentGone(t *testing.T) {
	s := newSetup(t)
	img := threeLayers()
	faultproxy.Push(s.reg, "base", "1", faultproxy.NewImage("linux/amd64", nil, img.Layers[0]))
	s.pull(t, Request{Ref: s.ref(t, "base:1")})
	faultproxy.Push(s.reg, "app", "1", img)
	times := 0
	s.store.beforeCommit = func(parent string) error {
		if times++; times == 1 {
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			delete(s.store.layers, parent)
		}
		return nil
	}
	if r := s.pull(t, Request{Ref: s.ref(t, "app:1")}); !r.New || len(s.store.layers) != 3 {
		t.Errorf("%+v, %d layers", r, len(s.store.layers))
	}
	faultproxy.Push(s.reg, "app", "2", faultproxy.NewImage("linux/amd64", nil, append(img.Layers, faultproxy.NewLayer("x", "y"))...))
	s.store.beforeCommit = func(string) error { return ErrParentGone }
	if _, err := s.Pull(t.Context(), Request{Ref: s.ref(t, "app:2")}); !errors.Is(err, ErrParentGone) {
		t.Errorf("gone for ever: %v", err)
	}
}
