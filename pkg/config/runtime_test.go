package config

import (
	"slices"
	"testing"
	"testing/fstest"

	"cais.dev/cais/pkg/errs"
)

func TestRuntime(t *testing.T) {
	program := &fstest.MapFile{Mode: 0o755}
	root := fstest.MapFS{
		"usr/bin/crun": program, "usr/sbin/runc": program, "opt/gvisor/runsc": program, "opt/x/mine": program, "etc/passwd": {Mode: 0o644},
		"etc/docker/daemon.json":                       {Data: []byte(`{"runtimes":{"gvisor":{"path":"/opt/gvisor/runsc","runtimeArgs":["--debug"]},"bad":{"path":"runsc"}}}`)},
		"home/u/.config/containers/containers.conf":    {Data: []byte("[engine.runtimes]\nmine = [\"/no/such\", \"/opt/x/mine\"]\n")},
		"home/broken/.config/docker/daemon.json":       {Data: []byte("{")},
		"home/broken/.config/containers/policy.json":   {Data: []byte("{")},
		"home/elsewhere/.config/containers/other.conf": {Data: []byte("[engine.runtimes]\nmine = [\"/usr/bin/crun\"]\n")},
	}
	for _, tt := range []struct {
		name, home string
		want       []string
		kind       errs.Kind // of the error, if want is nil and the name is not ours
	}{
		{"", "/home/u", nil, 0},
		{"cais", "/home/u", nil, 0},
		{"crun", "/home/u", []string{"/usr/bin/crun"}, 0},
		{"runc", "/home/u", []string{"/usr/sbin/runc"}, 0},
		{"io.containerd.runc.v2", "/home/u", []string{"/usr/sbin/runc"}, 0},
		{"/opt/x/mine", "/home/u", []string{"/opt/x/mine"}, 0},
		{"gvisor", "/home/u", []string{"/opt/gvisor/runsc", "--debug"}, 0},
		{"mine", "/home/u", []string{"/opt/x/mine"}, 0},
		{"mine", "/home/other", nil, errs.NotFound},
		{"kata", "/home/u", nil, errs.NotFound},
		{"/etc/passwd", "/home/u", nil, errs.NotFound},
		{"./crun", "/home/u", nil, errs.Invalid},
		{"bad", "/home/u", nil, errs.Invalid},
		{"crun", "/home/broken", nil, errs.Invalid},
	} {
		env := Env{Home: tt.home, Getenv: func(string) string { return "" }}
		got, err := Runtime(env, root, tt.name)
		if !slices.Equal(got, tt.want) || (err != nil) != (tt.kind != 0) || err != nil && errs.KindOf(err) != tt.kind {
			t.Errorf("%q of %s: %q, %v", tt.name, tt.home, got, err)
		}
	}
}
