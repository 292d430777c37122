package e2e

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/test/corpus"
)

// TestCorpus builds the Dockerfiles of test/corpus and compares config, history and
// files with what buildkitd made of them.
func TestCorpus(t *testing.T) {
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("the Dockerfiles want busybox")
	}
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	s := b.storeFor(t, false)
	if out, err := s.cmd("load", "-q", "-i", filepath.Join(b.images, "busybox.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	base := b.baseTree(t)
	for _, c := range cases {
		want, err := c.Expected()
		if err != nil {
			t.Fatal(err)
		}
		if c.PlanOnly {
			continue
		}
		if want == "" {
			t.Errorf("%s: what buildkitd makes of it is not recorded", c.Name)
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if why := elsewhereOnly(b.person, c); why != "" {
				t.Skip(why)
			}
			since := time.Now().Add(-time.Minute)
			dir := t.TempDir()
			flags, err := c.Prepare(dir)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out.tar")
			args := append([]string{"build", "--progress", "plain", "-f", filepath.Join(dir, "Dockerfile"), "-o", "type=oci,dest=" + out}, flags...)
			if text, err := s.cmd(append(args, filepath.Join(dir, "context"))...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			a, err := corpus.ReadArchive(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := corpus.Listing(a, base, since)
			if err != nil {
				t.Fatal(err)
			}
			if d := corpus.Differ(c.Name, got, want); d != "" {
				t.Errorf("- buildkit, + cais:\n%s", d)
			}
		})
	}
}

// elsewhereOnly says why p cannot build a case.
func elsewhereOnly(p person, c corpus.Case) string {
	text := string(c.Dockerfile)
	switch {
	case p != asRoot && strings.Contains(text, "mknod"):
		return "needs root: no device nodes can be made in a user namespace"
	case p == noSubs && (len(c.Tars) > 0 || strings.Contains(text, "chown") || strings.Contains(text, "USER ") || strings.Contains(text, "uid=")):
		return "needs more than one user id"
	}
	return ""
}

func (b *bench) baseTree(t *testing.T) corpus.Tree {
	t.Helper()
	img, err := b.box.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var data [][]byte
	for _, l := range list {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		var d bytes.Buffer
		if _, err := io.Copy(&d, r); err != nil {
			t.Fatal(err)
		}
		data = append(data, d.Bytes())
	}
	tree, err := corpus.BaseTree(data)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
