package plan

import (
	"slices"
	"testing"

	"cais.dev/cais/pkg/oci"
)

func TestForImage(t *testing.T) {
	img := oci.Config{
		Env: []string{"PATH=/image", "BASE=image"}, Cmd: []string{"/sbin/init"},
		Volumes: map[string]struct{}{"/data": {}, "/other": {}},
	}
	targets := func(r Request) (list []string) {
		for _, m := range r.Mounts {
			list = append(list, m.Type+m.Target)
		}
		slices.Sort(list)
		return list
	}
	for _, tt := range []struct {
		name   string
		req    Request
		env    []string
		mounts []string
		signal string
	}{
		{name: "nothing", env: []string{}},
		{name: "the host's", req: Request{HostEnv: []string{"A=1", "BASE=host"}, Env: []string{"A=2"}}, env: []string{"A=1", "A=2"}},
		{name: "merged", req: Request{EnvMerge: []string{"BASE=${BASE}-x$NONE"}}, env: []string{"BASE=image-x"}},
		{
			name: "volumes", req: Request{ImageVolume: "tmpfs", Mounts: []Mount{{Type: "bind", Target: "/other/"}}},
			env: []string{}, mounts: []string{"bind/other/", "tmpfs/data"},
		},
		{
			name: "systemd", req: Request{Systemd: "true"}, env: []string{"container=oci"}, signal: "RTMIN+3",
			mounts: []string{"tmpfs/run", "tmpfs/run/lock", "tmpfs/tmp", "tmpfs/var/log/journal"},
		},
		{name: "not systemd", req: Request{Systemd: "true", Args: []string{"sh"}}, env: []string{}},
		{
			name: "always", req: Request{Systemd: "always", Args: []string{"sh"}, StopSignal: "INT", Mounts: []Mount{{Type: "bind", Target: "/run"}}},
			env: []string{"container=oci"}, signal: "INT", mounts: []string{"bind/run", "tmpfs/run/lock", "tmpfs/tmp", "tmpfs/var/log/journal"},
		},
	} {
		got, err := ForImage(tt.req, img)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if !slices.Equal(got.Env, tt.env) || !slices.Equal(targets(got), tt.mounts) || got.StopSignal != tt.signal {
			t.Errorf("%s: env %q, mounts %q, signal %q", tt.name, got.Env, targets(got), got.StopSignal)
		}
		if got.Security.WritableCgroups != (len(got.Env) > 0 && got.Env[0] == "container=oci") {
			t.Errorf("%s: writable cgroups %v", tt.name, got.Security.WritableCgroups)
		}
	}
	if _, err := ForImage(Request{}, oci.Config{}); err == nil {
		t.Error("an image without a command needs none")
	}
}
