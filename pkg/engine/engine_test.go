package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/storage"
)

func env(kv ...string) func(string) string {
	return func(k string) string {
		for _, s := range kv {
			if v, ok := strings.CutPrefix(s, k+"="); ok {
				return v
			}
		}
		return ""
	}
}

func TestPathsOfFlags(t *testing.T) {
	root := t.TempDir()
	e := New(Options{Getenv: env("CAIS_ROOT=" + root), GraphRoot: filepath.Join(root, "images"), StorageDriver: "vfs", StorageOpts: []string{"a=b"}})
	p, err := e.Paths()
	if err != nil || p.Root != root || p.GraphRoot != filepath.Join(root, "images") || p.RunRoot != filepath.Join(root, "run", "storage") {
		t.Errorf("got %+v, %v", p, err)
	}
	o, err := e.StorageOptions()
	if err != nil || o.GraphRoot != p.GraphRoot || o.Driver != "vfs" || !slices.Equal(o.DriverOptions, []string{"a=b"}) {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestPrepare(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new")
	e := New(Options{Getenv: env("CAIS_ROOT=" + root)})
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Join(root, "run"), filepath.Join(root, "run", "storage")} {
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi, err)
		}
	}
}

func TestPrepareRefusesWhatOthersCanChange(t *testing.T) {
	for name, make := range map[string]func(dir string) error{
		"open to all": func(dir string) error { return os.Chmod(dir, 0o777) },
		"a symlink": func(dir string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.Symlink(filepath.Dir(dir), dir)
		},
		"a file": func(dir string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		},
	} {
		root := t.TempDir()
		run := filepath.Join(root, "run")
		if err := os.Mkdir(run, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := make(run); err != nil {
			t.Fatal(err)
		}
		err := New(Options{Getenv: env("CAIS_ROOT=" + root)}).Prepare()
		if errs.KindOf(err) != errs.Denied || errs.HintOf(err) == "" {
			t.Errorf("%s: %v, want a refusal with a hint", name, err)
		}
	}
}

func TestRuntimeDirOfAnotherIsNotBelieved(t *testing.T) {
	mine := t.TempDir()
	e := New(Options{Getenv: env("XDG_RUNTIME_DIR=" + mine)})
	if got := e.getenv("XDG_RUNTIME_DIR"); got != mine {
		t.Errorf("got %q, want %q", got, mine)
	}
	e = New(Options{Getenv: env("XDG_RUNTIME_DIR=/nonexistent")})
	if got := e.getenv("XDG_RUNTIME_DIR"); got != "" {
		t.Errorf("got %q, want none", got)
	}
}

func TestHome(t *testing.T) {
	if h, err := home(env("HOME=/h"), 1); err != nil || h != "/h" {
		t.Errorf("got %q, %v", h, err)
	}
	if h, err := home(env(), 4294967290); err == nil || errs.HintOf(err) == "" {
		t.Errorf("got %q, %v; want an error with a hint", h, err)
	}
}

func TestImageRefs(t *testing.T) {
	const (
		id  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		dig = "sha256:" + id
	)
	tests := []struct {
		typed string
		refs  []string
		shown string
		kind  errs.Kind
	}{
		{typed: "busybox", refs: []string{"docker.io/library/busybox:latest", "busybox"}, shown: "busybox:latest"},
		{typed: "quay.io/a/b:c", refs: []string{"quay.io/a/b:c", "quay.io/a/b:c"}, shown: "quay.io/a/b:c"},
		{typed: "index.docker.io/x:1", refs: []string{"docker.io/library/x:1", "index.docker.io/x:1"}, shown: "x:1"},
		{typed: "busybox:1@" + dig, refs: []string{"docker.io/library/busybox@" + dig, "busybox:1@" + dig}, shown: "busybox:1@" + dig},
		{typed: "abc", refs: []string{"docker.io/library/abc:latest", "abc"}, shown: "abc:latest"}, // a name wins over an id
		{typed: id, refs: []string{id}, shown: id},
		{typed: dig, refs: []string{dig}, shown: dig},
		{typed: "BAD", kind: errs.Invalid},
		{typed: "", kind: errs.Invalid},
	}
	for _, tt := range tests {
		refs, shown, err := ImageRefs(tt.typed)
		if !slices.Equal(refs, tt.refs) || shown != tt.shown || errs.KindOf(err) != tt.kind {
			t.Errorf("ImageRefs(%q) = %q, %q, %v; want %q, %q, kind %v", tt.typed, refs, shown, err, tt.refs, tt.shown, tt.kind)
		}
	}
}

func (f findFunc) Short(string) ([]string, error) { return nil, nil }

type findFunc func(refs []string) (*storage.Image, error)

func (f findFunc) Image(_ context.Context, refs ...string) (*storage.Image, error) { return f(refs) }

func TestFindImage(t *testing.T) {
	found := findFunc(func([]string) (*storage.Image, error) {
		return &storage.Image{ID: "abc", Names: []string{"docker.io/library/x:1", "docker.io/library/busybox:latest"}}, nil
	})
	if _, name, err := FindImage(t.Context(), found, "busybox"); err != nil || name != "docker.io/library/busybox:latest" {
		t.Errorf("by name: %q, %v", name, err)
	}
	if _, name, err := FindImage(t.Context(), found, "abc"); err != nil || name != "" {
		t.Errorf("by id: %q, %v", name, err)
	}
	missing := findFunc(func([]string) (*storage.Image, error) { return nil, errs.New(errs.NotFound, "something else") })
	if _, _, err := FindImage(t.Context(), missing, "busybox"); err == nil || err.Error() != "no such image: busybox:latest" {
		t.Error(err)
	}
}

func TestGlobalFlagsAreHandedOn(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	e := New(Options{GraphRoot: "/g", RunRoot: "r", StorageOpts: []string{"a=b", "c=d"}, Debug: true, LogLevel: "info"})
	if got, want := e.globalFlags(), []string{"--root=/g", "--runroot=" + dir + "/r", "--storage-opt=a=b", "--storage-opt=c=d", "--debug"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// --root is all there is of another engine's place; CAIS_ROOT keeps containers where it says.
func TestRootHasContainers(t *testing.T) {
	for root, want := range map[string]string{"": "/g/cais", "/r": "/r"} {
		p, err := New(Options{Getenv: env("HOME=/h", "CAIS_ROOT="+root), GraphRoot: "/g"}).Paths()
		if err != nil || p.Root != want || p.Run != want+"/run" || p.GraphRoot != "/g" {
			t.Errorf("CAIS_ROOT=%s: %+v, %v", root, p, err)
		}
	}
}

func TestOthersNotesInTheStoreAreNotOurs(t *testing.T) {
	store, id := t.TempDir(), strings.Repeat("a", 64)
	mine := images{New(Options{Getenv: env("CAIS_ROOT=" + t.TempDir()), GraphRoot: store})}
	other := images{New(Options{Getenv: env("CAIS_ROOT=" + t.TempDir()), GraphRoot: store})}
	if err := mine.Protect(t.Context(), run.Protection{ID: id, Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if ids, err := mine.Protected(t.Context()); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("mine: %q, %v", ids, err)
	}
	if ids, err := other.Protected(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("of another directory: %q, %v", ids, err)
	}
}

func TestLog(t *testing.T) {
	for level, want := range map[string]string{
		"info":  "WARNING: mirror failed (mirror: m.x, reason: gone)\n",
		"fatal": "",
	} {
		var out strings.Builder
		log := New(Options{LogLevel: level, Stderr: &out}).Log()
		log.Info("nobody cares")
		log.Warn("mirror failed", "mirror", "m.x", "reason", errors.New("gone"))
		if out.String() != want {
			t.Errorf("%s: %q, want %q", level, out.String(), want)
		}
	}
}

func TestEnvironForElsewhere(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for root, want := range map[string]string{"": "CAIS_ROOT=", "/abs": "CAIS_ROOT=/abs", "rel": "CAIS_ROOT=" + dir + "/rel"} {
		e := New(Options{Getenv: env("CAIS_ROOT=" + root), Environ: []string{"CAIS_ROOT=" + root, "A=b"}})
		if got := e.environ(); len(got) != 2 || !slices.Contains(got, want) || !slices.Contains(got, "A=b") {
			t.Errorf("%q: got %q, want %q", root, got, want)
		}
	}
}

func TestClientConfig(t *testing.T) {
	dir := t.TempDir()
	e := New(Options{Getenv: env("DOCKER_CONFIG=" + dir)})
	if got := e.ClientFormat("psFormat"); got != "" {
		t.Errorf("no file: %q", got)
	}
	doc := `{"psFormat":"{{.ID}}","auths":{},"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"a,b","other":"x"},"tcp://h":{"allProxy":"no"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	e = New(Options{Getenv: env("DOCKER_CONFIG=" + dir)})
	if got := e.ClientFormat("psFormat"); got != "{{.ID}}" {
		t.Errorf("got %q", got)
	}
	if got := e.ClientFormat("auths"); got != "" {
		t.Errorf("what is no string: %q", got)
	}
	want := []string{"HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=a,b", "no_proxy=a,b"}
	if got := e.ClientProxies(); !slices.Equal(got, want) {
		t.Errorf("proxies %q, want %q", got, want)
	}
}
