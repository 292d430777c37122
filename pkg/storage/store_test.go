package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	library "go.podman.io/storage"
	"go.podman.io/storage/pkg/chunked/compressor"

	"cais.dev/cais/pkg/errs"
)

// openStore opens a new store as root of the host; the tests for others go
// through the helpers of userns_test.go.
func openStore(t *testing.T) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: the store's write side")
	}
	dir := t.TempDir()
	return reopen(t, Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), NoSync: true})
}

func reopen(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// layer is a made layer and what is said of it.
type layer struct {
	tar, blob []byte
}

func gzLayer(t testing.TB, entries ...entry) layer {
	tar := tarOf(t, entries...)
	return layer{tar, gz(t, tar)}
}

func (l layer) source() LayerSource {
	return LayerSource{DiffID: string(sha(l.tar)), BlobDigest: string(sha(l.blob)), Size: int64(len(l.blob)), Body: bytes.NewReader(l.blob)}
}

func stage(t testing.TB, s *Store, l layer) *Staged {
	t.Helper()
	st, err := s.StageLayer(t.Context(), l.source())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// put makes an image of the layers, bottom first.
func put(t testing.TB, s *Store, name string, layers ...layer) *Image {
	t.Helper()
	var staged []*Staged
	type desc struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	var diffs []string
	var descs []desc
	for _, l := range layers {
		staged = append(staged, stage(t, s, l))
		diffs = append(diffs, string(sha(l.tar)))
		descs = append(descs, desc{"application/vnd.oci.image.layer.v1.tar+gzip", string(sha(l.blob)), len(l.blob)})
	}
	top, err := s.CommitLayers(t.Context(), "", staged...)
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	created := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	config := marshal(map[string]any{
		"created": created, "architecture": "amd64", "os": "linux", "author": name,
		"config": map[string]any{"Cmd": []string{"/hello"}}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	manifest := marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": desc{"application/vnd.oci.image.config.v1+json", string(sha(config)), len(config)}, "layers": descs,
	})
	var names []string
	if name != "" {
		names = []string{name}
	}
	id, err := s.PutImage(t.Context(), ImageSpec{Names: names, TopLayer: top, Config: config, Manifest: manifest, Created: created})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.reader.Image(t.Context(), "sha256:"+id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// clean checks that nothing is staged.
func clean(t testing.TB, s *Store) {
	t.Helper()
	for _, dir := range []string{"overlay/staging", "overlay/tempdirs", "overlay-layers/tempdirs"} {
		left, err := os.ReadDir(filepath.Join(s.o.GraphRoot, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if len(left) > 0 {
			t.Errorf("%s holds %v", dir, left)
		}
	}
}

func layerDirs(t testing.TB, s *Store) []string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(s.o.GraphRoot, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range all {
		if len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

func TestImageOfTwoLayers(t *testing.T) {
	s := openStore(t)
	lower := gzLayer(t, entry{Name: "./", Mode: 0o1777}, entry{Name: "hello", Body: "hello"}, entry{Name: "gone", Body: "x"})
	upper := gzLayer(t, entry{Name: ".wh.gone"}, entry{Name: "deep/er/file", Body: "y", UID: 7, GID: 8})
	img := put(t, s, "docker.io/library/two:1", lower, upper)
	if !slices.Equal(img.Names, []string{"docker.io/library/two:1"}) || img.Created.Year() != 2020 || img.TopLayer != LayerID(LayerID("", string(sha(lower.tar))), string(sha(upper.tar))) {
		t.Errorf("got %+v", img)
	}
	dirs, err := s.Reader().LowerDirs(t.Context(), img)
	if err != nil || len(dirs) != 2 {
		t.Fatalf("LowerDirs = %v, %v", dirs, err)
	}
	for i, want := range []string{"deep gone", "gone hello"} {
		var names []string
		all, err := os.ReadDir(dirs[i])
		for _, e := range all {
			names = append(names, e.Name())
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s holds %q, want %q", dirs[i], names, want)
		}
		if fi, err := os.Stat(dirs[i]); err != nil || fi.Mode() != os.ModeDir|os.ModeSticky|0o777 {
			t.Errorf("layer %d's root: %v, %v; the upper one inherits the lower one's", i, fi.Mode(), err)
		}
	}
	clean(t, s)
	// again: everything is there, and nothing changes
	again := put(t, s, "docker.io/library/two:1", lower, upper)
	if again.ID != img.ID || len(layerDirs(t, s)) != 2 {
		t.Errorf("a second time: %+v, layers %v", again, layerDirs(t, s))
	}
	clean(t, s)
}

func TestStageLayerRefuses(t *testing.T) {
	s := openStore(t)
	good := gzLayer(t, entry{Name: "f", Body: strings.Repeat("data", 10000)})
	random := make([]byte, 200)
	for i := range random {
		random[i] = byte(i * 37)
	}
	tests := []struct {
		name   string
		change func(*LayerSource)
		want   string
		is     error
	}{
		{"wrong blob digest", func(l *LayerSource) { l.BlobDigest = string(sha(nil)) }, "the blob is sha256:", ErrDigest},
		{"wrong diffID", func(l *LayerSource) { l.DiffID = string(sha(nil)) }, "the uncompressed layer is sha256:", ErrDigest},
		{"longer than said", func(l *LayerSource) { l.Size-- }, "longer than", ErrDigest},
		{"shorter than said", func(l *LayerSource) { l.Size++ }, "its manifest says", ErrDigest},
		{"truncated, size unknown", func(l *LayerSource) {
			l.Body, l.Size, l.BlobDigest = bytes.NewReader(good.blob[:len(good.blob)-20]), 0, ""
		}, "unexpected EOF", io.ErrUnexpectedEOF},
		{"a byte flipped", func(l *LayerSource) {
			b := slices.Clone(good.blob)
			b[len(b)/2] ^= 1
			l.Body = bytes.NewReader(b)
		}, "the blob is sha256:", ErrDigest},
		{"not a tar", func(l *LayerSource) { *l = LayerSource{Body: bytes.NewReader(bytes.Repeat(random, 10))} }, "not a tar archive", nil},
		{"a broken source", func(l *LayerSource) { l.Body = iotest.ErrReader(io.ErrNoProgress) }, "multiple Read calls", io.ErrNoProgress},
		{"digest that is none", func(l *LayerSource) { l.BlobDigest = "sha256:../../x" }, "is not a sha256 digest", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := good.source()
			tt.change(&src)
			_, err := s.StageLayer(t.Context(), src)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			clean(t, s)
		})
	}
}

// chunkedBlob compresses as Podman does for partial pulls: a frame for each file, and a
// table of contents, and tar-split, in frames that a plain reader skips.
func chunkedBlob(t *testing.T, plain []byte) ([]byte, map[string]string) {
	t.Helper()
	var b bytes.Buffer
	notes := map[string]string{}
	w, err := compressor.ZstdCompressor(&b, notes, nil)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	if notes["io.github.containers.zstd-chunked.manifest-checksum"] == "" || notes["io.github.containers.zstd-chunked.tarsplit-position"] == "" {
		t.Fatalf("not chunked: %q", notes)
	}
	return b.Bytes(), notes
}

func TestCompressions(t *testing.T) {
	plain := tarOf(t, entry{Name: "f", Body: strings.Repeat("abc", 100000)})
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	parts, _ := chunkedBlob(t, plain)
	tests := map[string][]byte{
		"plain": plain, "gzip": gz(t, plain), "zstd": zw.EncodeAll(plain, nil), "zstd:chunked": parts,
		"gzip in two members":       append(gz(t, plain[:1000]), gz(t, plain[1000:])...),
		"garbage after the gzip":    append(gz(t, plain), "garbage"...),
		"nothing at all":            nil,
		"garbage after the archive": gz(t, append(slices.Clone(plain), bytes.Repeat([]byte("x"), 3000)...)),
	}
	for _, tool := range []string{"bzip2", "xz"} {
		if _, err := exec.LookPath(tool); err == nil {
			cmd := exec.CommandContext(t.Context(), tool, "-c")
			cmd.Stdin = bytes.NewReader(plain)
			if tests[tool], err = cmd.Output(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := openStore(t)
	for name, blob := range tests {
		st, err := s.StageLayer(t.Context(), LayerSource{BlobDigest: string(sha(blob)), Size: int64(len(blob)), Body: bytes.NewReader(blob)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := string(sha(plain))
		switch name {
		case "nothing at all":
			want = string(sha(nil))
		case "garbage after the archive":
			want = string(sha(append(slices.Clone(plain), bytes.Repeat([]byte("x"), 3000)...)))
		}
		if st.DiffID != want {
			t.Errorf("%s: diffID %s, want %s", name, st.DiffID, want)
		}
		if err := s.Discard(st); err != nil {
			t.Error(err)
		}
	}
	clean(t, s)
}

// hangingBody never delivers, until it is closed.
type hangingBody struct{ closed chan struct{} }

func (h hangingBody) Read([]byte) (int, error) {
	<-h.closed
	return 0, os.ErrClosed
}

func (h hangingBody) Close() error {
	close(h.closed)
	return nil
}

func TestStageLayerEndsWithItsContext(t *testing.T) {
	s := openStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := s.StageLayer(ctx, LayerSource{Body: hangingBody{make(chan struct{})}}); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	clean(t, s)
}

func TestParentRemovedMeanwhile(t *testing.T) {
	s := openStore(t)
	a, b := gzLayer(t, entry{Name: "a"}), gzLayer(t, entry{Name: "b"})
	st := stage(t, s, b)
	if _, err := s.CommitLayers(t.Context(), LayerID("", string(sha(a.tar))), st); !errors.Is(err, ErrParentGone) {
		t.Fatalf("got %v, want ErrParentGone", err)
	}
	top, err := s.CommitLayers(t.Context(), "", stage(t, s, a), st) // st is still good
	if err != nil || top != LayerID(LayerID("", string(sha(a.tar))), string(sha(b.tar))) {
		t.Errorf("got %s, %v", top, err)
	}
	clean(t, s)
}

func TestDuplicatePathIsPulledWithoutTarSplit(t *testing.T) {
	s := openStore(t)
	l := gzLayer(t, entry{Name: "f", Body: "one"}, entry{Name: "./f", Body: "two"})
	st := stage(t, s, l)
	if len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "twice") {
		t.Errorf("warnings %q", st.Warnings)
	}
	top, err := s.CommitLayers(t.Context(), "", st)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(s.o.GraphRoot, "overlay", top, "diff", "f")); string(b) != "two" {
		t.Errorf("f = %q, %v", b, err)
	}
}

func TestDigestLock(t *testing.T) {
	s := openStore(t)
	d := string(sha([]byte("x")))
	release, err := s.LockDigest(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := 0
	if _, err := s.LockDigest(ctx, d, func() { waited++; cancel() }); !errors.Is(err, context.Canceled) || waited != 1 {
		t.Errorf("held: %v, told %d times", err, waited)
	}
	release()
	var mu sync.Mutex
	inside, most := 0, 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			release, err := s.LockDigest(t.Context(), d, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			mu.Lock()
			inside--
			mu.Unlock()
			release()
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d held it at once", most)
	}
	if left, _ := os.ReadDir(filepath.Join(s.o.RunRoot, "cais-blobs")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.LockDigest(t.Context(), "sha256:../x", nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a digest that is none: %v", err)
	}
}

func TestTagMovesAName(t *testing.T) {
	s := openStore(t)
	one := put(t, s, "docker.io/library/a:1", gzLayer(t, entry{Name: "1"}))
	two := put(t, s, "docker.io/library/b:1", gzLayer(t, entry{Name: "2"}))
	if err := s.Tag(t.Context(), "docker.io/library/a:1", "docker.io/library/b:1"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Reader().Image(t.Context(), "docker.io/library/a:1")
	if err != nil || got.ID != two.ID {
		t.Errorf("a:1 is %v, %v", got, err)
	}
	if got, err = s.Reader().Image(t.Context(), one.ID); err != nil || len(got.Names) != 0 {
		t.Errorf("the old one: %+v, %v", got, err)
	}
	if err := s.Tag(t.Context(), "docker.io/library/c:1", "docker.io/library/none:1"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("tag of nothing: %v", err)
	}
	if err := s.Untag(t.Context(), "docker.io/library/a:1"); err != nil {
		t.Error(err)
	}
}

// lines is what rmi would print.
func lines(r []Removed) string {
	var out []string
	for _, l := range r {
		if l.Untagged != "" {
			out = append(out, "Untagged: "+familiar(l.Untagged))
		} else {
			out = append(out, "Deleted: "+l.Deleted)
		}
	}
	return strings.Join(out, "\n")
}

func TestRemoveImage(t *testing.T) {
	s := openStore(t)
	base, mine := gzLayer(t, entry{Name: "base"}), gzLayer(t, entry{Name: "mine"})
	other := put(t, s, "docker.io/library/other:1", base)
	img := put(t, s, "docker.io/library/web:1", base, mine)
	if err := s.Tag(t.Context(), "docker.io/library/web:2", img.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Reader().Note(nil, []SeenManifest{
		{img.ID, img.Digest, "docker.io/library/web"}, {other.ID, other.Digest, "docker.io/library/other"},
	}); err != nil {
		t.Fatal(err)
	}
	// by id with two names: only by force
	if _, err := s.RemoveImage(t.Context(), RemoveOptions{}, img.ID); errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "(must be forced) - image is referenced in multiple repositories") {
		t.Errorf("by id: %v", err)
	}
	// by name, with another name left
	r, err := s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/web:2", "web:2")
	if err != nil || lines(r) != "Untagged: web:2" {
		t.Errorf("by name: %q, %v", lines(r), err)
	}
	// in use
	id := strings.Repeat("c", 64)
	if err := s.Reader().AddContainer(t.Context(), ContainerRef{ID: id, ImageID: img.ID, Name: "x"}); err != nil {
		t.Fatal(err)
	}
	runs := func(string) bool { return true }
	for _, tt := range []struct {
		ref  string
		o    RemoveOptions
		want string
	}{
		{"docker.io/library/web:1", RemoveOptions{}, "image web:1 is in use by container "},
		{img.ID[:8], RemoveOptions{}, "(must be forced) - image is being used by stopped container cccccccccccc"},
		{img.ID, RemoveOptions{Force: true, Running: runs}, "(cannot be forced) - image is being used by running container cccccccccccc"},
	} {
		if _, err := s.RemoveImage(t.Context(), tt.o, tt.ref); errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.ref, err, tt.want)
		}
	}
	// by force: the names go, the files stay as long as the container
	r, err = s.RemoveImage(t.Context(), RemoveOptions{Force: true}, img.ID)
	if want := "Untagged: web:1\nUntagged: web@" + img.Digest; err != nil || lines(r) != want {
		t.Errorf("by force: %q, %v; want %q", lines(r), err, want)
	}
	if got, err := s.Reader().Image(t.Context(), img.ID); err != nil || len(got.Names) != 0 {
		t.Errorf("after force: %v, %v", got, err)
	}
	if err := s.Reader().RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	reopen(t, s.o)
	if _, err := s.Reader().Image(t.Context(), img.ID); errs.KindOf(err) != errs.NotFound {
		t.Errorf("after the container: %v", err)
	}
	if got := layerDirs(t, s); len(got) != 1 {
		t.Errorf("layers %v, want the shared one", got)
	}
	r, err = s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/other:1")
	want := fmt.Sprintf("Untagged: other:1\nUntagged: other@%s\nDeleted: sha256:%s\nDeleted: %s", other.Digest, other.ID, sha(base.tar))
	if err != nil || lines(r) != want {
		t.Errorf("got %q, %v; want %q", lines(r), err, want)
	}
	if got := layerDirs(t, s); len(got) != 0 {
		t.Errorf("layers %v, want none", got)
	}
	if left, _ := filepath.Glob(filepath.Join(s.stateDir(), "rmi-*")); len(left) != 0 {
		t.Errorf("intents left: %v", left)
	}
}

func TestChainIDsAreDockers(t *testing.T) {
	s := openStore(t)
	a, b := gzLayer(t, entry{Name: "a"}), gzLayer(t, entry{Name: "b"})
	img := put(t, s, "docker.io/library/x:1", a, b)
	r, err := s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/x:1")
	chain := string(sha([]byte(string(sha(a.tar)) + " " + string(sha(b.tar)))))
	want := fmt.Sprintf("Untagged: x:1\nDeleted: sha256:%s\nDeleted: %s\nDeleted: %s", img.ID, chain, sha(a.tar))
	if err != nil || lines(r) != want {
		t.Errorf("got %q, %v; want %q", lines(r), err, want)
	}
}

func TestCutRemovalIsFinished(t *testing.T) {
	s := openStore(t)
	a, b := gzLayer(t, entry{Name: "a"}), gzLayer(t, entry{Name: "b"})
	img := put(t, s, "docker.io/library/x:1", a, b)
	// As after a kill between the image's record and its layers.
	var ids []string
	for _, l := range s.layersOf(img.TopLayer) {
		ids = append(ids, l.ID)
	}
	if err := s.intend(img, ids); err != nil {
		t.Fatal(err)
	}
	if _, err := s.lib.DeleteImage(img.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitLayers(t.Context(), "", stage(t, s, a), stage(t, s, b)); err != nil {
		t.Fatal(err)
	}
	reopen(t, s.o)
	if got := layerDirs(t, s); len(got) != 0 {
		t.Errorf("layers %v, want none", got)
	}
	// And one whose image was pulled again keeps it.
	img = put(t, s, "docker.io/library/x:1", a, b)
	if err := s.intend(img, ids); err != nil {
		t.Fatal(err)
	}
	reopen(t, s.o)
	if got := layerDirs(t, s); len(got) != 2 {
		t.Errorf("layers %v, want both", got)
	}
}

func TestCollect(t *testing.T) {
	s := openStore(t)
	put(t, s, "docker.io/library/x:1", gzLayer(t, entry{Name: "a"}))
	lost := gzLayer(t, entry{Name: "lost", Body: "x"})
	onLost := gzLayer(t, entry{Name: "on", Body: "y"})
	if _, err := s.CommitLayers(t.Context(), "", stage(t, s, lost), stage(t, s, onLost)); err != nil {
		t.Fatal(err)
	}
	img, err := s.Reader().Image(t.Context(), "docker.io/library/x:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"dead", "live"} {
		if err := s.Reader().AddContainer(t.Context(), ContainerRef{ID: id, ImageID: img.ID, Created: time.Now().Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	live := func(c ContainerRef) bool { return c.ID == "live" }
	c, err := s.Collect(t.Context(), CollectOptions{Live: live}) // the layers are too young
	if err != nil || len(c.Layers) != 0 || !slices.Equal(c.Containers, []string{"dead"}) {
		t.Errorf("got %+v, %v", c, err)
	}
	if n, size, err := s.Unreferenced(); n != 2 || size == 0 || err != nil {
		t.Errorf("Unreferenced = %d, %d, %v", n, size, err)
	}
	release, err := s.LockDigest(t.Context(), string(sha(nil)), nil) // somebody pulls
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Collect(t.Context(), CollectOptions{Age: time.Nanosecond}); err != nil || len(c.Layers) != 0 {
		t.Errorf("while a blob is pulled: %+v, %v", c, err)
	}
	release()
	for _, dry := range []bool{true, false} {
		c, err := s.Collect(t.Context(), CollectOptions{Age: time.Nanosecond, DryRun: dry})
		if err != nil || len(c.Layers) != 2 || c.Bytes == 0 {
			t.Errorf("dry %v: %+v, %v", dry, c, err)
		}
		if got, want := len(layerDirs(t, s)), 1+2*btoi(dry); got != want {
			t.Errorf("dry %v: %d layers left, want %d", dry, got, want)
		}
	}
}

func stageAndHangHelper() error {
	s, err := Open(context.Background(), Options{GraphRoot: os.Getenv("ROOT"), RunRoot: os.Getenv("ROOT") + "-run"})
	if err != nil {
		return err
	}
	body := io.MultiReader(os.Stdin, hangingBody{make(chan struct{})})
	_, err = s.StageLayer(context.Background(), LayerSource{Body: body, Progress: func(int64) { fmt.Println("staged") }})
	return err
}

func TestKilledPullIsSweptAndALivingOneIsNot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the store's write side")
	}
	root := filepath.Join(t.TempDir(), "root")
	cmd := helper(t, "stage-and-hang", "ROOT="+root)
	cmd.Stdin = bytes.NewReader(tarOf(t, entry{Name: "big", Body: strings.Repeat("x", 2<<20)}))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	o := Options{GraphRoot: root, RunRoot: root + "-run"}
	left, _ := filepath.Glob(filepath.Join(root, "overlay", "staging", "*")) // the pattern is a good one
	if len(left) != 1 {
		t.Fatalf("a living pull's directory: %v", left)
	}
	if err := os.Chtimes(left[0], time.Time{}, time.Now().Add(-time.Minute)); err != nil { // a young one always stays
		t.Fatal(err)
	}
	s := reopen(t, o)
	if _, err := os.Stat(left[0]); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	reopen(t, o)
	clean(t, s)
}

func TestOpenRemovesWhatKilledWritersLeft(t *testing.T) {
	s := openStore(t)
	img := put(t, s, "docker.io/library/x:1", gzLayer(t, entry{Name: "a", Body: "a"}))
	root := s.o.GraphRoot
	left := []string{
		filepath.Join(root, "overlay-images", ".tmp-images.json1"),
		filepath.Join(root, "overlay-images", img.ID, ".tmp-manifest1"),
		filepath.Join(root, "overlay-layers", ".tmp-layers.json1"),
		filepath.Join(root, "overlay-layers", ".tmp-volatile-layers.json1"),
		filepath.Join(root, "overlay-containers", ".tmp-containers.json1"),
		filepath.Join(s.o.RunRoot, "overlay-layers", ".tmp-mountpoints.json1"),
	}
	for _, path := range left {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reopen(t, s.o)
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want it gone", path, err)
		}
	}
	if _, err := s.Reader().Image(t.Context(), "docker.io/library/x:1"); err != nil {
		t.Errorf("the image is gone, too: %v", err)
	}
}

func TestPodmanSharesOurImages(t *testing.T) {
	p := newPodmanStore(t)
	s := reopen(t, p.opts)
	lower := gzLayer(t, entry{Name: "hello", Body: "hello", PAX: map[string]string{"SCHILY.xattr.user.x": "y"}}, entry{Name: "link", Link: "hello", Type: '2'}, entry{Name: "hard", Link: "hello", Type: '1'},
		entry{Name: strings.Repeat("long/", 60) + "name", Body: "z"}, entry{Name: "ünï", Body: "u"}, entry{Name: "bad\xffname", Body: "v"}, entry{Name: "dir/", Mode: 0o2755})
	upper := gzLayer(t, entry{Name: ".wh.hello"}, entry{Name: "dir/.wh..wh..opq"}, entry{Name: "new", Body: strings.Repeat("n", 100000)})
	img := put(t, s, "docker.io/library/ours:1", lower, upper)
	if out := p.must("images", "--no-trunc", "--digests"); !strings.Contains(out, img.ID) || !strings.Contains(out, img.Digest) || !strings.Contains(out, "docker.io/library/ours") {
		t.Errorf("podman images: %s", out)
	}
	if out := p.must("inspect", "--format", "{{.Digest}} {{.Created}} {{.Config.Cmd}}", "ours:1"); !strings.HasPrefix(out, img.Digest+" 2020-01-02") || !strings.Contains(out, "[/hello]") {
		t.Errorf("podman inspect: %s", out)
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("needs skopeo")
	}
	// The layers come out byte for byte as they went in.
	to := filepath.Join(p.dir, "copy")
	ref := fmt.Sprintf("containers-storage:[overlay@%s+%s]docker.io/library/ours:1", p.opts.GraphRoot, p.opts.RunRoot)
	if out, err := p.tool("skopeo", "copy", "--insecure-policy", ref, "dir:"+to); err != nil {
		t.Fatalf("skopeo: %v %s", err, out)
	}
	for i, l := range []layer{lower, upper} {
		h, err := digestHex(string(sha(l.tar)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(to, h)); err != nil || !bytes.Equal(b, l.tar) {
			t.Errorf("layer %d: %d bytes, %v; want %d", i, len(b), err, len(l.tar))
		}
	}
	p.must("rmi", "ours:1")
	if got := layerDirs(t, s); len(got) != 0 {
		t.Errorf("podman left %v", got)
	}
}

func makeStoreHelper() error {
	root := os.Getenv("ROOT")
	ctx := context.Background()
	s, err := Open(ctx, Options{GraphRoot: root, RunRoot: root + "-run", NoSync: true})
	if err != nil {
		return err
	}
	f, err := os.Open(os.Getenv("TAR"))
	if err != nil {
		return err
	}
	l, err := s.StageLayer(ctx, LayerSource{Body: f})
	if err != nil {
		return err
	}
	top, err := s.CommitLayers(ctx, "", l)
	if err != nil {
		return err
	}
	config := []byte(`{"rootfs":{"type":"layers","diff_ids":["` + l.DiffID + `"]}}`)
	_, err = s.PutImage(ctx, ImageSpec{Names: []string{"docker.io/library/x:1"}, TopLayer: top, Config: config, Manifest: []byte(`{"schemaVersion":2}`)})
	return errors.Join(err, s.Close())
}

// An image of an additional store can be used, named and built upon; what is ours
// of it can be removed, and what is not stays.
func TestAdditionalStore(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the store's write side")
	}
	dir := t.TempDir()
	base := gzLayer(t, entry{Name: "base", Body: "x"})
	tar, other := filepath.Join(dir, "tar"), filepath.Join(dir, "other")
	if err := os.WriteFile(tar, base.tar, 0o600); err != nil {
		t.Fatal(err)
	}
	// By a process of its own: one cannot have a store open for changes and read-only.
	if out, err := helper(t, "make-store", "ROOT="+other, "TAR="+tar).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := reopen(t, Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), NoSync: true, ImageStores: []string{other}})
	img, err := s.Reader().Image(t.Context(), "docker.io/library/x:1")
	if err != nil || !img.ReadOnly {
		t.Fatalf("%+v, %v", img, err)
	}
	if _, err := s.RemoveImage(t.Context(), RemoveOptions{Force: true}, "docker.io/library/x:1"); errs.KindOf(err) != errs.Denied {
		t.Errorf("removed from a read-only store: %v", err)
	}
	layers, err := s.Reader().Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader().LayerTar(img, layers[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, base.tar) {
		t.Errorf("its layer: %d bytes, %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Tag(t.Context(), "docker.io/library/mine:1", "docker.io/library/x:1"); err != nil {
		t.Fatal(err)
	}
	top, err := s.CommitLayers(t.Context(), img.TopLayer, stage(t, s, gzLayer(t, entry{Name: "more", Body: "y"})))
	if err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"rootfs":{"type":"layers"}}`)
	if _, err := s.PutImage(t.Context(), ImageSpec{Names: []string{"docker.io/library/upon:1"}, TopLayer: top, Config: config, Manifest: []byte(`{"schemaVersion":2}`)}); err != nil {
		t.Fatal(err)
	}
	removed, err := s.RemoveImage(t.Context(), RemoveOptions{Force: true}, "docker.io/library/upon:1")
	if err != nil || s.HasLayer(top) || len(removed) < 3 || removed[len(removed)-1].Bytes != 1 {
		t.Errorf("upon: %+v, layer %v, %v", removed, s.HasLayer(top), err)
	}
	if _, err := s.RemoveImage(t.Context(), RemoveOptions{Force: true}, img.ID); err != nil {
		t.Errorf("our record of it: %v", err)
	}
	if img, err := s.Reader().Image(t.Context(), "docker.io/library/x:1"); err != nil || !img.ReadOnly {
		t.Errorf("afterwards: %+v, %v", img, err)
	}
}

// pruned is a store in which somebody prunes at the worst moment: the image is
// recorded, and has no name yet.
type pruned struct {
	library.Store
	times int
}

func (p *pruned) AddNames(id string, names []string) error {
	if p.times--; p.times >= 0 {
		if _, err := p.DeleteImage(id, true); err != nil {
			return err
		}
	}
	return p.Store.AddNames(id, names)
}

// An image that is pruned before it has its name is recorded again, once its layers
// are held; one that goes later was recorded all the same.
func TestPutImageWhilePruned(t *testing.T) {
	s := openStore(t)
	top := put(t, s, "docker.io/library/x:1", gzLayer(t, entry{Name: "a", Body: "x"})).TopLayer
	if err := s.HoldLayer(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	lib := s.lib
	t.Cleanup(func() { s.lib = lib })
	s.lib = &pruned{Store: lib, times: 2}
	spec := ImageSpec{Names: []string{"docker.io/library/y:1"}, TopLayer: top, Config: []byte("{}"), Manifest: []byte("{}")}
	id, err := s.PutImage(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := s.reader.Image(t.Context(), "docker.io/library/y:1"); err != nil || found.ID != id {
		t.Errorf("found %+v, %v; want %s", found, err, id)
	}
}
