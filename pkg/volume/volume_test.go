package volume

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func create(t *testing.T, s Store, v *Volume) bool {
	t.Helper()
	dir, err := s.Begin()
	if err == nil {
		_, err = MakeData(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Finish(dir, v)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestLife(t *testing.T) {
	s := In(t.TempDir())
	if list, err := s.List(); list != nil || err != nil {
		t.Fatalf("%v %v", list, err)
	}
	l, err := s.Lock(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !create(t, s, &Volume{Name: "data", Labels: map[string]string{"a": "b"}}) {
		t.Fatal("not made")
	}
	if create(t, s, &Volume{Name: "data"}) {
		t.Fatal("made twice")
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	v, err := s.Load("data")
	if err != nil || v.Driver != "local" || v.Labels["a"] != "b" || v.Anonymous || v.Created.IsZero() {
		t.Fatalf("%+v %v", v, err)
	}
	if left, err := s.Leftovers(); len(left) != 1 || err != nil {
		t.Errorf("the second one's directory: %v %v", left, err)
	}
	if list, err := s.List(); len(list) != 1 || err != nil {
		t.Errorf("%v %v", list, err)
	}
	dir, err := s.Remove("data")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "_data")); err != nil {
		t.Error(err)
	}
	if _, err := s.Load("data"); errs.KindOf(err) != errs.NotFound {
		t.Error(err)
	}
	if _, err := s.Remove("data"); errs.KindOf(err) != errs.NotFound {
		t.Error(err)
	}
}

func TestOlder(t *testing.T) {
	s := In(t.TempDir())
	if err := os.MkdirAll(s.Data("0123"), 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := s.Load("0123")
	if _, labelled := v.Labels[anonymousLabel]; err != nil || !v.Anonymous || !labelled {
		t.Errorf("%+v %v", v, err)
	}
}

func TestCheck(t *testing.T) {
	opts := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, good := range []*Volume{
		{Name: "a.b-c_d"}, {Name: "xx", Driver: "local"}, {Name: "xx", Options: opts("type", "tmpfs", "device", "tmpfs", "o", "size=1m")},
		{Name: "xx", Options: opts("type", "none", "device", "/srv", "o", "bind")},
	} {
		if err := Check(good); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []*Volume{
		{}, {Name: "a"}, {Name: "../x"}, {Name: "a b"}, {Name: ".x"}, {Name: "xx", Driver: "other"},
		{Name: "xx", Options: opts("size", "1")}, {Name: "xx", Options: opts("type", "nfs")}, {Name: "xx", Options: opts("device", "/x")},
	} {
		if Check(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestMounted(t *testing.T) {
	v := Volume{Options: map[string]string{"type": "none", "device": "/srv", "o": "bind,ro"}}
	if m := v.Mounted(); !reflect.DeepEqual(m, Mounted{Type: "bind", Device: "/srv", Options: []string{"ro"}}) {
		t.Errorf("%+v", m)
	}
	v.Options = map[string]string{"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1,rw"}
	if m := v.Mounted(); m.Type != "nfs" || m.Device != ":/x" || len(m.Options) != 2 {
		t.Errorf("%+v", m)
	}
}

// Nobody else reaches a volume, whose files may be readable for all or run with their
// owner's rights: not through a store's directory that is open, nor one that was made so.
func TestOthersDoNotReachVolumes(t *testing.T) {
	s := In(t.TempDir())
	if err := os.Mkdir(s.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{s.Root, dir} {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, fi.Mode(), err)
		}
	}
}
