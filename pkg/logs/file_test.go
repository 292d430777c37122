package logs

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
)

// compressed writes n entries to a log of at most five files with 6 entries each,
// whose rotated ones are compressed.
func compressed(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c-json.log")
	var in, out *os.File
	dup := func(fd int) *os.File {
		fd, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "")
	}
	w, err := jsonfile.Open(jsonfile.Options{Path: path, MaxSize: 450, MaxFile: 5, Compress: func(i, o int) error {
		in, out = dup(i), dup(o)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range n {
		line(w, i)
		for in != nil {
			if err := Compress(in, out); err != nil {
				t.Fatal(err)
			}
			_, _ = in.Close(), out.Close()
			in = nil
			w.CompressEnded(true)
		}
	}
	return path
}

func TestReadCompressed(t *testing.T) {
	path := compressed(t, 30)
	if _, err := os.Stat(jsonfile.Rotated(path, 1)); err == nil {
		t.Fatal("the file is not compressed")
	}
	at := func(n int) time.Time { return base.Add(time.Duration(n) * time.Second) }
	for name, tt := range map[string]struct {
		o    Options
		want []int
	}{
		"all":                   {all(Options{}), seq(0, 30)},
		"tail of the newest":    {Options{Tail: 2}, seq(28, 30)},
		"tail over two files":   {Options{Tail: 8}, seq(22, 30)},
		"tail of a whole file":  {Options{Tail: 12}, seq(18, 30)},
		"tail of the oldest":    {Options{Tail: 29}, seq(1, 30)},
		"tail of more than all": {Options{Tail: 31}, seq(0, 30)},
		"between":               {all(Options{Since: at(5), Until: at(20)}), seq(5, 21)},
	} {
		tt.o.Path = path
		if got := read(t, tt.o); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

// TestSkipCompressed: a compressed file has the time of the one that it was.
func TestSkipCompressed(t *testing.T) {
	dir := t.TempDir()
	in, err := os.Create(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(in.Name(), base, base.Add(time.Nanosecond)); err != nil {
		t.Fatal(err)
	}
	if err := Compress(in, out); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(out.Name()); err != nil || !st.ModTime().Equal(base.Add(time.Nanosecond)) {
		t.Errorf("%v %v", st.ModTime(), err)
	}
}

// TestReadWhileCompressing: what is there at every step of a rotation and of the
// compressed file's coming is read once.
func TestReadWhileCompressing(t *testing.T) {
	path := compressed(t, 30)
	steps := func() [][2]string { // renames of a rotation, oldest first
		var s [][2]string
		for i := 4; i > 0; i-- {
			s = append(s, [2]string{jsonfile.Compressed(path, i), jsonfile.Compressed(path, i+1)})
		}
		return append(s, [2]string{path, jsonfile.Rotated(path, 1)})
	}()
	for i, s := range steps {
		if err := os.Rename(s[0], s[1]); err != nil {
			t.Fatal(err)
		}
		if got := read(t, all(Options{Path: path})); !slices.Equal(got, seq(0, 30)) {
			t.Errorf("after step %d: got %v", i, got)
		}
	}
	// Both forms are there for a moment.
	if err := os.WriteFile(jsonfile.Compressed(path, 1), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, all(Options{Path: path})); !slices.Equal(got, seq(0, 30)) {
		t.Errorf("with both forms: got %v", got)
	}
}

// TestFollowCompressed: the files that are read next may be compressed by then.
func TestFollowCompressed(t *testing.T) {
	path := compressed(t, 30)
	r := &reader{o: all(Options{Path: path})}
	var got []int
	r.emit = func(e Entry) error {
		got = append(got, int(e.Time.Sub(base)/time.Second))
		return nil
	}
	defer r.close()
	var err error
	if r.f, err = openNumber(path, 3); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, seq(6, 30)) {
		t.Errorf("got %v", got)
	}
}
