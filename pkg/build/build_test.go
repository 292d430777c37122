package build

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
)

// fakeStore is an image store that keeps layers in a directory.
type fakeStore struct {
	dir    string
	mu     sync.Mutex
	images map[string]Image
	held   []string
}

func (s *fakeStore) LayerID(parent, diffID string) string {
	return strings.TrimPrefix(parent+"+"+strings.TrimPrefix(diffID, "sha256:")[:8], "+")
}

func (s *fakeStore) LayerDir(id string) string {
	p := filepath.Join(s.dir, "layers", id)
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}

func (s *fakeStore) LayerDirs(_ context.Context, id string) ([]string, error) {
	var dirs []string
	for id != "" {
		d := s.LayerDir(id)
		if d == "" {
			return nil, os.ErrNotExist
		}
		dirs = append(dirs, d)
		id = id[:max(strings.LastIndexByte(id, '+'), 0)]
	}
	return dirs, nil
}

func (s *fakeStore) HasLayers(ctx context.Context, id string) bool {
	_, err := s.LayerDirs(ctx, id)
	return err == nil
}

func (s *fakeStore) Sizes(context.Context, string) ([]int64, error) { return nil, nil }

func (s *fakeStore) Manifest(_ context.Context, id string, names []string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, ok := s.images[id]
	for _, n := range names {
		ok = ok && slices.Contains(img.Names, n)
	}
	if !ok {
		return nil, nil
	}
	return img.Manifest, nil
}

func (s *fakeStore) ImageLayers(context.Context) (map[string]bool, error) { return s.used(), nil }

func (s *fakeStore) used() map[string]bool {
	used := map[string]bool{}
	for _, img := range s.images {
		for id := img.TopLayer; id != ""; id = id[:max(strings.LastIndexByte(id, '+'), 0)] {
			used[id] = true
		}
	}
	return used
}

func (s *fakeStore) HeldLayers(context.Context) ([]HeldLayer, error) {
	seen := s.used()
	var list []HeldLayer
	for _, h := range s.held {
		for id := h; id != "" && !seen[id]; id = id[:max(strings.LastIndexByte(id, '+'), 0)] {
			seen[id] = true
			list = append(list, HeldLayer{ID: id, Bytes: 100})
		}
	}
	return list, nil
}

func (s *fakeStore) Held() ([]string, error) { return slices.Clone(s.held), nil }

func (s *fakeStore) ReleaseLayers(ids ...string) ([]string, error) {
	s.held = slices.DeleteFunc(s.held, func(id string) bool { return slices.Contains(ids, id) })
	used := s.used()
	for _, h := range s.held {
		for id := h; id != ""; id = id[:max(strings.LastIndexByte(id, '+'), 0)] {
			used[id] = true
		}
	}
	var gone []string
	for _, top := range ids {
		for id := top; id != "" && !used[id]; id = id[:max(strings.LastIndexByte(id, '+'), 0)] {
			gone = append(gone, id)
			if err := os.RemoveAll(filepath.Join(s.dir, "layers", id)); err != nil {
				return nil, err
			}
		}
	}
	return gone, nil
}

func (s *fakeStore) WorkDir() string { return filepath.Join(s.dir, "work") }
func (s *fakeStore) Rootless() bool  { return false }
func (s *fakeStore) Single() bool    { return false }

func (s *fakeStore) AdoptLayer(_ context.Context, parent string, l NewLayer) (string, error) {
	id := s.LayerID(parent, l.Sum.DiffID)
	if s.LayerDir(id) != "" {
		return id, nil
	}
	to := filepath.Join(s.dir, "layers", id)
	if l.Keep {
		return id, os.CopyFS(to, os.DirFS(l.Dir))
	}
	return id, os.Rename(l.Dir, to)
}

func (s *fakeStore) PutLayer(context.Context, string, string, func(io.Writer) error) (string, error) {
	return "", errors.New("not in this test")
}

func (s *fakeStore) HoldLayer(_ context.Context, id string) error {
	s.held = append(s.held, id)
	return nil
}

func (s *fakeStore) Sync() error { return nil }

func (s *fakeStore) PutImage(_ context.Context, img Image) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[digestHex(img.Config)] = img
	return digestHex(img.Config), nil
}

func (s *fakeStore) Fetch(context.Context, *graph.Image, oci.Platform, *progress.Step) (string, error) {
	return "", errors.New("no registry here")
}

type fakeSources struct{ tree *source.Tree }

func (s fakeSources) Local(context.Context, string) (*source.Tree, error) { return s.tree, nil }
func (fakeSources) Git(context.Context, *graph.Git, *progress.Step) (*source.Tree, string, error) {
	return nil, "", errors.New("no git")
}
func (fakeSources) HTTP(context.Context, *graph.HTTP, *progress.Step) (*source.Tree, string, error) {
	return nil, "", errors.New("no http")
}
func (fakeSources) Secret(context.Context, string) ([]byte, bool, error) { return nil, false, nil }
func (fakeSources) Agent(context.Context, string) (func(context.Context) (io.ReadWriteCloser, error), bool, error) {
	return nil, false, nil
}

// seen is a view that keeps which steps were carried out and which were cached.
type seen struct {
	names        map[int]string
	made, cached []string
}

func (v *seen) Event(e progress.Event) {
	switch e.Kind {
	case progress.Start:
		v.names[e.Step] = e.Name
	case progress.Finish:
		if name := v.names[e.Step]; e.Cached {
			v.cached = append(v.cached, name)
		} else if !strings.HasPrefix(name, "export") && !strings.HasPrefix(name, "[internal]") {
			v.made = append(v.made, name)
		}
	}
}
func (*seen) Close() {}

type bench struct {
	t     *testing.T
	store *fakeStore
	ctx   string // the context's directory
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := &fakeStore{dir: t.TempDir(), images: map[string]Image{}}
	if err := os.Mkdir(filepath.Join(s.dir, "layers"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &bench{t, s, t.TempDir()}
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.ctx, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// build builds g and tells which steps it carried out and which it found.
func (b *bench) build(g *graph.Graph, change func(*Request)) (*Result, *seen) {
	b.t.Helper()
	tree, err := source.OpenTree(b.ctx, source.TreeOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer tree.Close()
	v := &seen{names: map[int]string{}}
	svc := New(Options{
		Layers: b.store, Images: b.store,
		Open: func(context.Context) (Store, error) { return b.store, nil },
		Host: func() (plan.Host, error) { return plan.Host{}, nil },
	})
	req := Request{Graph: g, Sources: fakeSources{tree}, Progress: progress.New(v), Record: true, Names: []string{"docker.io/library/x:latest"}}
	if change != nil {
		change(&req)
	}
	res, err := svc.Build(b.t.Context(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(res.Close)
	return res, v
}

// chain is a graph of copies of files of the context, one after the other, and
// perhaps one from another stage at the end.
func chain(from string, names ...string) *graph.Graph {
	var b graph.Builder
	ctx := b.Add(graph.Node{Op: &graph.Local{Name: "context"}, Name: "[internal] load build context"})
	at := graph.None
	var layers []graph.ID
	r := graph.Result{Base: graph.None}
	add := func(n graph.Node) {
		at = b.Add(n)
		layers = append(layers, at)
		r.Config.History = append(r.Config.History, oci.History{CreatedBy: n.Name})
	}
	other := graph.None
	if from != "" {
		other = b.Add(graph.Node{Name: "stage " + from, Op: &graph.Copy{On: graph.None, Dest: "/out", Sources: []graph.CopySource{{From: ctx, Path: "/" + from}}}})
	}
	for _, n := range names {
		add(graph.Node{Name: n, Op: &graph.Copy{On: at, Dest: "/" + n, Sources: []graph.CopySource{{From: ctx, Path: "/" + n}}}})
	}
	if from != "" {
		add(graph.Node{Name: "from stage", Op: &graph.Copy{On: at, Dest: "/out", Sources: []graph.CopySource{{From: other, Path: "/out", KeepOwner: true}}}})
	}
	r.Node, r.Layers = at, layers
	return b.Graph([]graph.Result{r}, graph.Source{})
}

func TestCache(t *testing.T) {
	b := newBench(t)
	for _, n := range []string{"a", "b", "c", "s"} {
		b.write(n, n)
	}
	steps := []struct {
		what         string
		do           func()
		g            *graph.Graph
		change       func(*Request)
		made, cached string
	}{
		{"new", nil, chain("", "a", "b"), nil, "a b", ""},
		{"again", nil, chain("", "a", "b"), nil, "", "a b"},
		{"one more", nil, chain("", "a", "b", "c"), nil, "c", "a b"},
		{"the last one changed", func() { b.write("c", "C") }, chain("", "a", "b", "c"), nil, "c", "a b"},
		{"the first one changed", func() { b.write("a", "A") }, chain("", "a", "b"), nil, "a b", ""},
		{"and back", func() { b.write("a", "a") }, chain("", "a", "b"), nil, "", "a b"},
		{"touched only", func() { b.write("a", "a") }, chain("", "a", "b"), nil, "", "a b"},
		{"another stage", nil, chain("s", "a"), nil, "stage s,from stage", "a"},
		{"again with it", nil, chain("s", "a"), nil, "", "stage s,a,from stage"},
	}
	var last string
	for _, s := range steps {
		if s.do != nil {
			s.do()
		}
		res, v := b.build(s.g, s.change)
		sep := " "
		if strings.Contains(s.made+s.cached, ",") {
			sep = ","
		}
		if got := strings.Join(v.made, sep); got != s.made {
			t.Errorf("%s: made %q, want %q", s.what, got, s.made)
		}
		slices.Sort(v.cached)
		want := strings.Split(s.cached, sep)
		slices.Sort(want)
		if got := strings.Join(v.cached, sep); got != strings.Join(want, sep) {
			t.Errorf("%s: cached %q, want %q", s.what, got, want)
		}
		if s.what == "again" && res.Images[0].ID != last {
			t.Errorf("the same layers give another image: %s, %s", res.Images[0].ID, last)
		}
		last = res.Images[0].ID
		res.Close()
	}
}

func TestSameContentsOfAnotherStage(t *testing.T) {
	b := newBench(t)
	for n, text := range map[string]string{"s": "same", "t": "same"} {
		b.write(n, text)
	}
	b.build(chain("s"), nil)
	_, v := b.build(chain("t"), nil) // made anew, but with the same contents
	if got := strings.Join(v.made, ","); got != "stage t" {
		t.Errorf("made %q", got)
	}
	if got := strings.Join(v.cached, ","); got != "from stage" {
		t.Errorf("cached %q", got)
	}
}

func TestNoCache(t *testing.T) {
	b := newBench(t)
	b.write("a", "a")
	b.write("b", "b")
	b.build(chain("", "a", "b"), nil)
	g := chain("", "a", "b")
	for i := range g.Nodes {
		g.Nodes[i].NoCache = g.Nodes[i].Name == "b"
	}
	if _, v := b.build(g, nil); strings.Join(v.made, " ") != "b" || strings.Join(v.cached, " ") != "a" {
		t.Errorf("made %q, cached %q", v.made, v.cached)
	}
}

func TestCacheOfAnotherMachine(t *testing.T) {
	one := newBench(t)
	for _, n := range []string{"a", "b", "s"} {
		one.write(n, n)
	}
	res, _ := one.build(chain("s", "a", "b"), func(r *Request) { r.CacheMode = CacheMax })
	if len(res.Cache) != 4 {
		t.Fatalf("%d records, want 4: %+v", len(res.Cache), res.Cache)
	}
	for _, r := range res.Cache {
		var n countWriter
		if err := r.Tar(t.Context(), &n); err != nil || int64(n) != r.Size {
			t.Errorf("%s: a tar of %d bytes, %v; want %d", r.Text, n, err, r.Size)
		}
	}
	other := newBench(t)
	for _, n := range []string{"a", "b", "s"} {
		other.write(n, n)
	}
	fetched := 0
	from := CacheSource{Records: res.Cache, Fetch: func(_ context.Context, diffIDs []string, _ *progress.Step) error {
		fetched++
		id := ""
		for _, d := range diffIDs { // as pulling would
			id = other.store.LayerID(id, d)
			if err := os.CopyFS(filepath.Join(other.store.dir, "layers", id), os.DirFS(one.store.LayerDir(id))); err != nil {
				return err
			}
		}
		return nil
	}}
	got, v := other.build(chain("s", "a", "b"), func(r *Request) { r.CacheFrom = []CacheSource{from} })
	if len(v.made) != 0 || fetched != 1 {
		t.Errorf("made %q, fetched %d times", v.made, fetched)
	}
	if got.Images[0].ID != res.Images[0].ID {
		t.Errorf("another image: %s, %s", got.Images[0].ID, res.Images[0].ID)
	}
	broken := newBench(t)
	broken.write("a", "a")
	from.Fetch = func(context.Context, []string, *progress.Step) error { return errors.New("gone") }
	if _, v := broken.build(chain("", "a"), func(r *Request) { r.CacheFrom = []CacheSource{from} }); len(v.made) == 0 {
		t.Error("a cache that cannot be had was used")
	}
}

type countWriter int64

func (n *countWriter) Write(b []byte) (int, error) { *n += countWriter(len(b)); return len(b), nil }

func TestPrune(t *testing.T) {
	b := newBench(t)
	for _, n := range []string{"a", "b", "c"} {
		b.write(n, n)
	}
	for _, names := range [][]string{{"a", "b"}, {"a", "c"}} {
		res, _ := b.build(chain("", names...), nil)
		res.Close()
	}
	svc := New(Options{Layers: b.store, Images: b.store, Open: func(context.Context) (Store, error) { return b.store, nil }})
	usage := func(what string, want int) {
		t.Helper()
		list, err := svc.Usage(t.Context())
		if err != nil || len(list) != want {
			t.Errorf("%s: %d records, %v; want %d", what, len(list), err, want)
		}
	}
	prune := func(what string, o PruneOptions, want int) {
		t.Helper()
		gone, err := svc.Prune(t.Context(), o)
		if err != nil || len(gone) != want {
			t.Errorf("%s: removed %d, %v; want %d", what, len(gone), err, want)
		}
	}
	usage("after two builds", 3)
	prune("what images have", PruneOptions{}, 0)
	b.store.images = map[string]Image{} // as by rmi; the cache holds the layers
	prune("used a moment ago", PruneOptions{All: true, Unused: time.Hour}, 0)
	match, _, err := ParseFilters([]string{"description~=c"})
	if err != nil {
		t.Fatal(err)
	}
	prune("one branch", PruneOptions{Match: match}, 1)
	usage("without it", 2)
	if _, v := b.build(chain("", "a", "b"), nil); len(v.made) != 0 {
		t.Errorf("the other branch was made again: %q", v.made)
	}
	b.store.images = map[string]Image{}
	if _, err := svc.Prune(t.Context(), PruneOptions{All: true}); err != nil { // in use until the test ends
		t.Fatal(err)
	}
	usage("in use", 2)
}

func TestPruneTakesAll(t *testing.T) {
	b := newBench(t)
	b.write("a", "a")
	res, _ := b.build(chain("", "a"), nil)
	res.Close()
	svc := New(Options{Layers: b.store, Images: b.store, Open: func(context.Context) (Store, error) { return b.store, nil }})
	b.store.images = map[string]Image{}
	if gone, err := svc.Prune(t.Context(), PruneOptions{}); err != nil || len(gone) != 1 {
		t.Errorf("removed %d, %v", len(gone), err)
	}
	if left, err := os.ReadDir(filepath.Join(b.store.dir, "layers")); err != nil || len(left) != 0 || len(b.store.held) != 0 {
		t.Errorf("left: %v, %v, held %q", left, err, b.store.held)
	}
}

// A base that only a failed build's cache keeps takes space: it is listed, and
// counted when it goes.
func TestPruneBase(t *testing.T) {
	b := newBench(t)
	if err := os.MkdirAll(filepath.Join(b.store.dir, "layers", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	svc := New(Options{Layers: b.store, Images: b.store, Open: func(context.Context) (Store, error) { return b.store, nil }})
	b.store.images["img"] = Image{TopLayer: "base"}
	b.store.held = []string{"base"}
	if list, err := svc.Usage(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("an image's layer is listed as the cache's: %v, %v", list, err)
	}
	delete(b.store.images, "img")
	if list, err := svc.Usage(t.Context()); err != nil || len(list) != 1 || list[0].Bytes != 100 {
		t.Errorf("listed %v, %v", list, err)
	}
	if gone, err := svc.Prune(t.Context(), PruneOptions{}); err != nil || len(gone) != 1 || gone[0].Bytes != 100 {
		t.Errorf("removed %v, %v", gone, err)
	}
	if list, err := svc.Usage(t.Context()); err != nil || len(list) != 0 || len(b.store.held) != 0 {
		t.Errorf("left %v, %v, held %q", list, err, b.store.held)
	}
}

func TestParseFilters(t *testing.T) {
	for _, f := range []string{"bogus=1", "until=x", "inuse=maybe"} {
		if _, _, err := ParseFilters([]string{f}); err == nil {
			t.Errorf("%s is accepted", f)
		}
	}
	match, unused, err := ParseFilters([]string{"until=24h", "type=regular", "shared!=true"})
	if err != nil || unused != 24*time.Hour || !match(Usage{Type: "regular"}) || match(Usage{Type: "regular", Shared: true}) || match(Usage{Type: "x"}) {
		t.Errorf("%v, %v", unused, err)
	}
}

func TestImage(t *testing.T) {
	b := newBench(t)
	b.write("a", "text")
	res, _ := b.build(chain("", "a"), nil)
	img := b.store.images[res.Images[0].ID]
	var conf oci.Image
	if err := json.Unmarshal(img.Config, &conf); err != nil {
		t.Fatal(err)
	}
	if len(conf.RootFS.DiffIDs) != 1 || conf.RootFS.Type != "layers" || len(conf.History) != 1 || conf.History[0].Created.IsZero() || !conf.Created.Equal(conf.History[0].Created) {
		t.Errorf("config %+v", conf)
	}
	if b, err := os.ReadFile(filepath.Join(b.store.LayerDir(img.TopLayer), "a")); err != nil || string(b) != "text" {
		t.Errorf("the layer: %q, %v", b, err)
	}
	if !slices.Equal(b.store.held, []string{img.TopLayer}) {
		t.Errorf("held %q", b.store.held)
	}
}

func TestDate(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	conf := oci.Image{
		RootFS:  oci.RootFS{DiffIDs: []string{"base1", "base2", "new"}},
		History: []oci.History{{Created: at(1), CreatedBy: "base"}, {CreatedBy: "ENV", EmptyLayer: true}, {CreatedBy: "RUN"}, {CreatedBy: "CMD", EmptyLayer: true}},
	}
	date(&conf, graph.Result{BaseHistory: 1, Config: oci.Image{History: conf.History}}, []time.Time{at(5)})
	if len(conf.History) != 5 || conf.History[1].CreatedBy != "" || conf.History[1].EmptyLayer {
		t.Fatalf("the missing entry of the base: %+v", conf.History)
	}
	for i, want := range []int64{1, -62135596800, 1, 5, 5} {
		if conf.History[i].Created.Unix() != want {
			t.Errorf("entry %d is of %v, want %d", i, conf.History[i].Created, want)
		}
	}
	if conf.Created != at(5) {
		t.Errorf("created %v", conf.Created)
	}
}
