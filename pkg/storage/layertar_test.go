package storage

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

// A layer's tar comes back byte for byte, whatever was in it.
func TestLayerTar(t *testing.T) {
	s := openStore(t)
	big := strings.Repeat("0123456789abcdef", 40_000)
	for name, l := range map[string]layer{
		"plain":      gzLayer(t, entry{Name: "dir/"}, entry{Name: "dir/file", Body: "content"}, entry{Name: "empty"}, entry{Name: "big", Body: big, UID: 7}),
		"whiteouts":  gzLayer(t, entry{Name: "dir/"}, entry{Name: "dir/.wh.gone"}, entry{Name: ".wh..wh..opq"}),
		"links":      gzLayer(t, entry{Name: "usr/lib/"}, entry{Name: "lib", Type: '2', Link: "usr/lib"}, entry{Name: "lib/so", Body: "through the link"}, entry{Name: "hard", Type: '1', Link: "usr/lib/so"}),
		"names":      gzLayer(t, entry{Name: "new\nline \"quoted\" \\", Body: "x"}, entry{Name: "\xff\xfe", Body: "not utf-8"}),
		"long names": gzLayer(t, entry{Name: strings.Repeat("d/", 60) + "f", Body: "deep", PAX: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", 3000)}}),
		"nothing":    gzLayer(t),
		"garbage":    {tar: append(tarOf(t, entry{Name: "f", Body: "x"}), "behind the end"...)},
	} {
		if l.blob == nil {
			l.blob = gz(t, l.tar)
		}
		staged := stage(t, s, l)
		top, err := s.CommitLayers(t.Context(), "", staged)
		if err != nil {
			t.Fatal(err)
		}
		img := &Image{ID: top, TopLayer: top, dir: filepath.Join(s.o.GraphRoot, "overlay-images", top)}
		layers, err := s.Reader().Layers(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Reader().LayerTar(img, layers[0])
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, l.tar) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(l.tar), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n, err := s.Reader().TarSize(t.Context(), img, layers[0]); err != nil || n != int64(len(l.tar)) {
			t.Errorf("%s: TarSize: %d, %v; want %d", name, n, err, len(l.tar))
		}
	}
}

// What was changed since, or is no longer what it was, is an error and no
// shorter tar; a link that took a file's place is not followed.
func TestLayerTarDamaged(t *testing.T) {
	s := openStore(t)
	l := gzLayer(t, entry{Name: "file", Body: "content"})
	top, err := s.CommitLayers(t.Context(), "", stage(t, s, l))
	if err != nil {
		t.Fatal(err)
	}
	img := &Image{ID: top, TopLayer: top}
	file := filepath.Join(s.o.GraphRoot, "overlay", top, "diff", "file")
	read := func() error {
		r, err := s.Reader().LayerTar(img, Layer{ID: top})
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	if err := os.WriteFile(file, []byte("con"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a shorter file: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := read(); err == nil {
		t.Error("a missing file is no error")
	}
	if err := os.Symlink("/etc/passwd", file); err != nil {
		t.Fatal(err)
	}
	if err := read(); err == nil {
		t.Error("a link in the place of a file is followed")
	}
	if err := os.Remove(filepath.Join(s.o.GraphRoot, "overlay-layers", top+".tar-split.gz")); err != nil {
		t.Fatal(err)
	}
	if err := read(); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("no description: %v", err)
	}
}

func TestSeen(t *testing.T) {
	r := NewReader(Options{GraphRoot: t.TempDir()})
	if err := os.MkdirAll(filepath.Dir(r.seenPath()), 0o700); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Seen(); err != nil || len(s.Blobs)+len(s.Manifests) != 0 {
		t.Errorf("of no file: %+v, %v", s, err)
	}
	diff, one, two := string(sha([]byte("diff"))), string(sha([]byte("1"))), string(sha([]byte("2")))
	blobs := []SeenBlob{
		{diff, one, 1, "type", "docker.io/library/x"}, {diff, two, 2, "type", "r/y"}, {diff, one, 1, "type", "docker.io/library/x"},
		{diff, one, 1, "evil\nblob", "r/y"}, {"sha256:short", one, 1, "type", "r/y"},
	}
	if err := r.Note(blobs, []SeenManifest{{"id", one, "r/y"}, {"id", "x", "r/y"}}); err != nil {
		t.Fatal(err)
	}
	s, err := r.Seen()
	if err != nil || len(s.Blobs) != 1 || len(s.Blobs[diff]) != 2 || s.Blobs[diff][1].Digest != one || len(s.Manifests["id"]) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	// What is known is not noted again; a repository that goes back to what it had is.
	before, err := os.Stat(r.seenPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Note(blobs[:1], []SeenManifest{{"id", one, "r/y"}}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(r.seenPath()); err != nil || after.Size() != before.Size() {
		t.Errorf("%d bytes became %d, %v", before.Size(), after.Size(), err)
	}
	for _, d := range []string{two, one} {
		if err := r.Note(nil, []SeenManifest{{"id", d, "r/y"}}); err != nil {
			t.Fatal(err)
		}
	}
	if s, err = r.Seen(); err != nil || s.last("id", "r/y") != one || len(s.Manifests["id"]) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRepoDigests(t *testing.T) {
	own, index, pushed := string(sha([]byte("own"))), string(sha([]byte("index"))), string(sha([]byte("pushed")))
	img := &Image{ID: "id", Names: []string{"docker.io/library/a:1", "docker.io/library/a:2", "r.test/b:1", "r.test/c@" + own}, Digest: own, Digests: []string{own, index, pushed}}
	for _, c := range []struct {
		seen []SeenManifest
		want []string
	}{
		{[]SeenManifest{{"id", index, "docker.io/library/a"}, {"id", pushed, "r.test/b"}, {"id", own, "elsewhere.test/x"}, {"id", own, "r.test/c"}},
			[]string{"docker.io/library/a@" + index, "r.test/b@" + pushed}},
		{[]SeenManifest{{"id", string(sha([]byte("not kept"))), "r.test/b"}}, nil},
	} {
		s := &Seen{Manifests: map[string][]SeenManifest{"id": c.seen}}
		if got := s.RepoDigests(img); !slices.Equal(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	podmans := &Image{ID: "id", Names: []string{"docker.io/library/a:1"}, Digest: own, Digests: []string{own, index}}
	if got := (&Seen{}).RepoDigests(podmans); !slices.Equal(got, []string{"docker.io/library/a@" + index}) {
		t.Errorf("another tool's: %q", got)
	}
	built := &Image{ID: "id", Names: []string{"docker.io/library/a:1"}, Digest: own, Digests: []string{own}}
	if got := (&Seen{}).RepoDigests(built); got != nil {
		t.Errorf("a local build's: %q", got)
	}
}
