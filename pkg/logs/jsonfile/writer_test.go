package jsonfile

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type entry struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs"`
	Time   time.Time         `json:"time"`
}

func open(t *testing.T, o Options) *Writer {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "c-json.log")
	}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func entries(t *testing.T, path string) []entry {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []entry
	for line := range strings.Lines(string(b)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

func TestLineIsDockers(t *testing.T) {
	w := open(t, Options{Attrs: `{"k":"v"}`})
	now := time.Date(2026, 11, 21, 7, 5, 25, 979875100, time.UTC)
	w.Stream("stdout").Write([]byte("a\t\"q\" <&> \\ é\u2028\x01\xff\r\n"), now)
	b, err := os.ReadFile(w.o.Path)
	want := `{"log":"a\u0009\"q\" \u003c\u0026\u003e \\ é\u2028\u0001\ufffd\r\n","stream":"stdout","attrs":{"k":"v"},"time":"2026-11-21T07:05:25.979875100Z"}` + "\n"
	if err != nil || string(b) != want {
		t.Errorf("got  %s%v\nwant %s", b, err, want)
	}
}

// TestClock: a host's clock may be at 1970, and may be set either way.
func TestClock(t *testing.T) {
	var c clock
	for _, now := range []time.Time{
		time.Unix(0, 0), time.Unix(0, 5), time.Unix(1e9, 1), time.Unix(0, 7), time.Unix(1e9-1, 999_999_999), time.Unix(-1, 1), time.Unix(1e10, 0),
	} {
		if got, want := string(c.append(nil, now)), now.UTC().Format("2006-01-02T15:04:05.000000000Z"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestLookAfterClock: what others did to the file is seen, whichever way the clock goes.
func TestLookAfterClock(t *testing.T) {
	w := open(t, Options{})
	s := w.Stream("stdout")
	for _, second := range []int64{1e9, 0, 1, 1e9} {
		if err := os.Remove(w.o.Path); err != nil {
			t.Fatal(err)
		}
		s.Write([]byte("line\n"), time.Unix(second, 0))
		if got := entries(t, w.o.Path); len(got) != 1 || got[0].Time.Unix() != second {
			t.Errorf("at %d: %v", second, got)
		}
	}
}

func TestStreamSplits(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name   string
		writes []string
		want   []string
	}{
		{"two lines in one write", []string{"a\nb\n"}, []string{"a\n", "b\n"}},
		{"one line in two writes", []string{"a", "b\n"}, []string{"ab\n"}},
		{"empty lines", []string{"\n\n"}, []string{"\n", "\n"}},
		{"no newline at the end", []string{"a\nb"}, []string{"a\n", "b"}},
		{"exactly the limit", []string{long + "\n"}, []string{long + "\n"}},
		{"over the limit", []string{long + "yz\n"}, []string{long, "yz\n"}},
		{"over the limit, piecewise", []string{long[:9000], long[9000:], "yz", "\nb\n"}, []string{long, "yz\n", "b\n"}},
		{"a sequence at the limit is not torn", []string{long[1:] + "é\n"}, []string{long[1:], "é\n"}},
		{"nor when it comes in two writes", []string{long[1:] + "\xc3", "\xa9\n"}, []string{long[1:], "é\n"}},
		{"a sequence that ends at the limit", []string{long[2:] + "é!\n"}, []string{long[2:] + "é", "!\n"}},
		{"three times the limit", []string{long + long + long + "\n"}, []string{long, long, long + "\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := open(t, Options{})
			s := w.Stream("stderr")
			for _, p := range tt.writes {
				s.Write([]byte(p), time.Now())
			}
			s.End(time.Now())
			var got []string
			for _, e := range entries(t, w.o.Path) {
				got = append(got, e.Log)
			}
			if strings.Join(got, "|") != strings.Join(tt.want, "|") {
				t.Errorf("got %d entries %.60q, want %d", len(got), got, len(tt.want))
			}
		})
	}
}

func TestRotation(t *testing.T) {
	for _, tt := range []struct {
		name         string
		files, lines int
		want         []int // entries in the file, .1, .2 …
	}{
		{"room for all", 3, 2, []int{2}},
		{"one rotation", 3, 4, []int{2, 2}},
		{"the oldest goes", 3, 9, []int{1, 2, 2}},
		{"one file is emptied", 1, 5, []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := open(t, Options{MaxSize: 150, MaxFile: tt.files}) // an entry has about 90 bytes
			s := w.Stream("stdout")
			for range tt.lines {
				s.Write([]byte("0123456789\n"), time.Now())
			}
			for i, want := range tt.want {
				if got := len(entries(t, Rotated(w.o.Path, i))); got != want {
					t.Errorf("file %d has %d entries, want %d", i, got, want)
				}
			}
			if _, err := os.Stat(Rotated(w.o.Path, len(tt.want))); err == nil {
				t.Errorf("file %d exists", len(tt.want))
			}
		})
	}
}

func TestOthersTouchTheFile(t *testing.T) {
	second := time.Unix(1000, 0)
	for name, touch := range map[string]func(path string) error{
		"removed":   os.Remove,
		"renamed":   func(p string) error { return os.Rename(p, p+".old") },
		"truncated": func(p string) error { return os.Truncate(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, Options{})
			s := w.Stream("stdout")
			s.Write([]byte("before\n"), second)
			if err := touch(w.o.Path); err != nil {
				t.Fatal(err)
			}
			s.Write([]byte("after\n"), second.Add(time.Second))
			if got := entries(t, w.o.Path); len(got) != 1 || got[0].Log != "after\n" {
				t.Errorf("got %v, want the line after it", got)
			}
		})
	}
}

// TestFullDisk: /dev/full refuses every byte; the writer goes on, and notes it.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, Options{Path: path})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	was := w.fd
	w.fd = int(full.Fd())
	s := w.Stream("stdout")
	w.checked = 1000 // not looked at within this second, so the device stays
	s.Write([]byte("lost\n"), time.Unix(1000, 0))
	if w.Lost != 1 {
		t.Errorf("%d writes lost, want 1", w.Lost)
	}
	w.fd = was
	s.Write([]byte("kept\n"), time.Unix(1000, 1))
	if got := entries(t, path); len(got) != 1 || got[0].Log != "kept\n" {
		t.Errorf("got %v, want the line that found room", got)
	}
}

// FuzzString: whatever a container writes, the entry is JSON and holds it.
func FuzzString(f *testing.F) {
	f.Add([]byte("a\xff\xc3\xa9\xe2\x80\xa8\xed\xa0\x80\xf4\x90\x80\x80\x00<"))
	f.Fuzz(func(t *testing.T, p []byte) {
		b := append(AppendString([]byte{'"'}, p), '"')
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := string(bytes.ToValidUTF8(p, nil)); utf8.Valid(p) && got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if want := strings.Map(func(r rune) rune { return r }, string(p)); got != want { // Map writes each bad byte as U+FFFD
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
