package storage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// helpers are what this test program does instead of testing when it is
// started again with the name in its environment.
var helpers = map[string]func() error{
	"add":             addHelper,
	"make-store":      makeStoreHelper,
	"add-and-remove":  addAndRemoveHelper,
	"stage-and-hang":  stageAndHangHelper,
	"rootless":        rootlessHelper,
	"plain":           plainHelper,
	"full":            fullHelper,
	"pull-and-remove": pullAndRemoveHelper,
}

const helperEnv = "STORAGE_TEST_HELPER"

func TestMain(m *testing.M) {
	if Reexec() {
		return
	}
	if f := helpers[os.Getenv(helperEnv)]; f != nil {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// helper is the test program as the helper name, with more environment.
func helper(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), append(env, helperEnv+"="+name)...)
	return cmd
}

// podmanStore is a store that podman can be run on.
type podmanStore struct {
	t    *testing.T
	dir  string
	opts Options
}

// newPodmanStore skips the test if there is no podman or if this is not root:
// without root, podman wants a user namespace of its own.
func newPodmanStore(t *testing.T) *podmanStore {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: shares a store with podman")
	}
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("needs podman")
	}
	dir := t.TempDir()
	p := &podmanStore{t, dir, Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run")}}
	conf := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n[storage.options.overlay]\nskip_mount_home = \"true\"\n", p.opts.GraphRoot, p.opts.RunRoot)
	if err := os.WriteFile(filepath.Join(dir, "storage.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs podman and returns what it printed, with its error.
func (p *podmanStore) run(args ...string) (string, error) {
	return p.tool("podman", args...)
}

func (p *podmanStore) tool(name string, args ...string) (string, error) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+filepath.Join(p.dir, "storage.conf"), "TMPDIR="+p.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *podmanStore) must(args ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// image makes an image of one layer with podman.
func (p *podmanStore) image(name string) {
	p.t.Helper()
	path := filepath.Join(p.dir, "layer.tar")
	if err := os.WriteFile(path, tarOf(p.t, entry{Name: "hello", Body: name}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.must("import", "--change", "CMD=/hello", path, name)
}

// entry is one member of a tar made by a test.
type entry struct {
	Name, Link, Body string
	Type             byte // 0: a file, or a directory if the name ends in a slash
	Mode             int64
	UID, GID         int
	PAX              map[string]string
	Major, Minor     int64
	MTime            int64
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := header(e)
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func header(e entry) *tar.Header {
	h := &tar.Header{
		Name: e.Name, Linkname: e.Link, Size: int64(len(e.Body)), Typeflag: e.Type, Mode: e.Mode,
		Uid: e.UID, Gid: e.GID, PAXRecords: e.PAX, Devmajor: e.Major, Devminor: e.Minor,
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
		if strings.HasSuffix(e.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if len(e.PAX) > 0 {
		h.Format = tar.FormatPAX
	}
	return h
}
