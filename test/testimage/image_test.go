package testimage

import (
	"path/filepath"
	"testing"
)

func TestBusyboxImage(t *testing.T) {
	b, err := OwnBox(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := b.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := Save(filepath.Join(t.TempDir(), "a.tar"), "busybox:latest", img); err != nil {
		t.Fatal(err)
	}
	first, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.Digest(); err != nil || first != second {
		t.Errorf("the image is not the same each time: %v, %v, %v", first, second, err)
	}
	idx, err := b.Multi()
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil || len(m.Manifests) != 2 {
		t.Errorf("index: %v, %v", m, err)
	}
}
