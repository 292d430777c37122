package ui

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestProgressPlain(t *testing.T) {
	var out, errs bytes.Buffer
	p := NewProgress(Streams{Out: &out, Err: &errs})
	p.Message("latest: Pulling from library/busybox")
	p.Status("aaa", "Pulling fs layer")
	p.Status("aaa", "Pulling fs layer")
	p.Bytes("aaa", "Downloading", 1, 2)
	p.Status("aaa", "Pull complete")
	p.Close()
	want := "latest: Pulling from library/busybox\naaa: Pulling fs layer\naaa: Pull complete\n"
	if errs.String() != want || out.Len() != 0 {
		t.Errorf("stderr %q, stdout %q; want %q", errs.String(), out.String(), want)
	}
}

func TestProgressTerminal(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1000, 0)
	p := &Progress{w: &b, term: os.Stderr, width: 79, now: func() time.Time { return now }, by: map[string]*progressLine{}}
	p.Status("aaa", "Waiting") // drawn
	p.Status("bbb", "Waiting") // too soon
	now = now.Add(time.Second)
	p.Bytes("aaa", "Downloading", 50, 100)
	p.Bytes("aaa", "Downloading", 60, 100) // too soon
	if got := strings.Count(b.String(), "aaa"); got != 2 {
		t.Errorf("drawn %d times, want 2: %q", got, b.String())
	}
	if !strings.Contains(b.String(), "\x1b[1A\r\x1b[2Kaaa: Downloading [") || !strings.Contains(b.String(), "50B/100B\n\r\x1b[2Kbbb: Waiting\n") {
		t.Errorf("got %q", b.String())
	}
	b.Reset()
	p.Status("aaa", "Pull complete")
	p.Close()
	if want := "\x1b[2A\r\x1b[2Kaaa: Pull complete\n\r\x1b[2Kbbb: Waiting\n"; b.String() != want {
		t.Errorf("end: got %q, want %q", b.String(), want)
	}
	b.Reset()
	if p.Close(); b.Len() != 0 {
		t.Errorf("closed twice: %q", b.String())
	}
}

func TestProgressText(t *testing.T) {
	l := progressLine{id: "aaa", status: "Downloading", done: 5_000_000, total: 10_000_000}
	for width, want := range map[int]string{
		200: "aaa: Downloading [" + strings.Repeat("=", 25) + ">" + strings.Repeat(" ", 24) + "]      5MB/10MB",
		49:  "aaa: Downloading [========>       ]      5MB/10MB",
		30:  "aaa: Downloading      5MB/10MB",
	} {
		got := l.text(width)
		if len(got) > width && width > 30 {
			t.Errorf("width %d: %d bytes", width, len(got))
		}
		if width != 49 && got != want {
			t.Errorf("width %d: got %q, want %q", width, got, want)
		}
	}
	l.done = 10_000_000
	if got := l.text(200); !strings.Contains(got, strings.Repeat("=", 50)+"]") {
		t.Errorf("full: %q", got)
	}
	l.total = 0
	if got := l.text(80); got != "aaa: Downloading 10MB" {
		t.Errorf("no total: %q", got)
	}
}
