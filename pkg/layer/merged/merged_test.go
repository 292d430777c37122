package merged

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	var dirs []string
	for _, list := range []string{"a=top gone!", "a=below gone=x only=1"} {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		for e := range strings.FieldsSeq(list) {
			file, text, _ := strings.Cut(e, "=")
			var err error
			if name, ok := strings.CutSuffix(e, "!"); ok {
				err = unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR, 0)
			} else {
				err = os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)
			}
			if err != nil {
				t.Skip("needs overlay's whiteouts: ", err)
			}
		}
	}
	for name, open := range map[string]func([]string, bool) (*os.File, error){"detached": detached, "attached": attached, "any": Open} {
		f, err := open(dirs, false)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || name == "detached" && errors.Is(err, unix.EINVAL) {
			t.Skip("cannot mount here: ", err)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{"a": "top", "gone": "", "only": "1"} {
			got, err := root.ReadFile(path)
			if string(got) != want || (err != nil) != (want == "") {
				t.Errorf("%s: %s is %q, %v; want %q", name, path, got, err, want)
			}
		}
		root.Close()
		f.Close()
	}
}
