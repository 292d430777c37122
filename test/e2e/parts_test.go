package e2e

import (
	"bytes"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"

	"go.podman.io/storage/pkg/chunked/compressor"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/faultproxy"
)

// TestPartialPull pulls a new version of an image, as Podman compresses it for that:
// what the old version has is not downloaded again, unless the registry has only all of it.
func TestPartialPull(t *testing.T) {
	b := setUp(t)
	random := func(seed byte) string {
		p := make([]byte, 2<<20)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
		return string(p)
	}
	busy := faultproxy.NewLayer("etc/same", "1")
	old := faultproxy.NewLayer("usr/lib/a", random(1), "usr/lib/b", random(2), "usr/app", random(3))
	changed := faultproxy.NewLayer("usr/lib/a", random(1), "usr/lib/b", random(2), "usr/app", random(4))
	for _, ignore := range []bool{false, true} {
		reg := faultproxy.Registry()
		proxy := faultproxy.New(reg)
		srv := httptest.NewServer(proxy)
		defer srv.Close()
		fresh := chunked(t, changed)
		faultproxy.Push(reg, "app", "1", faultproxy.NewImage(oci.HostPlatform().String(), nil, busy, old))
		faultproxy.Push(reg, "app", "2", faultproxy.NewImage(oci.HostPlatform().String(), nil, busy, fresh))
		proxy.Add(faultproxy.Fault{Path: "/blobs/" + fresh.Digest, IgnoreRange: ignore})

		s := b.storeFor(t, false)
		must := s.must(t)
		ref := strings.TrimPrefix(srv.URL, "http://") + "/app:"
		must("pull", "-q", ref+"1")
		must("pull", "-q", ref+"2")
		var moved int64
		for _, r := range proxy.Requests("/blobs/" + fresh.Digest) {
			moved += r.Bytes
		}
		if partial := moved < fresh.Size/2; partial == ignore {
			t.Errorf("%d bytes of %d came; the registry ignores ranges: %v", moved, fresh.Size, ignore)
		}
		must("system", "check")
		// What is pushed is the very image, though no blob of it was ever here.
		must("push", "-q", ref+"2")
		if n := len(proxy.Requests("/blobs/uploads/")); n != 0 {
			t.Errorf("%d uploads, want none", n)
		}
	}
}

// chunked compresses a layer as podman push --compression-format zstd:chunked does.
func chunked(t *testing.T, l faultproxy.Layer) faultproxy.Layer {
	t.Helper()
	var z bytes.Buffer
	notes := map[string]string{}
	w, err := compressor.ZstdCompressor(&z, notes, nil)
	if err == nil {
		_, err = w.Write(l.Tar)
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	l.Blob = faultproxy.NewBlob("application/vnd.oci.image.layer.v1.tar+zstd", z.Bytes())
	l.Annotations = notes
	return l
}
