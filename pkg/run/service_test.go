package run

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"cais.dev/cais/pkg/connect"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/logs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
)

// fakeImages is a store with one image.
type fakeImages struct {
	lower []string
	fail  error // of Protect

	removed []string // by RemoveUnused

	mu    sync.Mutex
	notes map[string]Protection
}

func (f *fakeImages) Image(context.Context, string) (*Image, error) {
	return &Image{ID: strings.Repeat("1", 64), Ref: "docker.io/library/box:latest", Config: oci.Image{
		Platform: oci.HostPlatform(), Config: oci.Config{Cmd: []string{"true"}, Volumes: map[string]struct{}{"/data": {}}},
	}}, nil
}
func (f *fakeImages) LowerDirs(context.Context, string) ([]string, error) { return f.lower, nil }
func (f *fakeImages) Protect(_ context.Context, p Protection) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.notes[p.ID] = p
	}
	return f.fail
}
func (f *fakeImages) Rename(context.Context, string, string) error { return nil }

func (f *fakeImages) Unprotect(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		delete(f.notes, id)
	}
	return f.fail
}
func (f *fakeImages) RemoveUnused(_ context.Context, ref string) error {
	f.removed = append(f.removed, ref)
	return nil
}
func (f *fakeImages) Protected(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for id := range f.notes {
		ids = append(ids, id)
	}
	return ids, nil
}

func newService(t *testing.T) (*Service, *fakeImages) {
	t.Helper()
	root := t.TempDir()
	layer := t.TempDir()
	if err := os.CopyFS(layer, fstest.MapFS{"etc/passwd": {Data: []byte("root:x:0:0::/root:/bin/sh\n")}, "data/x": {Data: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	images := &fakeImages{lower: []string{layer}, notes: map[string]Protection{}}
	store := container.Store{Root: root, Run: filepath.Join(root, "run")}
	networks := connect.New(connect.Options{Containers: store, Log: slog.New(slog.DiscardHandler)})
	return New(Options{Store: store, Images: images, Networks: networks}), images
}

func (s *Service) mustCreate(t *testing.T, o CreateOptions) *Created {
	t.Helper()
	var err error
	if o.Image, err = s.Image(t.Context(), "box"); err != nil {
		t.Fatal(err)
	}
	o.Ref = "box"
	c, err := s.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// empty fails unless nothing is left of any container.
func (s *Service) empty(t *testing.T, images *fakeImages) {
	t.Helper()
	runDirs, err := filepath.Rel(s.store.Root, s.store.RunDirs())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"containers", "names", "volumes", runDirs} {
		list, err := os.ReadDir(filepath.Join(s.store.Root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range list {
			t.Errorf("%s/%s is left", dir, e.Name())
		}
	}
	if len(images.notes) > 0 {
		t.Errorf("notes are left in the store: %v", images.notes)
	}
}

func TestCreateAndRemove(t *testing.T) {
	s, images := newService(t)
	c := s.mustCreate(t, CreateOptions{Name: "web"})
	got, err := s.Find(t.Context(), "web")
	if err != nil || got.ID != c.ID || got.Status() != container.Created || got.Record.Path != "true" || len(got.Record.Volumes) != 1 {
		t.Fatalf("created %+v, %v", got, err)
	}
	if p := images.notes[c.ID]; p.Name != "web" || p.Volatile {
		t.Errorf("note in the store: %+v", p)
	}
	top, err := os.Stat(images.lower[0])
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.upper(c.ID)); err != nil || fi.Mode() != top.Mode() {
		t.Errorf("upper: %v, %v; want the image's %v", fi.Mode(), err, top.Mode())
	}
	if _, err := s.Find(t.Context(), c.ID[:6]); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "web", RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	s.empty(t, images)
	if err := s.Remove(t.Context(), "web", RemoveOptions{}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a second removal: %v", err)
	}
}

// What a monitor would start again, by the policy or because it is unhealthy, is to
// stay ended when the user ends it.
func TestDismissal(t *testing.T) {
	s, _ := newService(t)
	check := &oci.Healthcheck{Test: []string{"CMD", "true"}}
	for _, tt := range []struct {
		req  plan.Request
		want bool
	}{
		{plan.Request{}, false},
		{plan.Request{Restart: plan.RestartPolicy{Name: "always"}}, true},
		{plan.Request{HealthOnFailure: "restart", Health: check}, true},
		{plan.Request{HealthOnFailure: "kill", Health: check}, false},
	} {
		c, err := s.Find(t.Context(), s.mustCreate(t, CreateOptions{Request: tt.req}).ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.dismiss(t.Context(), c); err != nil || c.Settings.StoppedByUser != tt.want {
			t.Errorf("%+v: %v, stopped by the user: %v", tt.req, err, c.Settings.StoppedByUser)
		}
	}
}

func TestRemoveTakesTheImage(t *testing.T) {
	s, images := newService(t)
	for _, req := range []plan.Request{{AutoRemove: true}, {AutoRemove: true, RemoveImage: true}} {
		if err := s.Remove(t.Context(), s.mustCreate(t, CreateOptions{Request: req}).ID, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(images.removed, []string{"box"}) {
		t.Errorf("removed %q, want box for --rmi", images.removed)
	}
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	s, images := newService(t)
	img, _ := s.Image(t.Context(), "box")
	cid := filepath.Join(t.TempDir(), "cid")
	images.fail = errors.New("full")
	_, err := s.Create(t.Context(), CreateOptions{Ref: "box", Image: img, Name: "web", Request: plan.Request{CIDFile: cid}})
	if err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("got %v", err)
	}
	s.empty(t, images)
	images.fail = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Create(ctx, CreateOptions{Ref: "box", Image: img, Name: "web", Request: plan.Request{CIDFile: cid}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.empty(t, images)
	if _, err := os.Lstat(cid); err == nil {
		t.Error("the container ID file stays")
	}
}

func TestNameClashAndReplace(t *testing.T) {
	s, images := newService(t)
	a := s.mustCreate(t, CreateOptions{Name: "web"})
	img, _ := s.Image(t.Context(), "box")
	_, err := s.Create(t.Context(), CreateOptions{Ref: "box", Image: img, Name: "web"})
	if taken, ok := errors.AsType[*container.NameTakenError](err); !ok || taken.Owner != a.ID {
		t.Errorf("clash: %v", err)
	}
	b := s.mustCreate(t, CreateOptions{Name: "web", Replace: true})
	if got, err := s.Find(t.Context(), "web"); err != nil || got.ID != b.ID {
		t.Errorf("replaced: %v", err)
	}
	if len(images.notes) != 1 {
		t.Errorf("notes: %v", images.notes)
	}
}

func TestHealCollectsWhatKilledCommandsLeave(t *testing.T) {
	s, images := newService(t)
	keep := s.mustCreate(t, CreateOptions{Name: "keep", Request: plan.Request{AutoRemove: true}}) // create --rm: to be started later
	half := s.mustCreate(t, CreateOptions{Name: "half"})
	if err := s.removeVolumes(t.Context(), half.record); err != nil { // which come first
		t.Fatal(err)
	}
	if err := s.store.Forget(half.ID); err != nil { // a create before its record, a removal behind it
		t.Fatal(err)
	}
	s.mustCreate(t, CreateOptions{Name: "eph", Ephemeral: true, Request: plan.Request{AutoRemove: true}})
	gone := container.NewID()
	images.notes[gone] = Protection{ID: gone}
	if err := os.MkdirAll(s.store.RunDir(container.NewID()), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Heal(t.Context())
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != keep.ID {
		t.Errorf("left: %v, %v", all, err)
	}
	if len(images.notes) != 1 {
		t.Errorf("notes: %v", images.notes)
	}
	if err := s.Remove(t.Context(), "keep", RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	s.empty(t, images)
}

// An image's signal is not the user's, but it is too late to find out at start.
func TestCreateRefusesASignal(t *testing.T) {
	s, images := newService(t)
	img, err := s.Image(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	img.Config.Config.StopSignal = "SIGBOGUS"
	if _, err := s.Create(t.Context(), CreateOptions{Image: img, Ref: "box"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("got %v, want a refusal", err)
	}
	s.empty(t, images)
}

func TestStartWithADamagedSpec(t *testing.T) {
	s, images := newService(t)
	c := s.mustCreate(t, CreateOptions{Name: "web"})
	for _, text := range []string{"{}", "", "null", `{"process":{},"root":{}}`, "["} {
		if err := s.store.WriteSpec(c.ID, []byte(text), false); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(t.Context(), "web", StartOptions{}); err == nil {
			t.Errorf("%q: started", text)
		}
	}
	if err := s.Remove(t.Context(), "web", RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	s.empty(t, images)
}

// On a full disk a container can be removed all the same.
func TestRemoveOnAFullDisk(t *testing.T) {
	s, images := newService(t)
	s.mustCreate(t, CreateOptions{Name: "web"})
	images.fail = &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	if err := s.Remove(t.Context(), "web", RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	images.fail = nil
	if len(images.notes) != 1 {
		t.Fatal("the note is gone already")
	}
	s.Heal(t.Context())
	if len(images.notes) != 0 {
		t.Error("the note is left")
	}
	s.empty(t, images)
}

// Another HOME is another store, but the same user, with the same run root.
func TestHealLeavesAnotherStoresRunDirectories(t *testing.T) {
	s, _ := newService(t)
	other := container.Store{Root: t.TempDir(), Run: s.store.Run}
	dir := other.RunDir(container.NewID())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Heal(t.Context())
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestHealWritesTheExitThatAMonitorCouldNot(t *testing.T) {
	s, _ := newService(t)
	c := s.mustCreate(t, CreateOptions{Name: "web"})
	began := time.Now().Add(-time.Minute).UTC()
	state := `{"v":1,"status":"running","pid":0,"startedAt":"` + began.Format(time.RFC3339Nano) + `"}`
	if err := os.WriteFile(filepath.Join(s.store.Dir(c.ID), "run", "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Heal(t.Context())
	got, err := s.Find(t.Context(), "web")
	if err != nil || got.Exit == nil || got.Exit.Code != 137 || got.Lost() || got.Status() != container.Exited {
		t.Errorf("healed: %+v, %v", got.Exit, err)
	}
	if code, err := s.Wait(t.Context(), "web"); code != 137 || err != nil {
		t.Errorf("wait: %d, %v", code, err)
	}
}

// What a run wrote is looked for when it is over or a moment old.
func TestAged(t *testing.T) {
	s, _ := newService(t)
	c := s.mustCreate(t, CreateOptions{Name: "web"})
	began := time.Now()
	state := `{"v":1,"status":"running","pid":0,"startedAt":"` + began.Format(time.RFC3339Nano) + `"}`
	if err := os.WriteFile(filepath.Join(s.store.Dir(c.ID), "run", "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	alive, err := lock.Try(filepath.Join(s.store.Dir(c.ID), "alive"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Release()
	read := func() error {
		return s.Logs(t.Context(), "web", LogsOptions{Tail: -1}, func(logs.Entry) error { return nil })
	}
	if err := read(); err != nil || time.Since(began) < moment {
		t.Errorf("read %s after the start, %v; want %s", time.Since(began), err, moment)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	got, err := s.Find(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	got.State.StartedAt = time.Now().Add(time.Hour) // the clock was set back
	if err := s.aged(ctx, got); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v, want %v", err, stop)
	}
	if err := s.aged(t.Context(), got); err != nil {
		t.Errorf("with a clock that was set back: %v", err)
	}
}

func TestVolumesAreFilledFromTheImage(t *testing.T) {
	s, images := newService(t)
	c := s.mustCreate(t, CreateOptions{Name: "web"})
	got, err := s.Find(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("filling a volume needs root or the user's namespace")
	}
	if err := s.volumes(t.Context(), got.Record); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(s.store.VolumeDir(got.Record.Volumes[0].Name), "_data")
	if b, err := os.ReadFile(filepath.Join(data, "x")); string(b) != "1" {
		t.Errorf("content %q, %v", b, err)
	}
	if err := s.Remove(t.Context(), c.ID, RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	s.empty(t, images)
}
