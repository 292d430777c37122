package push

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// memory is a source in memory.
type memory struct {
	docs   map[string][]byte
	layers map[string]Layer // by digest in the manifest
}

func (m memory) Document(_ context.Context, d oci.Descriptor) ([]byte, error) {
	if data, ok := m.docs[d.Digest]; ok {
		return data, nil
	}
	return nil, errs.New(errs.NotFound, "no "+d.Digest)
}

func (m memory) Layer(_ context.Context, d oci.Descriptor, _ string) (Layer, error) {
	return m.layers[d.Digest], nil
}

func opener(data []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// image makes an image whose layers the source has as tars, and whose manifest
// names them as kind says, by blobs that are nowhere.
func (m memory) image(kind compress.Kind, tars ...string) oci.Document {
	conf := oci.Image{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}, RootFS: oci.RootFS{Type: "layers"}}
	doc := map[string]any{"schemaVersion": 2, "mediaType": oci.TypeOCIManifest, "annotations": map[string]string{"a": "b"}}
	layers := []oci.Descriptor{}
	for _, tar := range tars {
		diff := oci.Digest([]byte(tar))
		d := oci.Descriptor{MediaType: layerType(oci.TypeOCIManifest, kind), Digest: diff, Size: int64(len(tar))}
		if kind != compress.None {
			d.Digest, d.Size = oci.Digest([]byte("blob of "+tar)), 11
		}
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, diff)
		layers = append(layers, d)
		l := m.layers[d.Digest]
		l.Tar, l.Size = opener([]byte(tar)), int64(len(tar))
		m.layers[d.Digest] = l
	}
	raw, _ := json.Marshal(conf)
	m.docs[oci.Digest(raw)] = raw
	doc["config"] = oci.Descriptor{MediaType: oci.TypeOCIConfig, Digest: oci.Digest(raw), Size: int64(len(raw))}
	doc["layers"] = layers
	data, _ := json.Marshal(doc)
	m.docs[oci.Digest(data)] = data
	return oci.Document{MediaType: oci.TypeOCIManifest, Digest: oci.Digest(data), Data: data}
}

func newMemory() memory { return memory{map[string][]byte{}, map[string]Layer{}} }

// fakeTarget is a registry of one repository.
type fakeTarget struct {
	mu        sync.Mutex
	blobs     map[string][]byte
	neighbour map[string]string // digest → repository that has it
	tags      map[string]oci.Document
	lies      bool // it says once that it has everything
	puts      int
	from      []string
}

func newTarget() *fakeTarget {
	return &fakeTarget{blobs: map[string][]byte{}, neighbour: map[string]string{}, tags: map[string]oci.Document{}}
}

func (f *fakeTarget) pusher() *Pusher {
	return New(Options{Spool: "/tmp", Open: func(_ context.Context, _ oci.Reference, from []string) (Target, error) {
		f.from = from
		return f, nil
	}})
}

func (f *fakeTarget) HasBlob(_ context.Context, digest string) (int64, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, ok := f.blobs[digest]
	if f.lies {
		return -1, true, nil
	}
	return int64(len(data)), ok, nil
}

func (f *fakeTarget) Mount(_ context.Context, digest, from string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.neighbour[digest] != from {
		return false, nil
	}
	f.blobs[digest] = []byte("mounted")
	return true, nil
}

func (f *fakeTarget) PutBlob(_ context.Context, c Content) error {
	r, err := c.Open(0)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	again, _ := c.Open(int64(len(data) / 2)) // a resumed upload
	if half, err := io.ReadAll(again); err != nil || !bytes.Equal(half, data[len(data)/2:]) {
		return errors.New("the second reader has other bytes")
	}
	digest, size, err := c.Digest()
	if err != nil || size != int64(len(data)) || oci.Digest(data) != digest {
		return errors.New("the digest is wrong")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.puts++
	f.blobs[digest] = data
	return nil
}

func (f *fakeTarget) PutManifest(_ context.Context, tag string, doc oci.Document) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, x, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return err
	}
	if x != nil {
		for _, d := range x.Manifests {
			if _, ok := f.tags[d.Digest]; !ok {
				return errors.New("index before its manifest")
			}
		}
	} else {
		for _, d := range append(m.Layers, m.Config) {
			if _, ok := f.blobs[d.Digest]; !ok {
				f.lies = false
				return ErrBlobsGone
			}
		}
	}
	f.tags[doc.Digest] = doc
	if tag != "" {
		f.tags[tag] = doc
	}
	return nil
}

func ref(t testing.TB, s string) oci.Reference {
	t.Helper()
	r, err := oci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The pushed manifest is the stored one if its blobs are there, wherever they
// come from, and another one if they had to be made anew.
func TestPushDigest(t *testing.T) {
	m := newMemory()
	root := m.image(compress.Gzip, "one", "two")
	req := Request{Ref: ref(t, "r.test/a:1"), Root: root, Source: m}

	f := newTarget()
	res, err := f.pusher().Push(t.Context(), req)
	if err != nil || res.Root.Digest == root.Digest || f.puts != 3 || f.tags["1"].Digest != res.Root.Digest {
		t.Fatalf("compressed anew: %+v, %d puts, %v", res.Root.Digest, f.puts, err)
	}
	if !bytes.Contains(res.Root.Data, []byte(`"a":"b"`)) {
		t.Errorf("annotations are lost: %s", res.Root.Data)
	}
	got, _, err := oci.ParseManifest(res.Root.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range got.Layers {
		z, err := gzip.NewReader(bytes.NewReader(f.blobs[d.Digest]))
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(z); err != nil || string(data) != []string{"one", "two"}[i] || d.Size != int64(len(f.blobs[d.Digest])) {
			t.Errorf("layer %d: %q, %v", i, data, err)
		}
	}

	// Again, with what was learned: nothing moves, and the digest stays.
	for _, s := range res.Layers {
		for d, l := range m.layers {
			if oci.Digest([]byte("one")) == s.DiffID && d == oci.Digest([]byte("blob of one")) || oci.Digest([]byte("two")) == s.DiffID && d == oci.Digest([]byte("blob of two")) {
				l.Known = append(l.Known, s.Known)
				m.layers[d] = l
			}
		}
	}
	f.puts = 0
	again, err := f.pusher().Push(t.Context(), req)
	if err != nil || again.Root.Digest != res.Root.Digest || f.puts != 0 {
		t.Errorf("again: %s, want %s, %d puts, %v", again.Root.Digest, res.Root.Digest, f.puts, err)
	}

	// To a neighbour in the same registry: mounted.
	g := newTarget()
	for _, s := range res.Layers {
		g.neighbour[s.Digest] = "r.test/a"
	}
	var events []string
	req.Ref = ref(t, "r.test/b:1")
	req.Events = func(e Event) {
		if e.Kind == Mounted {
			events = append(events, e.Text)
		}
	}
	again, err = g.pusher().Push(t.Context(), req)
	if err != nil || g.puts != 1 || !slices.Equal(events, []string{"a", "a"}) || !slices.Equal(g.from, []string{"r.test/a"}) {
		t.Errorf("mounted: %d puts, %v, from %v, %v", g.puts, events, g.from, err)
	}
	if again.Root.Digest != res.Root.Digest {
		t.Errorf("mounted: another digest")
	}

	// The original blobs are there: the manifest stays as it is.
	h := newTarget()
	for d := range m.layers {
		h.blobs[d] = []byte("blob of xxx")
	}
	again, err = h.pusher().Push(t.Context(), req)
	if err != nil || again.Root.Digest != root.Digest || h.puts != 1 {
		t.Errorf("there already: %d puts, %v", h.puts, err)
	}

	// The registry says it has them, and has not.
	l := newTarget()
	l.lies = true
	if _, err = l.pusher().Push(t.Context(), req); err != nil || l.puts != 3 {
		t.Errorf("a registry that lies: %d puts, %v", l.puts, err)
	}
}

// Blobs that are kept go as they are.
func TestPushBlobs(t *testing.T) {
	m := newMemory()
	root := m.image(compress.Gzip, "one")
	d := oci.Digest([]byte("blob of one"))
	m.layers[d] = Layer{Blob: opener([]byte("blob of one"))}
	f := newTarget()
	res, err := f.pusher().Push(t.Context(), Request{Ref: ref(t, "r.test/a:1"), Root: root, Source: m})
	if err != nil || res.Root.Digest != root.Digest || string(f.blobs[d]) != "blob of one" {
		t.Errorf("%s, %v", res.Root.Digest, err)
	}
}

func TestPushFormats(t *testing.T) {
	m := newMemory()
	root := m.image(compress.Gzip, "one")
	for _, c := range []struct {
		req             Request
		manifest, layer string
		err             string
	}{
		{Request{Format: Docker}, oci.TypeDockerManifest, dockerLayer + ".gzip", ""},
		{Request{Compression: Compression{Kind: compress.Zstd}}, oci.TypeOCIManifest, ociLayer + "+zstd", ""},
		{Request{Compression: Compression{Kind: compress.Zstd, Level: 9, Force: true}}, oci.TypeOCIManifest, ociLayer + "+zstd", ""},
		{Request{Compression: Compression{Kind: compress.Zstd}, Format: Docker}, "", "", "no zstd"},
	} {
		c.req.Ref, c.req.Root, c.req.Source = ref(t, "r.test/a:1"), root, m
		res, err := newTarget().pusher().Push(t.Context(), c.req)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c.req.Compression, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := oci.ParseManifest(res.Root.Data, res.Root.MediaType)
		if err != nil || got.MediaType != c.manifest || got.Layers[0].MediaType != c.layer {
			t.Errorf("%s %s, %v", got.MediaType, got.Layers[0].MediaType, err)
		}
		if docker := c.manifest == oci.TypeDockerManifest; docker != (got.Config.MediaType == oci.TypeDockerConfig) || docker && got.Annotations != nil {
			t.Errorf("config %s, annotations %v", got.Config.MediaType, got.Annotations)
		}
	}
}

// An index goes after its manifests, and names what became of them.
func TestPushIndex(t *testing.T) {
	m := newMemory()
	a, b := m.image(compress.None, "one"), m.image(compress.None, "one", "two")
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.TypeOCIIndex, "manifests": []oci.Descriptor{
		{MediaType: a.MediaType, Digest: a.Digest, Size: int64(len(a.Data)), Platform: &oci.Platform{OS: "linux", Architecture: "amd64"}},
		{MediaType: b.MediaType, Digest: b.Digest, Size: int64(len(b.Data)), Platform: &oci.Platform{OS: "linux", Architecture: "arm64"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	root := oci.Document{MediaType: oci.TypeOCIIndex, Digest: oci.Digest(data), Data: data}
	f := newTarget()
	res, err := f.pusher().Push(t.Context(), Request{Ref: ref(t, "r.test/a:1"), Root: root, Source: m})
	if err != nil {
		t.Fatal(err)
	}
	_, x, err := oci.ParseManifest(res.Root.Data, "")
	if err != nil || len(x.Manifests) != 2 || x.Manifests[1].Platform.Architecture != "arm64" {
		t.Fatalf("%+v, %v", x, err)
	}
	if f.tags["1"].Digest != res.Root.Digest || len(f.tags) != 4 || f.puts != 4 {
		t.Errorf("%d tags, %d puts", len(f.tags), f.puts)
	}
}

// A layer that is not what it was is not pushed.
func TestPushDamaged(t *testing.T) {
	m := newMemory()
	root := m.image(compress.None, "one")
	m.layers[oci.Digest([]byte("one"))] = Layer{Tar: opener([]byte("two")), Size: 3}
	f := newTarget()
	_, err := f.pusher().Push(t.Context(), Request{Ref: ref(t, "r.test/a:1"), Root: root, Source: m})
	if _, ok := errors.AsType[*oci.DigestError](err); !ok || len(f.tags) != 0 {
		t.Errorf("%v", err)
	}
	if _, err := Archive(t.Context(), NewTar(io.Discard), []Saved{{Root: root, Source: m}}, ArchiveOptions{Layout: Layout{OCI: true}}); err == nil {
		t.Error("it is saved")
	}
}

// The same images make the same archive, with each blob once.
func TestArchive(t *testing.T) {
	m := newMemory()
	a, b := m.image(compress.Gzip, "one"), m.image(compress.Gzip, "one", "two")
	images := []Saved{
		{Names: []oci.Reference{ref(t, "a:1"), ref(t, "r.test/b:2")}, Root: a, Source: m},
		{Names: []oci.Reference{ref(t, "c:1")}, Root: b, Source: m},
		{Root: b, Source: m},
	}
	write := func(o ArchiveOptions) ([]string, map[string]string, []byte) {
		var out bytes.Buffer
		o.Spool = t.TempDir()
		if _, err := Archive(t.Context(), NewTar(&out), images, o); err != nil {
			t.Fatal(err)
		}
		var names []string
		files := map[string]string{}
		for r := tar.NewReader(bytes.NewReader(out.Bytes())); ; {
			h, err := r.Next()
			if err == io.EOF {
				return names, files, out.Bytes()
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := files[h.Name]; twice {
				t.Errorf("%s is in it twice", h.Name)
			}
			names, files[h.Name] = append(names, h.Name), string(data)
		}
	}
	both := ArchiveOptions{Layout: Layout{OCI: true, Docker: true}}
	names, files, raw := write(both)
	if _, _, again := write(both); !bytes.Equal(raw, again) {
		t.Error("two archives of the same differ")
	}
	one, two := blobName(oci.Digest([]byte("one"))), blobName(oci.Digest([]byte("two")))
	if files[one] != "one" || files[two] != "two" {
		t.Errorf("%q", names)
	}
	for name, data := range files {
		if d, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && d != "" && oci.Digest([]byte(data)) != "sha256:"+d {
			t.Errorf("%s has another digest", name)
		}
	}
	var list []struct{ RepoTags, Layers []string }
	if err := json.Unmarshal([]byte(files["manifest.json"]), &list); err != nil || len(list) != 2 ||
		!slices.Equal(list[0].RepoTags, []string{"a:1", "r.test/b:2"}) || !slices.Equal(list[1].Layers, []string{one, two}) {
		t.Errorf("manifest.json: %s", files["manifest.json"])
	}
	_, x, err := oci.ParseManifest([]byte(files["index.json"]), "")
	if err != nil || len(x.Manifests) != 3 || x.Manifests[1].Annotations["io.containerd.image.name"] != "r.test/b:2" {
		t.Errorf("index.json: %s", files["index.json"])
	}
	if !strings.Contains(files["repositories"], `"r.test/b":{"2":"`) {
		t.Errorf("repositories: %s", files["repositories"])
	}

	_, files, _ = write(ArchiveOptions{Layout: Layout{OCI: true}, Compress: true})
	if _, ok := files["manifest.json"]; ok {
		t.Error("an OCI archive has Docker's list")
	}
	if _, x, err = oci.ParseManifest([]byte(files["index.json"]), ""); err != nil {
		t.Fatal(err)
	}
	got, _, err := oci.ParseManifest([]byte(files[blobName(x.Manifests[2].Digest)]), "")
	if err != nil || len(got.Layers) != 2 || got.Layers[0].MediaType != ociLayer+"+gzip" {
		t.Fatalf("%+v, %v", got, err)
	}
	z, err := compress.Reader(strings.NewReader(files[blobName(got.Layers[1].Digest)]))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(z); err != nil || string(data) != "two" {
		t.Errorf("%q, %v", data, err)
	}
}
