package e2e

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"cais.dev/cais/test/testimage"
)

// TestReal builds images as people have them (testdata/real) on a Debian from a
// registry, without root, from Debian's packages, the Go proxy and npm; each twice, and
// the second time nothing is run. It needs the internet and minutes: make real.
func TestReal(t *testing.T) {
	if os.Getenv("CAIS_E2E_REAL") == "" {
		return // make real asks for it
	}
	b := setUp(t)
	mmdebstrap, ok := lookPath("mmdebstrap")
	if !ok {
		t.Skip("mmdebstrap is not installed")
	}
	archive := filepath.Join(t.TempDir(), "debian.tar")
	if out, err := exec.Command(mmdebstrap, "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", archive).CombinedOutput(); err != nil {
		t.Skipf("mmdebstrap cannot make a root here: %v: %.300s", err, out)
	}
	// Once for all: the packages of each are fetched again, from near.
	base := serve(t, archive)
	r := b.rootless(t)
	for _, tt := range []struct {
		name  string
		check [][]string // commands, and in the last place what their output has
	}{
		{"python", [][]string{{"run", "--rm", "--network", "none", "real-python", "tool 6"}}},
		{"go", [][]string{
			{"run", "--rm", "--network", "none", "real-go", "-version", "dev Don't communicate by sharing memory"},
			{"inspect", "--type", "image", "-f", "{{.Config.User}} {{.Config.Entrypoint}} {{len .RootFS.Layers}}", "real-go", "65532:65532 [/service] 2"},
		}},
		{"node", [][]string{{"run", "--rm", "--network", "none", "real-node", "node", "server.js", "--once", "172800000 function 1000"}}},
		{"nginx", [][]string{
			{"run", "-d", "--name", "nginx", "--network", "none", "real-nginx", ""},
			{"exec", "nginx", "sh", "-c", "until curl -s 127.0.0.1:8081; do sleep 0.2; done; curl -s 127.0.0.1", "built\n<h1>hello</h1>"},
			{"stop", "nginx", "nginx"},
			{"rm", "nginx", "nginx"},
		}},
		{"postgres", [][]string{
			{"run", "-d", "--name", "pg", "--network", "none", "real-postgres", ""},
			{"exec", "pg", "sh", "-c", "until psql -U postgres -Atc 'select 40+2' 2>/dev/null; do sleep 0.2; done", "42"},
			{"stop", "pg", "pg"},
			{"rm", "-v", "pg", "pg"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"build", "--progress", "plain", "-t", "real-" + tt.name, "--build-arg", "BASE=" + base,
				"--secret", "id=ca,src=/etc/ssl/certs/ca-certificates.crt", filepath.Join(r.dir, tt.name)}
			first := r.run(t, 10*time.Minute, args...)
			again := r.run(t, time.Minute, args...)
			if strings.Count(again, "CACHED") < 4 || ranSomething(again) {
				t.Errorf("the second build is not from the cache:\n%s\nthe first was:\n%s", again, first)
			}
			for _, c := range tt.check {
				want := c[len(c)-1]
				if out := r.run(t, 2*time.Minute, c[:len(c)-1]...); !strings.Contains(out, want) {
					t.Errorf("%q: %s\nwant %q", c, out, want)
				}
			}
		})
	}
}

// ranSomething reports whether a build's plain view has a command's output: lines
// with a time, "#7 0.123 …".
func ranSomething(view string) bool {
	for line := range strings.SplitSeq(view, "\n") {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasPrefix(f[0], "#") {
			if _, err := strconv.ParseFloat(f[1], 64); err == nil {
				return true
			}
		}
	}
	return false
}

// serve has the image of a root's archive in a registry on this machine.
func serve(t *testing.T, archive string) string {
	t.Helper()
	layer, err := tarball.LayerFromFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	img, err := testimage.Image(testimage.Host(), func(c *v1.Config) { c.Cmd = []string{"bash"} }, layer)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(registry.New(registry.Logger(quiet())))
	t.Cleanup(srv.Close)
	text := strings.TrimPrefix(srv.URL, "http://") + "/debian:12"
	ref, err := name.ParseReference(text, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return text
}

// rootless is the program as an ordinary user with subordinate ids has it.
type rootless struct {
	s    *store
	dir  string // the contexts
	wrap []string
}

func (b *bench) rootless(t *testing.T) rootless {
	t.Helper()
	r := rootless{s: b.storeFor(t, false), dir: filepath.Join(b.dir, "real")}
	if err := os.CopyFS(r.dir, os.DirFS("testdata/real")); err != nil {
		t.Fatal(err)
	}
	if b.person != asRoot {
		return r
	}
	u, err := user.Lookup("cais-" + string(withSubs))
	if err != nil {
		t.Skip("there is no user cais-sub: make setup")
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	for _, d := range []string{r.s.root, r.s.home} {
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	r.wrap = []string{"runuser", "-u", u.Username, "--"}
	return r
}

func (r rootless) run(t *testing.T, limit time.Duration, args ...string) string {
	t.Helper()
	cmd := r.s.cmd(args...)
	env := cmd.Env
	if r.wrap != nil {
		cmd = exec.Command(r.wrap[0], append(r.wrap[1:], cmd.Args...)...)
		cmd.Env = env
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}
