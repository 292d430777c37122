package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/userns"
	"cais.dev/cais/test/faultproxy"
)

// pullSetup is a registry with an image and an engine with an empty store.
type pullSetup struct {
	*Engine
	reg   http.Handler
	proxy *faultproxy.Proxy
	host  string
	root  string
	img   faultproxy.Image
}

func newPullSetup(t *testing.T) *pullSetup {
	t.Helper()
	if userns.Needed() {
		t.Skip("needs root, or a user namespace, to unpack")
	}
	s := &pullSetup{reg: faultproxy.Registry(), root: t.TempDir()}
	s.proxy = faultproxy.New(s.reg)
	srv := httptest.NewServer(s.proxy)
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	s.img = faultproxy.NewImage("linux/"+oci.HostPlatform().Architecture, []string{"sh"},
		faultproxy.NewLayer("a", "1", "dir/b", "2"), faultproxy.RandomLayer("big", 2<<20, 1), faultproxy.NewLayer("dir/b", "3"))
	faultproxy.Push(s.reg, "app", "1", s.img)
	env := map[string]string{"CAIS_ROOT": s.root, "HOME": s.root, "STORAGE_DRIVER": "overlay"}
	s.Engine = New(Options{Getenv: func(k string) string { return env[k] }})
	return s
}

func (s *pullSetup) pull(t *testing.T, ctx context.Context, events func(pull.Event)) ([]pull.Result, error) {
	t.Helper()
	p, end, err := s.Puller(PullerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := oci.Parse(s.host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Pull(ctx, pull.Request{Ref: ref, Events: events})
	return res, errors.Join(err, end())
}

// left lists what a pull that did not succeed must not leave.
func (s *pullSetup) left(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.Contains(path, "/staging/") || strings.Contains(path, "/tempdirs/") || strings.HasPrefix(d.Name(), ".cais-")) {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPullIntoStore(t *testing.T) {
	s := newPullSetup(t)
	res, err := s.pull(t, t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(res) != 1 || !res[0].New || "sha256:"+res[0].ID != s.img.Config.Digest || res[0].Digest != s.img.Manifest.Digest {
		t.Errorf("got %+v", res)
	}
	r, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.Image(t.Context(), s.host+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := r.LowerDirs(t.Context(), img)
	if err != nil || len(dirs) != 3 {
		t.Fatalf("layers %q, %v", dirs, err)
	}
	if b, err := os.ReadFile(filepath.Join(dirs[0], "dir/b")); err != nil || string(b) != "3" {
		t.Errorf("the top layer's file: %q, %v", b, err)
	}
	s.proxy.Reset()
	if res, err = s.pull(t, t.Context(), nil); err != nil || res[0].New {
		t.Errorf("again: %+v, %v", res, err)
	}
	if n := len(s.proxy.Requests("/v2/app/")); n != 1 {
		t.Errorf("%d requests for what is up to date, want 1", n)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// An image whose layers are here may say of them what it likes: a blob that did not come
// is not noted as one of theirs, and so is not pushed for another image.
func TestBlobsThatDidNotComeAreNotNoted(t *testing.T) {
	s := newPullSetup(t)
	if _, err := s.pull(t, t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	lie := s.img.Layers[0]
	lie.Blob = faultproxy.NewLayer("another", "tar").Blob
	faultproxy.Push(s.reg, "app", "1", faultproxy.NewImage("linux/"+oci.HostPlatform().Architecture, []string{"lie"}, lie, s.img.Layers[1]))
	if res, err := s.pull(t, t.Context(), nil); err != nil || !res[0].New {
		t.Fatal(res, err)
	}
	r, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	seen, err := r.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if b := seen.Blobs[lie.DiffID]; len(b) != 1 || b[0].Digest != s.img.Layers[0].Digest {
		t.Errorf("noted of %s: %+v; want the blob that came", lie.DiffID, b)
	}
}

func TestPullIntoStoreFails(t *testing.T) {
	s := newPullSetup(t)
	big := s.img.Layers[1].Digest
	s.proxy.Add(faultproxy.Fault{Path: big, FlipAt: 1 << 20})
	_, err := s.pull(t, t.Context(), nil)
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), big) || !strings.Contains(err.Error(), s.host) {
		t.Errorf("wrong bytes: %v", err)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("wrong bytes left %q", left)
	}

	// Cut off in the middle: the layers below are kept.
	s.proxy.Reset()
	s.proxy.Add(faultproxy.Fault{Path: big, StallAt: 1 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.pull(t, ctx, func(e pull.Event) {
		if e.Kind == pull.Downloading && strings.Contains(big, e.Layer) && e.Done >= 1<<19 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("cancelling left %q", left)
	}
	s.proxy.Reset()
	s.proxy.Add(faultproxy.Fault{Path: big, CutAt: 700_000, Times: 2})
	if res, err := s.pull(t, t.Context(), nil); err != nil || !res[0].New {
		t.Errorf("at last: %+v, %v", res, err)
	}
	if n := len(s.proxy.Requests("/blobs/" + s.img.Layers[0].Digest)); n != 0 {
		t.Errorf("the finished layer was downloaded again")
	}
}

func TestPullIntoStoreTwice(t *testing.T) {
	s := newPullSetup(t)
	other := New(s.Options()) // as another process: with a store of its own
	var wg sync.WaitGroup
	for _, e := range []*Engine{s.Engine, other} {
		wg.Go(func() {
			two := *s
			two.Engine = e
			if _, err := two.pull(t, t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, l := range s.img.Layers {
		if n := len(s.proxy.Requests("/blobs/" + l.Digest)); n != 1 {
			t.Errorf("layer %d was downloaded %d times", i, n)
		}
	}
}

func TestLoadIntoStore(t *testing.T) {
	s := newPullSetup(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	var layers []string
	for _, l := range s.img.Layers {
		layers = append(layers, l.DiffID[7:]+"/layer.tar")
		add(l.DiffID[7:]+"/layer.tar", l.Tar)
	}
	add("config.json", s.img.Config.Data)
	doc, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"x:1"}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	add("manifest.json", doc)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p, end, err := s.Puller(PullerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.Load(t.Context(), pull.LoadRequest{In: &b, Name: "stdin"})
	if err := errors.Join(err, end()); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Lines()[0] != "Loaded image: x:1" || "sha256:"+all[0].ID != s.img.Config.Digest {
		t.Errorf("got %+v", all)
	}
	r, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	if img, err := r.Image(t.Context(), "docker.io/library/x:1"); err != nil || img.ID != all[0].ID {
		t.Errorf("%+v, %v", img, err)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
