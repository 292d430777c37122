package e2e

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/test/faultproxy"
)

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
