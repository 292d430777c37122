package jsonfile

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// packing is a log whose compressing process is the test.
type packing struct {
	*Writer
	s    *Stream
	out  *os.File // nil: none runs
	runs int
}

func newPacking(t *testing.T, path string) *packing {
	p := new(packing)
	p.Writer = open(t, Options{Path: path, MaxSize: 1, MaxFile: 4, Compress: func(_, out int) error { // each entry is a file
		fd, err := syscall.Dup(out)
		p.out, p.runs = os.NewFile(uintptr(fd), "out"), p.runs+1
		return err
	}})
	p.s = p.Stream("stdout")
	return p
}

func (p *packing) log(line string) { p.s.Write([]byte(line+"\n"), time.Unix(1000, 0)) }

// end is the end of the process: it has written text.
func (p *packing) end(t *testing.T, text string, ok bool) {
	t.Helper()
	_, err := p.out.WriteString(text)
	if err != nil || p.out.Close() != nil {
		t.Fatal(err)
	}
	p.CompressEnded(ok)
}

// names are the log's files, by what is behind its name.
func (p *packing) names(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(p.o.Path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = list[i][len(p.o.Path):]
	}
	return list
}

func (p *packing) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := p.names(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCompress(t *testing.T) {
	p := newPacking(t, filepath.Join(t.TempDir(), "log"))
	p.log("one")
	p.log("two")
	p.expect(t, "", ".1", ".tmp")
	p.end(t, "one, smaller", true)
	p.expect(t, "", ".1.gz")

	// The file is renamed while it is compressed; then comes the one behind it.
	p.log("three")
	p.log("four")
	p.expect(t, "", ".1", ".2", ".3.gz", ".tmp")
	p.end(t, "two, smaller", true)
	p.expect(t, "", ".1", ".2.gz", ".3.gz", ".tmp")
	p.end(t, "three, smaller", true)
	p.expect(t, "", ".1.gz", ".2.gz", ".3.gz")
	for i, want := range []string{"", "three, smaller", "two, smaller", "one, smaller"} {
		if got, err := os.ReadFile(Compressed(p.o.Path, i)); i > 0 && (err != nil || string(got) != want) {
			t.Errorf("file %d: %q %v, want %q", i, got, err, want)
		}
	}

	// It may even be gone before it is done.
	for _, line := range []string{"five", "six", "seven", "eight"} {
		p.log(line)
	}
	p.expect(t, "", ".1", ".2", ".3", ".tmp")
	p.end(t, "four, smaller", true)
	p.expect(t, "", ".1", ".2", ".3", ".tmp")
	p.end(t, "seven, smaller", true)
	p.expect(t, "", ".1.gz", ".2", ".3", ".tmp")
}

// TestCompressFails: nothing is lost, and the next rotation tries again.
func TestCompressFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p := newPacking(t, path)
	p.log("one")
	p.log("two")
	p.end(t, "half of", false)
	p.expect(t, "", ".1")
	p.log("three")
	p.expect(t, "", ".1", ".2", ".tmp")
	p.Close() // while it runs
	p.expect(t, "", ".1", ".2")

	if err := os.WriteFile(p.draft(), []byte("of a writer that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = newPacking(t, path)
	p.expect(t, "", ".1", ".2")
	p.log("four")
	p.end(t, "three, smaller", true)
	p.end(t, "two, smaller", true)
	p.end(t, "one, smaller", true)
	p.expect(t, "", ".1.gz", ".2.gz", ".3.gz")
}

// TestCompressHeld: a file that somebody reads stays.
func TestCompressHeld(t *testing.T) {
	p := newPacking(t, filepath.Join(t.TempDir(), "log"))
	p.log("one")
	hold := func() *os.File {
		t.Helper()
		f, err := os.Open(p.o.Path)
		if err == nil {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := hold()
	p.log("two")
	p.expect(t, "", ".1")
	p.log("three") // two is begun, and then held, too
	second, err := os.Open(Rotated(p.o.Path, 1))
	if err != nil || syscall.Flock(int(second.Fd()), syscall.LOCK_SH) != nil {
		t.Fatal(err)
	}
	p.end(t, "two, smaller", true)
	p.expect(t, "", ".1", ".2")
	if p.runs != 1 {
		t.Errorf("%d runs, want 1: what is held is not begun", p.runs)
	}
	_, _ = first.Close(), second.Close()
	p.log("four")
	p.end(t, "three, smaller", true)
	p.end(t, "two, smaller", true)
	p.end(t, "one, smaller", true)
	p.expect(t, "", ".1.gz", ".2.gz", ".3.gz")
}
