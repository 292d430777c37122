package pull

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/faultproxy"
)

// tarball makes a tar of name and content in turn. A content "->x" is a symlink,
// "=>x" a hard link.
func tarball(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(files[i+1]))}
		data := files[i+1]
		switch {
		case strings.HasSuffix(files[i], "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(data, "->"):
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeSymlink, data[2:], 0, ""
		case strings.HasPrefix(data, "=>"):
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeLink, data[2:], 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerArchive is what docker save wrote before version 25.
func dockerArchive(t testing.TB, img faultproxy.Image, tags ...string) []string {
	t.Helper()
	var files, layers []string
	for _, l := range img.Layers {
		name := short(l.DiffID) + "/layer.tar"
		files = append(files, short(l.DiffID)+"/", "", name, string(l.Tar))
		layers = append(layers, name)
	}
	config := img.Config.Digest[7:] + ".json"
	doc, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": tags, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	return append(files, config, string(img.Config.Data), "manifest.json", string(doc))
}

// layout is an OCI layout of images; names are their annotations.
func layout(t testing.TB, annotation string, names []string, images ...faultproxy.Image) []string {
	t.Helper()
	files := []string{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "blobs/", "", "blobs/sha256/", ""}
	var list []oci.Descriptor
	for i, img := range images {
		d := img.Manifest.Descriptor
		if names[i] != "" {
			d.Annotations = map[string]string{annotation: names[i]}
		}
		list = append(list, d)
		blobs := []faultproxy.Blob{img.Manifest, img.Config}
		for _, l := range img.Layers {
			blobs = append(blobs, l.Blob)
		}
		for _, b := range blobs {
			files = append(files, blobName(b.Digest), string(b.Data))
		}
	}
	doc, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": list})
	if err != nil {
		t.Fatal(err)
	}
	return append(files, "index.json", string(doc))
}

func loader(t testing.TB) (*Puller, *fakeStore, string) {
	f, spool := newFake(), t.TempDir()
	return New(Options{Images: f, Open: f.open, Spool: spool}), f, spool
}

func lines(all []Loaded) []string {
	var s []string
	for _, l := range all {
		s = append(s, l.Lines()...)
	}
	return s
}

func TestLoad(t *testing.T) {
	img, other := threeLayers(), faultproxy.NewImage("linux/arm64", nil, faultproxy.NewLayer("x", "y"))
	const containerd, ociName = "io.containerd.image.name", "org.opencontainers.image.ref.name"
	id := func(i faultproxy.Image) string { return "Loaded image ID: " + i.Config.Digest }

	// The oldest form: ids of layers, no config, no manifest.
	legacy := []string{
		"repositories", `{"old":{"1":"top","2":"top"}}`,
		"base/json", `{"id":"base","created":"2014-01-01T00:00:00Z","container_config":{"Cmd":["/bin/sh","-c","x"]}}`, "base/layer.tar", string(img.Layers[0].Tar),
		"top/json", `{"id":"top","parent":"base","config":{"Cmd":["sh"]},"architecture":"amd64","os":"linux"}`, "top/layer.tar", string(img.Layers[1].Tar),
	}
	linked := dockerArchive(t, faultproxy.NewImage("linux/amd64", nil, img.Layers[0], img.Layers[1], img.Layers[0]), "l:1")
	linked[1+2*2] = "" // the third layer, a directory's content: unused
	for i := len(linked) - 2; i >= 0; i -= 2 {
		if linked[i] == short(img.Layers[0].DiffID)+"/layer.tar" {
			linked[i+1] = "->../real/layer.tar"
			break
		}
	}
	linked = append(linked, "real/layer.tar", string(img.Layers[0].Tar))

	both := append(dockerArchive(t, img, "docker:1"), layout(t, containerd, []string{"docker.io/library/both:1"}, img)...)
	tests := []struct {
		name   string
		files  []string
		want   []string
		layers int
	}{
		{"docker", dockerArchive(t, img, "x:1", "host.x/y"), []string{"Loaded image: x:1", "Loaded image: host.x/y:latest"}, 3},
		{"docker without a name", dockerArchive(t, img), []string{id(img)}, 3},
		{"docker without layers", dockerArchive(t, faultproxy.NewImage("linux/amd64", nil), "x:1"), []string{"Loaded image: x:1"}, 0},
		{"docker with links", linked, []string{"Loaded image: l:1"}, 3},
		{"legacy", legacy, []string{"Loaded image: old:1", "Loaded image: old:2"}, 2},
		{"oci", layout(t, ociName, []string{""}, img), []string{id(img)}, 3},
		{"oci with a tag only", layout(t, ociName, []string{"latest"}, img), []string{id(img)}, 3},
		{"oci with a name", layout(t, ociName, []string{"host.x/y:2"}, img), []string{"Loaded image: host.x/y:2"}, 3},
		{"several", layout(t, containerd, []string{"docker.io/library/a:1", "docker.io/library/b:1"}, img, other), []string{"Loaded image: a:1", "Loaded image: b:1"}, 4},
		{"one with two names", layout(t, containerd, []string{"docker.io/library/a:1", "docker.io/library/a:2"}, img, img), []string{"Loaded image: a:1", "Loaded image: a:2"}, 3},
		{"both forms", both, []string{"Loaded image: both:1"}, 3},
		{"with ./", prefixed(dockerArchive(t, img, "x:1")), []string{"Loaded image: x:1"}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, f, _ := loader(t)
			all, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(tarball(t, tt.files...)), Name: "f.tar"})
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(all); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(f.layers) != tt.layers {
				t.Errorf("%d layers, want %d", len(f.layers), tt.layers)
			}
			for _, put := range f.put {
				if m, _, err := oci.ParseManifest(put.Manifest, ""); err != nil || m.Config.Digest != sha(put.Config) {
					t.Errorf("manifest %s: %v", put.Manifest, err)
				}
			}
			f.clean(t)
		})
	}
}

func prefixed(files []string) []string {
	out := slices.Clone(files)
	for i := 0; i < len(out); i += 2 {
		out[i] = "./" + out[i]
	}
	return out
}

func TestLoadStreams(t *testing.T) {
	img := threeLayers()
	plain := tarball(t, dockerArchive(t, img, "x:1")...)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(plain)
	g.Close()
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(plain)
	z.Close()
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func() io.Reader{
		"plain stream": func() io.Reader { return bytes.NewReader(plain) },
		"gzip":         func() io.Reader { return bytes.NewReader(gz.Bytes()) },
		"zstd":         func() io.Reader { return bytes.NewReader(zs.Bytes()) },
		"file": func() io.Reader {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		},
	}
	for _, tool := range []string{"xz", "bzip2"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("%s is not installed: its streams are not tried", tool)
			continue
		}
		cmd := exec.Command(tool, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		tests[tool] = func() io.Reader { return bytes.NewReader(out) }
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			p, f, spool := loader(t)
			all, err := p.Load(t.Context(), LoadRequest{In: in(), Name: "x"})
			if err != nil || !slices.Equal(lines(all), []string{"Loaded image: x:1"}) || len(f.layers) != 3 {
				t.Errorf("got %q, %v", lines(all), err)
			}
			if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
				t.Errorf("left in the spool: %v, %v", left, err)
			}
		})
	}
}

func TestLoadPlatform(t *testing.T) {
	amd := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "amd"))
	arm := faultproxy.NewImage("linux/arm64", nil, faultproxy.NewLayer("a", "arm"))
	index := faultproxy.NewIndex(amd, arm)
	files := layout(t, "x", []string{"", ""}, amd, arm)
	doc, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []oci.Descriptor{{
		MediaType: index.MediaType, Digest: index.Digest, Size: index.Size,
		Annotations: map[string]string{"io.containerd.image.name": "docker.io/library/m:1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	files[len(files)-1] = string(doc)
	data := tarball(t, append(files, blobName(index.Digest), string(index.Data))...)
	for platform, want := range map[string]string{"linux/arm64": arm.Config.Digest, "linux/amd64": amd.Config.Digest, "linux/s390x": ""} {
		p, f, _ := loader(t)
		v, err := oci.ParsePlatform(platform, oci.HostPlatform())
		if err != nil {
			t.Fatal(err)
		}
		all, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(data), Name: "x", Platform: &v})
		if want == "" {
			if errs.KindOf(err) != errs.NotFound || len(f.put) != 0 {
				t.Errorf("%s: %v, want NotFound", platform, err)
			}
			continue
		}
		if err != nil || len(all) != 1 || "sha256:"+all[0].ID != want || !bytes.Equal(f.put[0].Index, index.Data) {
			t.Errorf("%s: %+v, %v", platform, all, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	img := threeLayers()
	good := dockerArchive(t, img, "x:1")
	whole := tarball(t, good...)
	replace := func(name, data string) []byte {
		files := slices.Clone(good)
		for i := 0; i < len(files); i += 2 {
			if files[i] == name {
				files[i+1] = data
			}
		}
		return tarball(t, files...)
	}
	flipped := layout(t, "", []string{""}, img)
	for i, f := range flipped {
		if strings.HasSuffix(f, img.Config.Digest[7:]) {
			flipped[i+1] += " "
		}
	}
	gz := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(data)
		w.Close()
		return b.Bytes()
	}
	tests := []struct {
		name, want string
		data       []byte
	}{
		{"empty", "no image archive|not an image archive", nil},
		{"a line of text", "not an image archive", []byte("hello\n")},
		{"text", "not an image archive", []byte(strings.Repeat("hello ", 500))},
		{"a tar of something else", "not an image archive", tarball(t, "a", "b")},
		{"truncated in a layer", "load f.tar: the archive is truncated", whole[:len(whole)/2]},
		{"truncated gzip", "load f.tar: the archive is truncated", gz(whole)[:100_000]},
		{"no such layer", "the archive lacks nope/layer.tar", replace("manifest.json", `[{"Config":"`+img.Config.Digest[7:]+`.json","Layers":["`+short(img.Layers[0].DiffID)+`/layer.tar","nope/layer.tar","../../etc/passwd"]}]`)},
		{"path outside", "the archive lacks /etc/passwd", replace("manifest.json", `[{"Config":"/etc/passwd"}]`)},
		{"wrong layer", "does not have its digest", replace(short(img.Layers[2].DiffID)+"/layer.tar", "x")},
		{"name with a digest", "only tags are allowed", tarball(t, dockerArchive(t, img, "x@sha256:"+strings.Repeat("a", 64))...)},
		{"bad name", "invalid reference format", tarball(t, dockerArchive(t, img, "Not A Name")...)},
		{"not JSON", "manifest.json", replace("manifest.json", "x")},
		{"no images", "holds no image", replace("manifest.json", "[]")},
		{"layers and config differ", "1 layers of an image, its config says 3", replace("manifest.json", `[{"Config":"`+img.Config.Digest[7:]+`.json","Layers":["`+short(img.Layers[0].DiffID)+`/layer.tar"]}]`)},
		{"link loop", "leads nowhere", tarball(t, "manifest.json", "->other", "other", "->manifest.json")},
		{"link outside", "the archive lacks manifest.json", tarball(t, "manifest.json", "->../../../etc/passwd")},
		{"wrong blob", "does not have its digest", tarball(t, flipped...)},
		{"digest with a path", "digest", tarball(t, "oci-layout", "{}", "index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}`)},
		{"parents in a circle", "go in a circle", tarball(t, "repositories", `{"a":{"1":"x"}}`, "x/json", `{"parent":"x"}`, "x/layer.tar", "")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, f, _ := loader(t)
			_, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(tt.data), Name: "f.tar"})
			ok := false
			for w := range strings.SplitSeq(tt.want, "|") {
				ok = ok || err != nil && strings.Contains(err.Error(), w)
			}
			if !ok || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "f.tar") {
				t.Errorf("got %v (kind %v), want %q", err, errs.KindOf(err), tt.want)
			}
			if len(f.put) != 0 {
				t.Error("there is an image")
			}
			f.clean(t)
		})
	}
}

func TestAnnotatedName(t *testing.T) {
	for name, want := range map[string]bool{
		"host.x/y:1": true, "y": true, "y@sha256:" + strings.Repeat("a", 64): false, "y:1@sha256:" + strings.Repeat("a", 64): false, "": false,
	} {
		if _, ok := annotatedName(oci.Descriptor{Annotations: map[string]string{"io.containerd.image.name": name}}); ok != want {
			t.Errorf("%q: %v, want %v", name, ok, want)
		}
	}
}

func TestLoadPolicy(t *testing.T) {
	p, _, _ := loader(t)
	p.o.Allow = func(transport, _ string) error { return errs.New(errs.Denied, transport) }
	_, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(tarball(t, dockerArchive(t, threeLayers(), "x:1")...)), Name: "x"})
	if errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "docker-archive") {
		t.Errorf("got %v", err)
	}
}

// An archive that ends too early is told to, wherever it is cut, and leaves nothing.
func TestLoadTruncated(t *testing.T) {
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.RandomLayer("one", 2<<20+7, 1), faultproxy.RandomLayer("two", 1<<20, 2))
	archives := map[string][]byte{
		"docker": tarball(t, dockerArchive(t, img, "x:1")...),
		"oci":    tarball(t, layout(t, "io.containerd.image.name", []string{"x:1"}, img)...),
	}
	packers := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
	}
	for _, form := range []string{"docker", "oci"} {
		for kind, pack := range packers {
			var b bytes.Buffer
			w := pack(&b)
			w.Write(archives[form])
			w.Close()
			archives[form+" "+kind] = b.Bytes()
		}
	}
	for name, whole := range archives {
		for at := 1 << 20; at < len(whole); at += 1 << 20 {
			p, s, spool := loader(t)
			_, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(whole[:at]), Name: "f.tar"})
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "load f.tar: the archive is truncated") || len(s.put) > 0 {
				t.Errorf("%s cut at %d: %v (%v), %d images", name, at, err, errs.KindOf(err), len(s.put))
			}
			s.clean(t)
			if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
				t.Errorf("%s cut at %d left %v, %v", name, at, left, err)
			}
		}
		p, s, _ := loader(t)
		if _, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(whole), Name: "f.tar"}); err != nil || len(s.put) != 1 {
			t.Errorf("%s, whole: %v", name, err)
		}
	}
}

func TestLoadCancel(t *testing.T) {
	p, _, spool := loader(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe() // nobody writes
	defer w.Close()
	go cancel()
	if _, err := p.Load(ctx, LoadRequest{In: r, Name: "stdin"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func FuzzArchive(f *testing.F) {
	img := threeLayers()
	small := faultproxy.NewImage("linux/amd64", nil, img.Layers[0])
	f.Add(tarball(f, dockerArchive(f, small, "x:1")...))
	f.Add(tarball(f, layout(f, "io.containerd.image.name", []string{"x:1"}, small)...))
	f.Add(tarball(f, "repositories", `{"a":{"1":"x"}}`, "x/json", `{"parent":"x"}`, "x/layer.tar", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, s, _ := loader(t)
		if _, err := p.Load(t.Context(), LoadRequest{In: bytes.NewReader(data), Name: "f"}); err != nil && len(s.staged) > 0 {
			t.Errorf("%v, and %d staged layers are left", err, len(s.staged))
		}
	})
}
