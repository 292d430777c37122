package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkReader is what `run` asks of a store with 500 images.
func BenchmarkReader(b *testing.B) {
	root := b.TempDir()
	dir := filepath.Join(root, "overlay-images")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	var doc strings.Builder
	for i := range 500 {
		id := fmt.Sprintf("%064x", i)
		if i > 0 {
			doc.WriteByte(',')
		}
		fmt.Fprintf(&doc, `{"id":"%s","digest":"sha256:%s","names":["docker.io/library/i%d:1"],"names-history":["docker.io/library/i%d:1"],"layer":"%s","metadata":"{\"signatures-sizes\":{\"sha256:%s\":[]}}","big-data-names":["sha256:%s","manifest-sha256:%s","manifest"],"big-data-sizes":{"manifest":341,"manifest-sha256:%s":341,"sha256:%s":421},"big-data-digests":{"manifest":"sha256:%s","manifest-sha256:%s":"sha256:%s","sha256:%s":"sha256:%s"},"created":"2020-01-02T03:04:05Z"}`,
			id, id, i, i, id, id, id, id, id, id, id, id, id, id, id)
	}
	for name, text := range map[string]string{"images.json": "[" + doc.String() + "]", "images.lock": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	o := Options{GraphRoot: root, RunRoot: root}
	for b.Loop() {
		r := NewReader(o)
		img, err := r.Image(b.Context(), "docker.io/library/i250:1")
		if err != nil {
			b.Fatal(err)
		}
		if err := r.AddContainer(b.Context(), ContainerRef{ID: "x", ImageID: img.ID, Volatile: true}); err != nil {
			b.Fatal(err)
		}
		if err := r.RemoveContainer(b.Context(), "x"); err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
