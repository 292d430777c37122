package forward

import (
	"io"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 21, 7, 5, 25, 979875100, time.UTC)

func TestSyslogLines(t *testing.T) {
	for format, want := range map[string]string{
		"":             `^<30>Nov 21 07:05:25 tag\[\d+\]: hello\n<27>Nov 21 07:05:25 tag\[\d+\]: bad\n$`,
		"rfc3164":      `^<30>Nov 21 07:05:25 host tag\[\d+\]: hello\n`,
		"rfc5424":      `^<30>1 2026-11-21T07:05:25Z host tag \d+ tag - hello\n`,
		"rfc5424micro": `^<30>1 2026-11-21T07:05:25.979875Z host tag \d+ tag - hello\n`,
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Open(Options{Net: "unix", Path: path, Format: format, Facility: 3, Tag: "tag", Hostname: "host"})
		if err != nil {
			t.Fatal(err)
		}
		c.Send([]byte("hello"), false, at, true)
		c.Send([]byte("bad"), true, at, true)
		c.Close()
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(peer)
		if err != nil || !regexp.MustCompile(want).Match(got) || c.Lost != 0 {
			t.Errorf("%q: %q %v, want %s", format, got, err, want)
		}
		_ = peer.Close()
		_ = l.Close()
	}
}

func TestJournalEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fields := string(AppendField(AppendField(nil, "A", "b"), "C", "d\ne"))
	c, err := Open(Options{Net: "journald", Path: path, Fields: fields})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Send(nil, false, at, true)
	c.Send([]byte("hello"), true, at, false)
	buf := make([]byte, 4096)
	n, err := l.Read(buf)
	want := "A=b\nC\n\x03\x00\x00\x00\x00\x00\x00\x00d\ne\nPRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=hello\n"
	if err != nil || string(buf[:n]) != want {
		t.Errorf("%q %v", buf[:n], err)
	}
}

// TestServerGone: lines are lost and counted, no call takes long, and a server that
// is there again gets what comes then.
func TestServerGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{Net: "unix", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	_ = l.Close()
	begin := time.Now()
	for range 100 {
		c.Send([]byte("lost"), false, at, true)
	}
	if c.Lost != 100 || time.Since(begin) > 5*time.Second {
		t.Errorf("%d lost in %v", c.Lost, time.Since(begin))
	}
	if l, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.Send([]byte("again"), false, at.Add(2*pause), true)
	if c.Lost != 100 {
		t.Errorf("%d lost", c.Lost)
	}
}

// TestStuckServer: a server that reads nothing holds a line up for a moment only.
func TestStuckServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Open(Options{Net: "unix", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin, line := time.Now(), make([]byte, 16<<10)
	for range 100 {
		c.Send(line, false, at, true)
	}
	if c.Lost == 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("%d lost in %v", c.Lost, time.Since(begin))
	}
}

// TestTLSLines: RFC 5425 counts messages, and Docker does so with RFC 5424's formats.
// What takes them is asked to have connected the first time only.
func TestTLSLines(t *testing.T) {
	for format, want := range map[string]string{
		"":        `^<30>Nov 21 07:05:25 tag\[\d+\]: hello\n$`,
		"rfc5424": `^(\d\d) (<30>1 2026-11-21T07:05:25Z host tag \d+ tag - hello\n)$`,
	} {
		var peer int
		var waited []bool
		c, err := Open(Options{Net: TLS, Format: format, Facility: 3, Tag: "tag", Hostname: "host", Dial: func(wait bool) (int, error) {
			pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			peer, waited = pair[1], append(waited, wait)
			return pair[0], err
		}})
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Close(peer) // the process has ended
		c.Send([]byte("hello"), false, at, true)
		c.Close()
		got := make([]byte, 200)
		n, err := syscall.Read(peer, got)
		m := regexp.MustCompile(want).FindSubmatch(got[:max(n, 0)])
		if err != nil || m == nil || len(m) > 1 && string(m[1]) != strconv.Itoa(len(m[2])) {
			t.Errorf("%q: %q %v, want %s", format, got[:max(n, 0)], err, want)
		}
		if !slices.Equal(waited, []bool{true, false}) {
			t.Errorf("asked to wait: %v", waited)
		}
		_ = syscall.Close(peer)
	}
}
