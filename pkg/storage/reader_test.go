package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
)

func TestEmptyStoreIsEmptyAndStaysAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	r := NewReader(Options{GraphRoot: dir, RunRoot: filepath.Join(dir, "run")})
	defer r.Close()
	if imgs, err := r.Images(t.Context()); len(imgs) != 0 || err != nil {
		t.Errorf("Images = %v, %v", imgs, err)
	}
	if _, err := r.Image(t.Context(), "docker.io/library/web:latest", "web"); errs.KindOf(err) != errs.NotFound || err.Error() != "no such image: web:latest" {
		t.Errorf("Image: %v", err)
	}
	if cs, err := r.Containers(t.Context()); len(cs) != 0 || err != nil {
		t.Errorf("Containers = %v, %v", cs, err)
	}
	if err := r.RemoveContainer(t.Context(), "x"); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	if err := r.AddContainer(t.Context(), ContainerRef{ID: "x", ImageID: "y", ImageName: "docker.io/library/y:latest"}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("AddContainer: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

// What another program left in the directory decides the driver, but not vfs of a
// user's: Podman 4.3 takes it for want of a storage.conf.
func TestDriver(t *testing.T) {
	const images = `[{"id":"x"}]`
	tests := []struct {
		name           string
		dirs           []string
		images         string // of vfs
		o              Options
		driver, beside string
	}{
		{name: "empty", driver: "overlay"},
		{name: "overlay", dirs: []string{"overlay-images"}, driver: "overlay"},
		{name: "btrfs", dirs: []string{"btrfs-images"}, o: Options{Rootless: true}, driver: "btrfs"},
		{name: "root's vfs", dirs: []string{"vfs-images"}, driver: "vfs"},
		{name: "user's vfs", dirs: []string{"vfs-images"}, o: Options{Rootless: true}, driver: "overlay", beside: "vfs"},
		{name: "both", dirs: []string{"vfs-images", "overlay-images"}, images: images, o: Options{Rootless: true}, driver: "overlay", beside: "vfs"},
		{name: "vfs asked for", dirs: []string{"vfs-images"}, o: Options{Rootless: true, Driver: "vfs"}, driver: "vfs"},
		{name: "overlay asked for", dirs: []string{"vfs-images"}, images: "[]", o: Options{Rootless: true, Driver: "overlay"}, driver: "overlay"},
		{name: "images forgotten", dirs: []string{"vfs-images"}, images: images, o: Options{Rootless: true, Driver: "overlay"}, driver: "overlay", beside: "vfs"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			c.o.GraphRoot = t.TempDir()
			for _, d := range c.dirs {
				if err := os.Mkdir(filepath.Join(c.o.GraphRoot, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if c.images != "" {
				if err := os.WriteFile(filepath.Join(c.o.GraphRoot, "vfs-images/images.json"), []byte(c.images), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := NewReader(c.o)
			defer r.Close()
			if r.Driver() != c.driver || r.Beside() != c.beside {
				t.Errorf("driver %q beside %q, want %q beside %q", r.Driver(), r.Beside(), c.driver, c.beside)
			}
		})
	}
}

func TestFind(t *testing.T) {
	digest := "sha256:" + strings.Repeat("d", 64)
	imgs := []*Image{
		{ID: "ab" + strings.Repeat("0", 62), Names: []string{"docker.io/library/web:latest", "docker.io/library/web:1"}, Digests: []string{digest}},
		{ID: "ac" + strings.Repeat("0", 62), Names: []string{"docker.io/library/ab:latest"}},
		{ID: "cc" + strings.Repeat("0", 62), History: []string{"quay.io/x/old:1"}, Digests: []string{"sha256:" + strings.Repeat("e", 64)}},
	}
	tests := []struct {
		refs []string
		want string // first two digits of the id
		kind errs.Kind
	}{
		{refs: []string{"docker.io/library/web:1", "web:1"}, want: "ab"},
		{refs: []string{"docker.io/library/ab:latest", "ab"}, want: "ac"}, // a name wins over an id
		{refs: []string{"docker.io/library/a:latest", "a"}, kind: errs.Invalid},
		{refs: []string{"docker.io/library/cc:latest", "cc"}, want: "cc"},
		{refs: []string{"sha256:" + imgs[0].ID}, want: "ab"},
		{refs: []string{"sha256:ab"}, want: "ab"},
		{refs: []string{digest}, want: "ab"},
		{refs: []string{"docker.io/library/web@" + digest}, want: "ab"},
		{refs: []string{"docker.io/library/web:9@" + digest}, want: "ab"}, // the digest decides
		{refs: []string{"docker.io/library/other@" + digest}, kind: errs.NotFound},
		{refs: []string{"quay.io/x/old@sha256:" + strings.Repeat("e", 64)}, want: "cc"},
		{refs: []string{"docker.io/library/none:latest", "none"}, kind: errs.NotFound},
		{refs: []string{""}, kind: errs.NotFound},
		{refs: []string{"sha256:"}, kind: errs.NotFound},
	}
	for _, tt := range tests {
		img, err := find(imgs, tt.refs)
		if errs.KindOf(err) != tt.kind || (img != nil) != (tt.want != "") || img != nil && img.ID[:2] != tt.want {
			t.Errorf("%q: got %v, %v; want %q, kind %v", tt.refs, img, err, tt.want, tt.kind)
		}
	}
}

func TestBigDataName(t *testing.T) {
	for key, want := range map[string]string{"manifest": "manifest", "sha256:aa": "=c2hhMjU2OmFh", "a.1": "a.1", "A": "=QQ==", "../x": "=Li4veA=="} {
		if got := bigDataName(key); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

func TestDamagedFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "overlay-images"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay-images", "images.json")
	if err := os.WriteFile(file, []byte(`[{"id":"a","names":["x"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := NewReader(Options{GraphRoot: dir}).Images(t.Context())
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error naming %s", err, file)
	}
}

// FuzzScanner: what encoding/json accepts, we accept, with the same values.
func FuzzScanner(f *testing.F) {
	f.Add([]byte(`[{"id":"a","names":["x","\u00e9\"\\"],"created":"2020-01-01T00:00:00Z","big-data-sizes":{"a":1},"flags":{"x":[{"y":null}]}}]`))
	f.Add([]byte(`[{"id":null}, {"names":null,"x":-1.5e3,"y":[true,false]}]`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var want []struct {
			ID    string   `json:"id"`
			Names []string `json:"names"`
		}
		got, gotErr := parseImages(doc)
		if json.Unmarshal(doc, &want) != nil || gotErr != nil {
			return // a name given twice, or in other case, is read differently: only crashes count then
		}
		_ = got
	})
}

func TestParseMatchesEncodingJSON(t *testing.T) {
	doc := []byte(` [ {"id":"a\u0041b","names":["x","\u00e9\"\\"],"x":{"y":[1,{"z":"]}"}]},"created":"2020-01-02T03:04:05.5Z","layer":"l",` +
		`"big-data-sizes":{"manifest":12},"big-data-digests":{"manifest-sha256:1":"sha256:1","sha256:2":"sha256:2"},"n":null,"t":true} , {"id":"b"} ] `)
	imgs, err := parseImages(doc)
	if err != nil || len(imgs) != 2 {
		t.Fatalf("%v, %v", imgs, err)
	}
	img := imgs[0]
	if img.ID != "aAb" || !slices.Equal(img.Names, []string{"x", `é"\`}) || img.TopLayer != "l" || img.BigData["manifest"] != 12 ||
		!slices.Equal(img.Digests, []string{"sha256:1"}) || img.Digest != "sha256:1" || img.Created.Nanosecond() != 5e8 {
		t.Errorf("got %+v", img)
	}
	for _, bad := range []string{`[`, `[{`, `[{"id"`, `[{"id":`, `[{"id":"x`, `[{"id":"x"`, `[{"id":"x"}`, `[{"id":"x"]`, `{}`, `[{"id":}]`, `[{"x":]}]`, `[1]`, `[{"id":"\x"}]`} {
		if _, err := parseImages([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestReadsWhatPodmanWrote(t *testing.T) {
	p := newPodmanStore(t)
	p.image("docker.io/library/one:1")
	p.must("tag", "docker.io/library/one:1", "localhost/two:2")
	r := NewReader(p.opts)
	defer r.Close()
	img, err := r.Image(t.Context(), "localhost/two:2")
	if err != nil {
		t.Fatal(err)
	}
	if id := strings.TrimSpace(p.must("images", "-q", "--no-trunc", "one")); "sha256:"+img.ID != strings.Fields(id)[0] {
		t.Errorf("id %s, podman says %s", img.ID, id)
	}
	if len(img.Names) != 2 || img.Digest == "" || time.Since(img.Created) > time.Hour {
		t.Errorf("got %+v", img)
	}
	config, err := r.Config(t.Context(), img)
	if err != nil || !strings.Contains(string(config), `"Cmd":["/bin/sh","-c","/hello"]`) && !strings.Contains(string(config), "/hello") {
		t.Errorf("config %s, %v", config, err)
	}
	if _, err := r.Manifest(t.Context(), img); err != nil {
		t.Error(err)
	}
	if _, err := r.Document(t.Context(), img, "none"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("Document: %v", err)
	}
	dirs, err := r.LowerDirs(t.Context(), img)
	if err != nil || len(dirs) != 1 {
		t.Fatalf("LowerDirs = %v, %v", dirs, err)
	}
	short := slices.Clone(dirs)
	shorten(short)
	if filepath.Base(filepath.Dir(short[0])) != "l" {
		t.Fatalf("shortened to %v", short)
	}
	for _, dir := range append(dirs, short...) {
		if b, err := os.ReadFile(filepath.Join(dir, "hello")); err != nil || string(b) != "docker.io/library/one:1" {
			t.Errorf("%s/hello = %q, %v", dir, b, err)
		}
	}
	sizes, err := r.Sizes(t.Context(), img)
	if err != nil || sizes[img.ID] < 512 {
		t.Errorf("Sizes = %v, %v", sizes, err)
	}
	// a store beside it that has this one as an additional store
	other := NewReader(Options{GraphRoot: t.TempDir(), ImageStores: []string{p.opts.GraphRoot}})
	defer other.Close()
	img, err = other.Image(t.Context(), "localhost/two:2")
	if err != nil || !img.ReadOnly {
		t.Fatalf("through an additional store: %+v, %v", img, err)
	}
	if more, err := other.LowerDirs(t.Context(), img); err != nil || !slices.Equal(more, dirs) {
		t.Errorf("LowerDirs = %v, %v; want %v", more, err, dirs)
	}
}

func TestStoreThatNativeOverlayCannotMount(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "overlay"), 0o700); err != nil {
		t.Fatal(err)
	}
	img := &Image{ID: "x", TopLayer: "y", dir: filepath.Join(dir, "overlay-images", "x")}
	if _, err := NewReader(Options{GraphRoot: dir}).LowerDirs(t.Context(), img); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a missing layer: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay", ".has-mount-program"), []byte("true"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{GraphRoot: dir}, {GraphRoot: dir, Driver: "vfs"}, {GraphRoot: "/none", DriverOptions: []string{"overlay.mount_program=/usr/bin/fuse-overlayfs"}}} {
		if _, err := NewReader(o).LowerDirs(t.Context(), img); errs.KindOf(err) != errs.Unsupported || errs.HintOf(err) == "" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestPodmanHonoursOurContainerRecord(t *testing.T) {
	p := newPodmanStore(t)
	p.image("docker.io/library/web:1")
	r := NewReader(p.opts)
	defer r.Close()
	img, err := r.Image(t.Context(), "docker.io/library/web:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, volatile := range []bool{false, true} {
		c := ContainerRef{ID: strings.Repeat(fmt.Sprint(btoi(volatile)), 64), Name: "hungry", ImageID: img.ID, ImageName: "docker.io/library/web:1", Created: time.Now(), Volatile: volatile}
		if err := r.AddContainer(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := r.AddContainer(t.Context(), c); errs.KindOf(err) != errs.Conflict {
			t.Errorf("the same id again: %v", err)
		}
		if out, err := p.run("rmi", "web:1"); err == nil || !strings.Contains(out, "in use") && !strings.Contains(out, "used by") {
			t.Fatalf("volatile %v: podman removed the image of our container: %v %s", volatile, err, out)
		}
		if out := p.must("ps", "-a", "--external"); !strings.Contains(out, "hungry") || !strings.Contains(out, "web:1") {
			t.Errorf("podman ps --external: %s", out)
		}
		if err := r.RenameContainer(t.Context(), c.ID, "thirsty"); err != nil {
			t.Fatal(err)
		}
		if out := p.must("ps", "-a", "--external"); !strings.Contains(out, "thirsty") {
			t.Errorf("podman ps --external after rename: %s", out)
		}
		if err := r.RemoveContainer(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	p.must("rmi", "web:1")
	if err := r.AddContainer(t.Context(), ContainerRef{ID: "1", ImageID: img.ID}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("with the image gone: %v", err)
	}
}

func TestPodmansNameIsTaken(t *testing.T) {
	p := newPodmanStore(t)
	p.image("docker.io/library/web:1")
	p.must("--runtime", "runc", "create", "--name", "theirs", "--network", "none", "web:1")
	r := NewReader(p.opts)
	defer r.Close()
	img, err := r.Image(t.Context(), "docker.io/library/web:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.AddContainer(t.Context(), ContainerRef{ID: "1", Name: "theirs", ImageID: img.ID}); errs.KindOf(err) != errs.Conflict || errs.HintOf(err) == "" {
		t.Errorf("podman's name: %v", err)
	}
	cs, err := r.Containers(t.Context())
	if err != nil || len(cs) != 1 || cs[0].Name != "theirs" || cs[0].Ours || cs[0].Layer == "" {
		t.Fatalf("Containers = %+v, %v", cs, err)
	}
	if err := r.RemoveContainer(t.Context(), cs[0].ID); err != nil {
		t.Fatal(err)
	}
	if cs, _ := r.Containers(t.Context()); len(cs) != 1 {
		t.Error("podman's record was removed")
	}
}

func addHelper() error {
	r := NewReader(Options{GraphRoot: os.Getenv("ROOT"), RunRoot: os.Getenv("ROOT") + "-run"})
	return r.AddContainer(context.Background(), ContainerRef{ID: os.Getenv("ID"), Name: "n" + os.Getenv("ID"), ImageID: "img", Volatile: os.Getenv("VOLATILE") != ""})
}

func addAndRemoveHelper() error {
	r := NewReader(Options{GraphRoot: os.Getenv("ROOT"), RunRoot: os.Getenv("ROOT") + "-run"})
	for i := 0; ; i++ {
		id := fmt.Sprintf("%s-%d", os.Getenv("ID"), i)
		if err := r.AddContainer(context.Background(), ContainerRef{ID: id, ImageID: "img", Volatile: i%2 == 0}); err != nil {
			return err
		}
		if err := r.RemoveContainer(context.Background(), id); err != nil {
			return err
		}
	}
}

// oneImage makes a store that holds the record of one image, "img".
func oneImage(t *testing.T) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(root, "overlay-images"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{"images.json": `[{"id":"img"}]`, "images.lock": ""} {
		if err := os.WriteFile(filepath.Join(root, "overlay-images", name), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestHundredProcessesLoseNothing(t *testing.T) {
	root := oneImage(t)
	var cmds []*exec.Cmd
	for i := range 100 {
		env := []string{"ROOT=" + root, fmt.Sprintf("ID=%03d", i)}
		if i%2 == 0 {
			env = append(env, "VOLATILE=1")
		}
		cmd := helper(t, "add", env...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	r := NewReader(Options{GraphRoot: root})
	defer r.Close()
	cs, err := r.Containers(t.Context())
	if err != nil || len(cs) != 100 {
		t.Errorf("%d records, %v; want 100", len(cs), err)
	}
}

func TestKilledWritersLeaveWholeFiles(t *testing.T) {
	root := oneImage(t)
	r := NewReader(Options{GraphRoot: root, RunRoot: root + "-run"})
	defer r.Close()
	if err := r.AddContainer(t.Context(), ContainerRef{ID: "stays", ImageID: "img"}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		cmd := helper(t, "add-and-remove", "ROOT="+root, fmt.Sprintf("ID=%d", i))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed once it has written at least once, wherever it then is.
		for seen := false; !seen; {
			_, err := os.Stat(filepath.Join(root, "overlay-containers", "containers.json"))
			seen = err == nil
		}
		for range i * 37 {
			if _, err := r.Containers(t.Context()); err != nil {
				t.Fatalf("read beside a writer: %v", err)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cs, err := r.Containers(t.Context())
		if err != nil || !slices.ContainsFunc(cs, func(c ContainerRef) bool { return c.ID == "stays" }) {
			t.Fatalf("after kill %d: %v, %v", i, cs, err)
		}
	}
}

func TestWaitForALockEndsWithTheContext(t *testing.T) {
	root := oneImage(t)
	holder, reader := NewReader(Options{GraphRoot: root}), NewReader(Options{GraphRoot: root})
	defer holder.Close()
	defer reader.Close()
	path := filepath.Join(root, "overlay-images", "images.lock")
	ctx, cancel := context.WithCancel(t.Context())
	err := holder.locked(t.Context(), path, true, func(*lockFile) error {
		cancel()
		_, err := reader.Images(ctx)
		return err
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want canceled and the file's name", err)
	}
}
