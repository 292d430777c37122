package secret

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
)

func TestStore(t *testing.T) {
	ctx, root := t.Context(), t.TempDir()
	s := In(root)
	first := &Secret{ID: "aa1", Name: "one", Data: []byte("hidden"), Created: time.Unix(1, 0)}
	if err := s.Create(ctx, first, false, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, &Secret{ID: "aa2", Name: "two", Data: []byte("x"), Created: time.Unix(2, 0)}, false, false); err != nil {
		t.Fatal(err)
	}
	again := &Secret{ID: "bb1", Name: "one", Data: []byte("new")}
	if err := s.Create(ctx, again, false, false); errs.KindOf(err) != errs.Conflict {
		t.Errorf("a name twice: %v", err)
	}
	kept := *again
	if err := s.Create(ctx, &kept, false, true); err != nil || kept.ID != "aa1" {
		t.Errorf("ignore: %v, %s", err, kept.ID)
	}
	for ref, want := range map[string]string{"one": "aa1", "aa1": "aa1", "two": "aa2"} {
		if got, err := s.Find(ref); err != nil || got.ID != want {
			t.Errorf("Find(%q) = %v, %v, want %s", ref, got, err, want)
		}
	}
	if _, err := s.Find("aa"); errs.KindOf(err) != errs.Conflict {
		t.Errorf("a prefix of two: %v", err)
	}
	for _, ref := range []string{"", "on", "zz"} {
		if _, err := s.Find(ref); errs.KindOf(err) != errs.NotFound {
			t.Errorf("Find(%q): %v", ref, err)
		}
	}
	if err := s.Create(ctx, again, true, false); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Fatalf("List: %v, %v", all, err)
	}
	if got, err := s.Find("one"); err != nil || string(got.Data) != "new" || got.ID != "aa1" || got.Created.Unix() != 1 {
		t.Errorf("replaced: %v, %v", got, err)
	}
	if id, err := s.Remove(ctx, "two"); err != nil || id != "aa2" {
		t.Errorf("Remove: %s, %v", id, err)
	}
	if _, err := s.Remove(ctx, "two"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

func TestOnlyTheOwnerReadsThem(t *testing.T) {
	s := In(t.TempDir())
	if err := s.Create(t.Context(), &Secret{ID: "a", Name: "one", Data: []byte("x")}, false, false); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == filepath.Join(s.Root, "lock") {
			return err
		}
		if fi, err := d.Info(); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAKilledWriterLeavesNothing(t *testing.T) {
	s := In(t.TempDir())
	if err := s.Create(t.Context(), &Secret{ID: "a", Name: "one", Data: []byte("x")}, false, false); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.Root, ".b.json.new")
	if err := os.WriteFile(left, []byte(`{"v":1,"name":"two","da`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("List: %v, %v", all, err)
	}
	if _, err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); err == nil {
		t.Errorf("%s is still there", left)
	}
}

func TestWhatIsNoSecret(t *testing.T) {
	for _, sec := range []*Secret{
		{Name: "", Data: []byte("x")},
		{Name: "a/b", Data: []byte("x")},
		{Name: "a=b", Data: []byte("x")},
		{Name: strings.Repeat("a", 254), Data: []byte("x")},
		{Name: "empty"},
		{Name: "long", Data: make([]byte, MaxSize)},
	} {
		if err := Check(sec); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q with %d bytes: %v", sec.Name, len(sec.Data), err)
		}
	}
}

func TestANewerOneIsRefused(t *testing.T) {
	s := In(t.TempDir())
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file("a"), []byte(`{"v":2,"id":"a","name":"one"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("read: %v", err)
	}
}
