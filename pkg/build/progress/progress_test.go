package progress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// clock returns a log whose time goes on by what tests say, without ticks.
func clock(v View) (*Log, func(time.Duration)) {
	now := time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)
	l := &Log{view: v, now: func() time.Time { return now }, stop: make(chan struct{})}
	return l, func(d time.Duration) { now = now.Add(d) }
}

func TestPlain(t *testing.T) {
	var b strings.Builder
	l, wait := clock(Plain(&b))
	s := l.Step("[internal] load build definition from Dockerfile")
	s.ItemDone("transferring dockerfile:", 98)
	s.Done(nil)
	s = l.Step("[1/3] FROM docker.io/library/alpine:latest")
	s.Cached()
	s = l.Step("[2/3] RUN make")
	other := l.Step("[other 1/1] RUN sleep")
	wait(213 * time.Millisecond)
	fmt.Fprint(s.Stdout(), "cc -o ma")
	fmt.Fprint(other.Stderr(), "quick\n")
	fmt.Fprint(s.Stdout(), "in\n\x1b[31mred\x1b[0m\n10%\r100%\nrest")
	wait(200 * time.Millisecond)
	other.Done(nil)
	wait(time.Second)
	s.Done(nil)
	s = l.Step("[3/3] RUN false")
	fmt.Fprint(s.Stderr(), "no\n")
	s.Warn("careful")
	s.Done(errors.New("exit code: 1\nmore"))
	l.Step("left").Done(context.Canceled)
	l.Close()
	want := `#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 98B done
#1 DONE 0.0s

#2 [1/3] FROM docker.io/library/alpine:latest
#2 CACHED

#3 [2/3] RUN make
#3 0.213 cc -o main
#3 0.213 red
#3 0.213 100%
#3 1.413 rest
#3 DONE 1.4s

#4 [other 1/1] RUN sleep
#4 0.213 quick
#4 DONE 0.4s

#5 [3/3] RUN false
#5 0.000 no
#5 WARN: careful
#5 ERROR: exit code: 1

#6 left
#6 CANCELED
------
 > [3/3] RUN false:
0.000 no
------
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestPlainTurns(t *testing.T) {
	var b strings.Builder
	l, wait := clock(Plain(&b))
	x, y := l.Step("x"), l.Step("y")
	fmt.Fprintln(x.Stdout(), "x1")
	fmt.Fprintln(y.Stdout(), "y1")
	wait(5 * time.Second) // y has waited too long
	fmt.Fprintln(x.Stdout(), "x2")
	x.Done(nil)
	y.Done(nil)
	l.Close()
	want := "#1 x\n#1 0.000 x1\n#1 5.000 x2\n#1 ...\n\n#2 y\n#2 0.000 y1\n#2 DONE 5.0s\n\n#1 x\n#1 DONE 5.0s\n"
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestHide(t *testing.T) {
	var b strings.Builder
	l, _ := clock(Plain(&b))
	l.Hide("hunter22", "ab")
	s := l.Step("s")
	fmt.Fprint(s.Stdout(), "the password is hun")
	fmt.Fprint(s.Stdout(), "ter22, ab\n")
	s.Done(nil)
	if got := b.String(); strings.Contains(got, "hunter22") || !strings.Contains(got, "is ****, ab") {
		t.Error(got)
	}
}

func TestRawJSON(t *testing.T) {
	var b strings.Builder
	l, _ := clock(RawJSON(&b))
	s := l.Step("[1/2] RUN x")
	fmt.Fprintln(s.Stdout(), "hello")
	s.Item("sha256:1", 5, 10)
	s.Done(errors.New("bad"))
	var got []map[string]any
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	if len(got) != 4 || got[1]["logs"].([]any)[0].(map[string]any)["data"] != "aGVsbG8K" ||
		got[3]["vertexes"].([]any)[0].(map[string]any)["error"] != "bad" {
		t.Error(b.String())
	}
}

func TestTerminal(t *testing.T) {
	var b strings.Builder
	v := Terminal(&b, TerminalOptions{Size: func() (int, int) { return 61, 24 }, LogLines: 2, Title: "cais"}).(*terminal)
	l, wait := clock(v)
	v.now = l.now
	for i := range 3 {
		l.Step(fmt.Sprintf("[%d/5] COPY", i+1)).Cached()
	}
	s := l.Step("[4/5] RUN a very long line that does not fit into the terminal at all")
	wait(1500 * time.Millisecond)
	fmt.Fprint(s.Stdout(), "one\ntwo\nthree\n")
	s.Item("sha256:abc", 1_500_000, 3_000_000)
	got := strings.Join(v.picture(l.now(), 60, false), "\n")
	want := `[+] Building 1.5s (3/4)                                 cais
 => CACHED 3 steps: [1/5] COPY … [3/5] COPY             0.0s
 => [4/5] RUN a very long line that does not fit into … 1.5s
 => => sha256:abc 1.50MB / 3.00MB                       0.0s
 => => # two
 => => # three`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	s.Done(errors.New("exit code: 2"))
	e := l.Step("exporting to image")
	e.ItemDone("writing image sha256:def", 0)
	e.Done(nil)
	if got := strings.Join(v.picture(l.now(), 60, false), "\n"); strings.Contains(got, "sha256") {
		t.Errorf("what is done takes room while others run:\n%s", got)
	}
	l.Close()
	for _, w := range []string{"FAILED", "exporting to image", " => => writing image sha256:def done", "=> ERROR [4/5]", " > [4/5] RUN a very long line that does not fit into the terminal at all:\none\ntwo\nthree\n------\n"} {
		if !strings.Contains(b.String(), w) {
			t.Errorf("no %q in %q", w, b.String())
		}
	}
}

// A nil log and its steps can be used.
func TestNil(t *testing.T) {
	var l *Log
	s := l.Step("x")
	fmt.Fprintln(s.Stdout(), "x")
	s.Item("a", 1, 2)
	s.Done(nil)
	l.Hide("xxxx")
	l.Close()
}

func FuzzPlainText(f *testing.F) {
	f.Add("\x1b[31mx\x1b]0;title\x07y\x1bP\xff")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range plainText(s) {
			if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Errorf("%q lets %q through", s, r)
			}
		}
	})
}

func TestNamesHaveNoPasswords(t *testing.T) {
	for in, want := range map[string]string{
		"[2/2] ADD https://me:secret@host/x.git https://you@host /x": "[2/2] ADD https://me:xxxxx@host/x.git https://you@host /x",
		"ADD http://me:p@ss@host:80":                                 "ADD http://me:xxxxx@host:80",
		"ADD ssh://git@host/a:b@c x":                                 "ADD ssh://git@host/a:b@c x",
		"RUN echo a://b:c://":                                        "RUN echo a://b:c://",
	} {
		if got := withoutPasswords(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
