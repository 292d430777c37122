package e2e

import (
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/test/faultproxy"
)

// TestPushFaults pushes to a registry that misbehaves.
func TestPushFaults(t *testing.T) {
	b := setUp(t)
	for _, tt := range []struct {
		name  string
		fault faultproxy.Fault
		fails string
	}{
		{name: "cut", fault: faultproxy.Fault{Method: "PATCH", Times: 2, TakeCutAt: 1000}},
		{name: "cut by reset", fault: faultproxy.Fault{Method: "PATCH", Times: 1, TakeCutAt: 1000, Reset: true}},
		{name: "server error", fault: faultproxy.Fault{Method: "PUT", Times: 2, Status: 502}},
		{name: "too many requests", fault: faultproxy.Fault{Method: "POST", Times: 1, Status: 429, Header: map[string]string{"Retry-After": "1"}}},
		{name: "denied", fault: faultproxy.Fault{Method: "POST", Status: 403}, fails: "push access denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(faultproxy.Registry())
			srv := httptest.NewServer(proxy)
			defer srv.Close()
			proxy.Add(tt.fault)
			s := b.storeFor(t, true)
			ref := strings.TrimPrefix(srv.URL, "http://") + "/team/app:1"
			if out, err := s.cmd("tag", "busybox", ref).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			out, err := s.cmd("push", ref).CombinedOutput()
			switch {
			case tt.fails == "" && err != nil:
				t.Errorf("%v: %s", err, out)
			case tt.fails != "" && (err == nil || !strings.Contains(string(out), tt.fails)):
				t.Errorf("%v: %s\nwant an error with %q", err, out, tt.fails)
			}
		})
	}
}

// TestInterruptedPush ends a push as Ctrl-C does while the registry takes nothing
// more: at once, with the code that says so, and with nothing left.
func TestInterruptedPush(t *testing.T) {
	b := setUp(t)
	s := b.storeFor(t, true)
	proxy := faultproxy.New(faultproxy.Registry())
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	proxy.Add(faultproxy.Fault{Method: "PATCH", TakeStallAt: 1000})
	ref := strings.TrimPrefix(srv.URL, "http://") + "/team/app:1"
	if out, err := s.cmd("tag", "busybox", ref).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := s.cmd("push", ref)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	patched := func() bool {
		for _, r := range proxy.Requests("/blobs/uploads") {
			if r.Method == "PATCH" {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(patience); !patched() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) // the terminal's keys go to the group
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 {
		t.Error(err)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
	proxy.Reset()
	if out, err := s.cmd("push", ref).CombinedOutput(); err != nil {
		t.Errorf("the next push: %v: %s", err, out)
	}
}

// TestFaults pulls through a registry that misbehaves: what can be mended is
// mended without a word, what cannot is told, and nothing stays of it.
func TestFaults(t *testing.T) {
	b := setUp(t)
	tests := []struct {
		name  string
		fault faultproxy.Fault
		fails string // part of the error; empty: the pull succeeds
	}{
		{name: "cut", fault: faultproxy.Fault{Path: "/blobs/", Times: 2, CutAt: 20000}},
		{name: "cut by reset", fault: faultproxy.Fault{Path: "/blobs/", Times: 2, CutAt: 20000, Reset: true}},
		{name: "server error", fault: faultproxy.Fault{Path: "/blobs/", Times: 2, Status: 500}},
		{name: "too many requests", fault: faultproxy.Fault{Path: "/manifests/", Times: 1, Status: 429, Header: map[string]string{"Retry-After": "1"}}},
		{name: "flipped byte", fault: faultproxy.Fault{Path: "/blobs/", FlipAt: 1000}, fails: "digest"},
		{name: "not found", fault: faultproxy.Fault{Path: "/blobs/", Status: 404}, fails: "does not have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reg := faultproxy.Registry()
			faultproxy.Push(reg, "img", "1", faultproxy.NewImage("linux/amd64", []string{"true"},
				faultproxy.RandomLayer("one", 300000, 1), faultproxy.RandomLayer("two", 300000, 2)))
			proxy := faultproxy.New(reg)
			srv := httptest.NewServer(proxy)
			defer srv.Close()
			proxy.Add(tt.fault)
			s := b.storeFor(t, false)
			ref := strings.TrimPrefix(srv.URL, "http://") + "/img:1"
			start := time.Now()
			out, err := s.cmd("pull", "--platform", "linux/amd64", ref).CombinedOutput()
			if time.Since(start) > time.Minute {
				t.Errorf("it took %v", time.Since(start))
			}
			images, _ := s.cmd("images", "-q").Output()
			switch {
			case tt.fails == "" && (err != nil || len(images) == 0):
				t.Errorf("%v: %s", err, out)
			case tt.fails != "" && (err == nil || !strings.Contains(strings.ToLower(string(out)), tt.fails)):
				t.Errorf("%v: %s\nwant an error with %q", err, out, tt.fails)
			case tt.fails != "" && len(images) > 0:
				t.Errorf("an image is there: %s", images)
			}
		})
	}
}
