package docker

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/test/golden"
)

func facts() ContainerFacts {
	created := time.Date(2026, 11, 21, 7, 2, 18, 123456789, time.UTC)
	id := "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	limit := int64(100)
	c := &container.Container{
		ID: id, Dir: "/root/containers/" + id, Alive: true,
		State:    &container.State{Status: container.Running, PID: 42, StartedAt: created.Add(time.Second), RestartCount: 2},
		Settings: &container.Settings{Name: "web", Restart: plan.RestartPolicy{Name: "on-failure", Max: 3}},
		Record: &container.Record{
			ID: id, Created: created, ImageRef: "app:1", ImageID: "fe" + id[2:],
			Image: oci.Config{
				Env: []string{"PATH=/bin", "IMG=1"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, WorkingDir: "/srv",
				Labels: map[string]string{"from": "image", "both": "image"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT",
			},
			Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
			Request: plan.Request{
				Env: []string{"A=b"}, Labels: map[string]string{"both": "own"}, TTY: true, OpenStdin: true, Network: "none",
				CapAdd: []string{"net_admin", "ALL"}, Init: true, Resources: plan.Resources{Memory: 64 << 20, NanoCPUs: 1500000000, PidsLimit: &limit},
				Mounts: []plan.Mount{
					{Type: "bind", Source: "/host", Target: "/in", ReadOnly: true, Flag: "v", Raw: "/host:/in:ro"},
					{Type: "tmpfs", Target: "/run", Flag: "tmpfs", Options: []string{"size=1m"}},
					{Type: "bind", Source: "/other", Target: "/also", Flag: "mount"},
				},
				Devices: []plan.Device{{Host: "/dev/fuse", Container: "/dev/fuse", Perms: "rwm"}},
			},
			Path: "/entry", Args: []string{"serve"}, Lower: []string{"/store/b", "/store/a"}, LogPath: "/log",
			Volumes: []container.Volume{{Name: "ab" + id[2:], Target: "/data"}},
		},
	}
	return ContainerFacts{
		Container: c, Hostname: "0123456789ab", Env: []string{"PATH=/bin", "HOSTNAME=0123456789ab", "TERM=xterm", "IMG=1", "A=b", "HOME=/root"},
		Masked: []string{"/proc/kcore"}, Driver: "overlay", VolumeDir: func(n string) string { return "/root/volumes/" + n }, CgroupPrivate: true,
	}
}

func TestContainerJSON(t *testing.T) {
	golden.JSON(t, "testdata/container.json", NewContainer(facts()))
}

func TestExposedPorts(t *testing.T) {
	for network, want := range map[string]int{"": 1, "bridge": 1, "none": 0, "host": 0, "container:" + strings.Repeat("0", 64): 0} {
		f := facts()
		f.Container.Record.Request.Network = network
		if got := NewContainer(f).NetworkSettings.Ports; len(got) != want {
			t.Errorf("network %q: %v", network, got)
		}
	}
}

func TestContainerStates(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := facts()
	f.Container.Alive, f.Container.State = false, nil
	f.Container.Exit = &container.Exit{Code: 137, OOMKilled: true, StartedAt: began, FinishedAt: began.Add(time.Hour)}
	s := NewContainer(f).State
	if s.Status != "exited" || s.Running || s.Pid != 0 || s.ExitCode != 137 || !s.OOMKilled || s.FinishedAt != "2026-01-02T04:04:05Z" {
		t.Errorf("exited: %+v", s)
	}
	f.Container.Exit = &container.Exit{Code: 127, Error: "not found"}
	s = NewContainer(f).State
	if s.Status != "created" || s.ExitCode != 127 || s.Error != "not found" || s.StartedAt != "0001-01-01T00:00:00Z" {
		t.Errorf("never began: %+v", s)
	}
	f.Container.Exit = nil
	s = NewContainer(f).State
	if s.Status != "created" || s.FinishedAt != "0001-01-01T00:00:00Z" {
		t.Errorf("created: %+v", s)
	}
	b, err := json.Marshal(NewContainer(f).NetworkSettings.Ports)
	if err != nil || string(b) != "{}" {
		t.Errorf("ports of a stopped container: %s, %v", b, err)
	}
}
