package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

func newStore(t *testing.T) Store {
	t.Helper()
	root := t.TempDir()
	return Store{Root: root, Run: filepath.Join(root, "run")}
}

// make1 makes a container with a name and returns its id.
func make1(t *testing.T, s Store, id, name string) string {
	t.Helper()
	if id == "" {
		id = NewID()
	}
	l, err := s.Create(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if err := s.ClaimName(name, id); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.WriteSettings(id, &Settings{Name: name}, false), s.WriteRecord(&Record{ID: id}, false)); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"web": true, "a1": true, "A_b.c-d": true, "0x": true,
		"": false, "a": false, "-a": false, "_a": false, ".a": false, "a/b": false, "a b": false, "ä1": false, "a\n": false,
		strings.Repeat("a", 251): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for i := range 40 {
		if err := CheckName(RandomName(i)); err != nil {
			t.Error(err)
		}
	}
}

func TestFind(t *testing.T) {
	s := newStore(t)
	a := make1(t, s, "abc1"+strings.Repeat("0", 60), "web")
	b := make1(t, s, "abc2"+strings.Repeat("0", 60), "ab")
	if err := os.Mkdir(s.Dir("abc3"+strings.Repeat("0", 60)), 0o700); err != nil { // half made
		t.Fatal(err)
	}
	tests := []struct{ ref, want, err string }{
		{ref: a, want: a},
		{ref: "web", want: a},
		{ref: "/web", want: a},
		{ref: "abc1", want: a},
		{ref: "abc2", want: b},
		{ref: "ab", want: b}, // a name wins over a prefix
		{ref: "abc", err: `ambiguous ID prefix "abc" (matches 2 containers)`},
		{ref: "abc3", err: "no such container: abc3"},
		{ref: "nope", err: "no such container: nope"},
		{ref: "", err: "no such container: "},
		{ref: "../web", err: "no such container: ../web"},
	}
	for _, tt := range tests {
		got, err := s.Find(tt.ref)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("Find(%q) = %q, %v; want %q, %s", tt.ref, got, err, tt.want, tt.err)
		}
	}
}

func TestNames(t *testing.T) {
	s := newStore(t)
	a := make1(t, s, "", "web")
	b := make1(t, s, "", "other")
	err := s.ClaimName("web", b)
	if taken, ok := errors.AsType[*NameTakenError](err); !ok || taken.Owner != a || errs.KindOf(err) != errs.Conflict {
		t.Errorf("a taken name: %v, kind %v", err, errs.KindOf(err))
	}
	if err := s.ReleaseName("web", b); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find("web"); got != a {
		t.Errorf("another's name was released: %v", err)
	}
	// What a killed command leaves: a name whose container is gone.
	if err := os.RemoveAll(s.Dir(a)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("web"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a name left behind: %v", err)
	}
	if err := s.ClaimName("web", b); err != nil {
		t.Errorf("a name left behind is not taken over: %v", err)
	}
}

func TestNewerFilesAreRefusedWithAHint(t *testing.T) {
	s := newStore(t)
	id := make1(t, s, "", "web")
	for _, text := range []string{`{"v":2,"id":"x"}`, `{"v":2,"id":{"new":"form"}}`} {
		if err := os.WriteFile(filepath.Join(s.Dir(id), recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Load(id)
		if errs.KindOf(err) != errs.Unsupported || errs.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", text, err, errs.HintOf(err))
		}
	}
}

func TestStatus(t *testing.T) {
	s := newStore(t)
	id := make1(t, s, "", "web")
	began := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	run, err := os.Readlink(filepath.Join(s.Dir(id), runLink))
	if err != nil {
		t.Fatal(err)
	}
	state := func(status Status, at time.Time) {
		if err := write(filepath.Join(run, stateFile), &State{Version: 1, Status: status, StartedAt: at}, false); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want Status, lost bool) {
		t.Helper()
		c, err := s.Load(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Status(); got != want || c.Lost() != lost {
			t.Errorf("%s: %s, lost %v; want %s, %v", when, got, c.Lost(), want, lost)
		}
	}
	check("made", Created, false)
	alive, err := lock.Try(filepath.Join(s.Dir(id), aliveFile), true)
	if err != nil {
		t.Fatal(err)
	}
	check("monitor is starting", Created, false)
	for _, st := range []Status{Running, Paused, Restarting} {
		state(st, began)
		check(string(st), st, false)
	}
	if err := alive.Release(); err != nil {
		t.Fatal(err)
	}
	check("monitor killed", Exited, true)
	if err := s.WriteExit(id, &Exit{Code: 3, StartedAt: began, FinishedAt: began}, false); err != nil {
		t.Fatal(err)
	}
	check("ended", Exited, false)
	state(Running, began.Add(time.Second))
	check("started again, monitor killed", Exited, true)
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	check("after a reboot", Exited, false)
	if err := os.Remove(filepath.Join(s.Dir(id), exitFile)); err != nil {
		t.Fatal(err)
	}
	check("after a reboot, first run", Exited, true)
	if err := s.WriteExit(id, &Exit{Code: 127, Error: "not found"}, false); err != nil {
		t.Fatal(err)
	}
	check("never began", Created, false)
}

func TestRunDirOfAnotherIsNotBelieved(t *testing.T) {
	s := newStore(t)
	ours, theirs := make1(t, s, "", "ours"), make1(t, s, "", "theirs")
	// Others can write beside them, which makes each suspect, and in one of them.
	if err := errors.Join(os.Chmod(s.RunDirs(), 0o777), os.Chmod(s.RunDir(theirs), 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{ours, theirs} {
		if err := os.WriteFile(filepath.Join(s.RunDir(id), stateFile), []byte(`{"v":1,"status":"running","pid":1}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, listed := range all {
		c, err := s.Load(listed.ID)
		if err != nil || (c.State != nil) != (c.ID == ours) || (listed.State != nil) != (c.ID == ours) {
			t.Errorf("%s: state %v, in the list %v, %v; want one of ours alone", c.Settings.Name, c.State, listed.State, err)
		}
	}
}

func TestCreateAndCollectDoNotCollide(t *testing.T) {
	s := newStore(t)
	id := NewID()
	l, err := s.Create(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Try(filepath.Join(s.Dir(id), lockFile), true); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("a directory in the making can be locked: %v", err)
	}
	if err := errors.Join(s.Discard(id), l.Release()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.RunDir(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run directory stays: %v", err)
	}
	if _, err := s.Lock(t.Context(), id); errs.KindOf(err) != errs.NotFound {
		t.Errorf("Lock of nothing: %v", err)
	}
}

// TestListOfMany: with more than one reader, one that is damaged is an error and
// takes nobody with it, and one that is half made is not there.
func TestListOfMany(t *testing.T) {
	s := newStore(t)
	want := map[string]bool{}
	for i := range 120 {
		want[make1(t, s, "", fmt.Sprintf("c%d", i))] = true
	}
	damaged, half := make1(t, s, "", "damaged"), make1(t, s, "", "half")
	if err := errors.Join(os.WriteFile(filepath.Join(s.Dir(damaged), exitFile), []byte("{"), 0o600), s.Forget(half)); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err == nil || !strings.Contains(err.Error(), damaged) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v; want one, of %s", err, damaged)
	}
	for _, c := range all {
		delete(want, c.ID)
	}
	if len(all) != 120 || len(want) > 0 {
		t.Errorf("%d containers, without %v; want 120", len(all), want)
	}
}

// BenchmarkList is what ps does with 100 containers; its budget is 20 ms.
func BenchmarkList(b *testing.B) {
	s := Store{Root: b.TempDir(), Run: filepath.Join(b.TempDir(), "run")}
	for i := range 100 {
		id := NewID()
		l, err := s.Create(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(s.ClaimName(fmt.Sprintf("c%03d", i), id), s.WriteSettings(id, &Settings{}, false), s.WriteRecord(&Record{ID: id}, false), l.Release()); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if all, err := s.List(); err != nil || len(all) != 100 {
			b.Fatal(len(all), err)
		}
	}
}
