package tree

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cais.dev/cais/test/trees"
)

// copyTo copies the root of the tree of layers into dst.
func copyTo(t *testing.T, dst string, owner func(uid, gid uint32) (uint32, uint32), dirs []string) error {
	t.Helper()
	v, err := Open(dirs...)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	to, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	return v.Root().Copy(t.Context(), to, owner)
}

func TestCopyIsWhatOverlayWouldShow(t *testing.T) {
	from := trees.Layers(t, []string{"a/new=2", "a/gone!", "l->/etc/passwd", "p|"}, []string{"a/old=1", "a/gone=1"})
	old := filepath.Join(from[1], "a/old")
	if err := os.Link(old, filepath.Join(from[1], "a/same")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(old, 0o4751); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(old, "user.colour", []byte("red"), 0); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dst, "a/left"), 0o755); err != nil { // by a killed command
		t.Fatal(err)
	}
	before := openFiles(t)
	if err := copyTo(t, dst, nil, from); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
	var got []string
	err := filepath.WalkDir(dst, func(p string, _ os.DirEntry, err error) error {
		got = append(got, strings.TrimPrefix(p, dst))
		return err
	})
	if want := " /a /a/new /a/old /a/same /l /p"; strings.Join(got, " ") != want || err != nil {
		t.Errorf("copied %q, %v; want %q", got, err, want)
	}
	var st, same, was syscall.Stat_t
	for p, st := range map[string]*syscall.Stat_t{filepath.Join(dst, "a/old"): &st, filepath.Join(dst, "a/same"): &same, old: &was} {
		if err := syscall.Stat(p, st); err != nil {
			t.Fatal(err)
		}
	}
	if st.Mode != was.Mode || st.Mtim != was.Mtim || st.Ino != same.Ino {
		t.Errorf("%+v and %+v are copies of %+v and its other name", st, same, was)
	}
	var value [8]byte
	if n, err := syscall.Getxattr(filepath.Join(dst, "a/old"), "user.colour", value[:]); err != nil || string(value[:n]) != "red" {
		t.Errorf("the attribute is %q, %v", value[:max(n, 0)], err)
	}
}

// What a container put into a volume leads a copy nowhere else.
func TestCopyFollowsNothing(t *testing.T) {
	outside, dst := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dst, "d")); err != nil {
		t.Fatal(err)
	}
	if err := copyTo(t, dst, nil, trees.Layers(t, []string{"d/x=1"})); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
		t.Errorf("the link's target got %v, %v", list, err)
	}
	if b, err := os.ReadFile(filepath.Join(dst, "d/x")); string(b) != "1" || err != nil {
		t.Errorf("d/x: %q, %v", b, err)
	}
}

func TestCopyForOtherIDs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	from, dst := trees.Layers(t, []string{"bin/ping=x"}), t.TempDir()
	caps := append([]byte{1, 0, 0, 2}, make([]byte, 16)...) // struct vfs_cap_data, version 2
	caps[5] = 0x20
	if err := syscall.Setxattr(filepath.Join(from[0], "bin/ping"), "security.capability", caps, 0); err != nil {
		t.Fatal(err)
	}
	if err := copyTo(t, dst, func(uid, gid uint32) (uint32, uint32) { return uid + 70000, gid + 80000 }, from); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dst, "bin/ping"), &st); err != nil || st.Uid != 70000 || st.Gid != 80000 {
		t.Errorf("it belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}
	var value [32]byte
	n, err := syscall.Getxattr(filepath.Join(dst, "bin/ping"), "security.capability", value[:])
	if want := string(caps[:3]) + "\x03" + string(caps[4:]) + "\x70\x11\x01\x00"; string(value[:max(n, 0)]) != want || err != nil {
		t.Errorf("its capabilities are %q, %v; want %q", value[:max(n, 0)], err, want)
	}
}
