package dns

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A VPN comes and goes: the file is another one, or has another content.
func TestUpstreamFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	u := upstream{path: path}
	now := time.Now()
	first := func() string {
		u.refresh(now)
		if len(u.servers) == 0 {
			return ""
		}
		return u.servers[0].String()
	}
	if got := first(); got != "" {
		t.Error(got)
	}
	write("nameserver 10.0.0.1\n")
	if got := first(); got != "" {
		t.Errorf("looked at twice within a second: %s", got)
	}
	now = now.Add(2 * time.Second)
	if got := first(); got != "10.0.0.1:53" {
		t.Error(got)
	}
	write("nameserver 10.8.0.1\nnameserver 10.0.0.1\n")
	now = now.Add(2 * time.Second)
	if got := first(); got != "10.8.0.1:53" {
		t.Error(got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	if got := first(); got != "10.8.0.1:53" {
		t.Errorf("while the file is away: %s", got)
	}
	u.good(1, now)
	if u.best(now) != 1 || u.best(now.Add(time.Minute)) != 0 {
		t.Error("who answered is asked first, for a while")
	}
}
