package e2e

import (
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestDebian pulls and runs a distribution as it is: many owners, set-id
// programs, hard links, and a package manager that counts on all of them.
func TestDebian(t *testing.T) {
	b := setUp(t)
	mmdebstrap, ok := lookPath("mmdebstrap")
	if !ok {
		t.Skip("mmdebstrap is not installed")
	}
	if b.person != asRoot {
		t.Skip("needs root")
	}
	tar := filepath.Join(t.TempDir(), "debian.tar")
	if out, err := inHostNet(exec.Command(mmdebstrap, "--quiet", "--variant=minbase", "bookworm", tar)).CombinedOutput(); err != nil {
		t.Skipf("mmdebstrap cannot make a root here: %v: %.300s", err, out)
	}
	layer, err := tarball.LayerFromFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(registry.New(registry.Logger(quiet())))
	defer srv.Close()
	text := strings.TrimPrefix(srv.URL, "http://") + "/debian:12"
	ref, err := name.ParseReference(text, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s := b.storeFor(t, false)
	for _, tt := range []struct{ args, want string }{
		{"pull -q " + text, text},
		{"run --rm " + text + " sh -c '. /etc/os-release; echo $ID'", "debian"},
		{"run --rm " + text + " dpkg --audit", ""},
		{"run --rm -u nobody " + text + " id -un", "nobody"},
		{"run --rm " + text + " stat -c %a /usr/bin/passwd", "4755"},
		{"run --rm " + text + " sh -c 'useradd -m u && su u -c id\\ -un'", "u"},
	} {
		cmd := s.cmd()
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "exec " + s.cais + " " + tt.args}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("cais %s: %v, got %q, want %q", tt.args, err, got, tt.want)
		}
	}
}
