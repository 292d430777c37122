package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unicode"

	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/logs/jsonfile"
)

// base is the second in which entry 0 of every log here was written; entry n was
// written n seconds later.
var base = time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant

func write(t *testing.T, o jsonfile.Options, from, n int) string {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "c-json.log")
	}
	w, err := jsonfile.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range n {
		line(w, from+i)
	}
	return o.Path
}

// line writes entry i.
func line(w *jsonfile.Writer, i int) {
	s := w.Stream([]string{"stdout", "stderr"}[i%2])
	s.Write(fmt.Appendf(nil, "line %03d\n", i), base.Add(time.Duration(i)*time.Second))
}

func all(o Options) Options {
	o.Tail = -1
	return o
}

// read returns the numbers of the entries that o selects.
func read(t *testing.T, o Options) []int {
	t.Helper()
	var got []int
	err := Read(t.Context(), o, func(e Entry) error {
		var n int
		if _, err := fmt.Sscanf(string(e.Text), "line %d\n", &n); err != nil {
			return fmt.Errorf("%q: %w", e.Text, err)
		}
		if want := base.Add(time.Duration(n) * time.Second); !e.Time.Equal(want) || e.Stream != []string{"stdout", "stderr"}[n%2] {
			t.Errorf("entry %d: %v %s", n, e.Time, e.Stream)
		}
		got = append(got, n)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func seq(from, to int) []int {
	var s []int
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

func TestRead(t *testing.T) {
	one := write(t, jsonfile.Options{}, 0, 20)
	// Entries of 79 bytes: each of the four files has 6.
	rotated := write(t, jsonfile.Options{MaxSize: 450, MaxFile: 4}, 0, 30)
	missing := filepath.Join(t.TempDir(), "none")
	big := write(t, jsonfile.Options{}, 0, 3000) // several blocks
	at := func(n int) time.Time { return base.Add(time.Duration(n) * time.Second) }
	// A file's time is that of the kernel's last tick before its last entry.
	ticked := write(t, jsonfile.Options{MaxSize: 450, MaxFile: 4}, 0, 30)
	tick := at(23).Add(-10 * time.Millisecond)
	if err := os.Chtimes(jsonfile.Rotated(ticked, 1), tick, tick); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		o    Options
		want []int
	}{
		{"rotated, since the last entry of a file", all(Options{Path: ticked, Since: at(23)}), seq(23, 30)},
		{"all", all(Options{Path: one}), seq(0, 20)},
		{"none", all(Options{Path: missing}), nil},
		{"tail", Options{Path: one, Tail: 3}, seq(17, 20)},
		{"tail 0", Options{Path: one, Tail: 0}, nil},
		{"tail of all", Options{Path: one, Tail: 20}, seq(0, 20)},
		{"tail of more than all", Options{Path: one, Tail: 21}, seq(0, 20)},
		{"tail over blocks", Options{Path: big, Tail: 2500}, seq(500, 3000)},
		{"since", all(Options{Path: one, Since: at(5)}), seq(5, 20)},
		{"until", all(Options{Path: one, Until: at(5)}), seq(0, 6)},
		{"between", all(Options{Path: one, Since: at(5), Until: at(7)}), seq(5, 8)},
		{"tail, then since", Options{Path: one, Tail: 3, Since: at(18)}, seq(18, 20)},
		{"rotated", all(Options{Path: rotated}), seq(6, 30)},
		{"rotated, tail in the newest", Options{Path: rotated, Tail: 2}, seq(28, 30)},
		{"rotated, tail over two files", Options{Path: rotated, Tail: 8}, seq(22, 30)},
		{"rotated, tail of a whole file", Options{Path: rotated, Tail: 12}, seq(18, 30)},
		{"rotated, tail of more than all", Options{Path: rotated, Tail: 100}, seq(6, 30)},
		{"rotated, until", all(Options{Path: rotated, Until: at(10)}), seq(6, 11)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := read(t, tt.o); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A rotation has come as far as to leave a number free; nothing is missed.
func TestReadWhileRotating(t *testing.T) {
	for free := range 4 {
		path := write(t, jsonfile.Options{MaxSize: 450, MaxFile: 4}, 0, 30)
		for i := 3; i >= free; i-- {
			if err := os.Rename(jsonfile.Rotated(path, i), jsonfile.Rotated(path, i+1)); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, all(Options{Path: path})); !slices.Equal(got, seq(6, 30)) {
			t.Errorf("number %d is free: got %v", free, got)
		}
	}
}

func TestDamage(t *testing.T) {
	path := write(t, jsonfile.Options{}, 0, 2)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"log\":\"torn\n\n\x00\x00\n"); err != nil {
		t.Fatal(err)
	}
	write(t, jsonfile.Options{Path: path}, 2, 1)
	if _, err := f.WriteString(`{"log":"unfinished`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if got := read(t, all(Options{Path: path})); !slices.Equal(got, seq(0, 3)) {
		t.Errorf("got %v, want what is whole", got)
	}
}

// TestFollow: a container lives, logs, rotates its log, and ends.
func TestFollow(t *testing.T) {
	for name, o := range map[string]jsonfile.Options{
		"one file": {},
		"rotated":  {MaxSize: 450, MaxFile: 5},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o.Path = filepath.Join(dir, "c-json.log")
			write(t, o, 0, 3)
			l, err := lock.Try(filepath.Join(dir, "alive"), true)
			if err != nil {
				t.Fatal(err)
			}
			seen := make(chan int, 1000)
			done := make(chan error, 1)
			go func() {
				done <- Read(t.Context(), Options{Path: o.Path, Alive: filepath.Join(dir, "alive"), Follow: true, Tail: 1}, func(e Entry) error {
					var n int
					_, err := fmt.Sscanf(string(e.Text), "line %d\n", &n)
					seen <- n
					return err
				})
			}()
			next := 2
			expect := func(to int) {
				t.Helper()
				for ; next < to; next++ {
					if got := <-seen; got != next {
						t.Fatalf("got entry %d, want %d", got, next)
					}
				}
			}
			expect(3)
			for i := 3; i < 40; i += 4 {
				write(t, o, i, 4)
				expect(i + 4)
			}
			write(t, o, 43, 1)
			if err := l.Release(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			expect(44)
		})
	}
}

func TestFollowEnds(t *testing.T) {
	path := write(t, jsonfile.Options{}, 0, 3)
	alive := filepath.Join(filepath.Dir(path), "alive")
	if got := read(t, all(Options{Path: path, Alive: alive, Follow: true})); !slices.Equal(got, seq(0, 3)) {
		t.Errorf("a container that does not run: got %v", got)
	}
	l, err := lock.Try(alive, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if got := read(t, all(Options{Path: path, Alive: alive, Follow: true, Until: base.Add(time.Second)})); !slices.Equal(got, seq(0, 2)) {
		t.Errorf("until: got %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Read(ctx, all(Options{Path: path, Alive: alive, Follow: true}), func(e Entry) error {
		if string(e.Text) == "line 002\n" {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPrinter(t *testing.T) {
	entries := []Entry{
		{base, "stdout", []byte("whole\n"), `{"b":"2","a":"1 x"}`},
		{base.Add(time.Nanosecond), "stdout", []byte("part"), ""},
		{base, "stderr", []byte("other\n"), ""},
		{base, "stdout", []byte(" and rest\n"), ""},
	}
	for want, p := range map[string]*Printer{
		"whole\npartother\n and rest\n": {},
		"2026-11-21T07:00:00.000000000Z whole\n2026-11-21T07:00:00.000000001Z part2026-11-21T07:00:00.000000000Z other\n and rest\n": {Timestamps: true},
		"a=1+x,b=2 whole\n part other\n and rest\n": {Details: true},
	} {
		var got []byte
		for _, e := range entries {
			got = p.Append(got, e)
		}
		if string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// FuzzParse: what the quick way takes, encoding/json reads alike.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"log":"a\u0009\"\ufffd\b\f\r\n\t\/\\","stream":"stdout","time":"2026-11-21T07:05:25.979875100Z"}`))
	f.Add([]byte(`{"log":"\ud83d\ude00\\\"","stream":"stderr","time":"2026-11-21T07:05:25Z"}`))
	f.Add([]byte("{\"log\":\"\xff\xe2\x82\",\"stream\":\"stderr\",\"time\":\"2026-11-21T07:05:25.000000001+01:00\"}"))
	f.Add([]byte(`{"log":"a","stream":"stderr","attrs":{"a":"b"},"time":"2026-11-21T07:05:25Z"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var p parser
		_, _ = p.time([]byte("2026-11-21T07:05:25.979875101Z")) // as if an entry of that second had gone before
		quickly, ok := p.quick(line, nil)
		if !ok || bytes.ContainsFunc(line, unicode.IsControl) {
			return
		}
		slowly, ok := p.parse(append([]byte(" "), line...), nil) // the blank keeps it from being quick
		if !ok || !bytes.Equal(quickly.Text, slowly.Text) || quickly.Stream != slowly.Stream || !quickly.Time.Equal(slowly.Time) {
			t.Errorf("%q: %+v; %v %+v", line, quickly, ok, slowly)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	w, err := jsonfile.Open(jsonfile.Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	s := w.Stream("stdout")
	for range 10000 {
		s.Write([]byte("a line of output with \"quotes\" and\ttabs\n"), base)
	}
	w.Close()
	for b.Loop() {
		if err := Read(b.Context(), Options{Path: path, Tail: -1}, func(Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
