package pty

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestSession(t *testing.T) {
	s, err := Start(exec.Command("sh", "-c", "stty size; read x; echo got=$x; exit 3"), 30, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return s.Expect("30 100", 10*time.Second) },
		func() error { return s.Send("word\n") },
		func() error { return s.Expect("got=word", 10*time.Second) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	code, out, err := s.Wait(10 * time.Second)
	if code != 3 || err != nil || !strings.Contains(out, "got=word\r\n") {
		t.Errorf("Wait: %d, %q, %v", code, out, err)
	}
}
