package plan

import (
	"os"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/oci"
)

// ForImage is req with what podman's flags make of the image's config: --env-host,
// --env-merge, --image-volume and --systemd.
func ForImage(req Request, img oci.Config) (Request, error) {
	var env envList
	for _, kv := range img.Env {
		env.set(kv)
	}
	var before []string // what the request's own variables beat
	for _, kv := range req.HostEnv {
		key, _, _ := strings.Cut(kv, "=")
		if env.has(key) {
			continue
		}
		before = append(before, kv)
		if !envList(req.Env).has(key) {
			req.HostNames = append(req.HostNames, key)
		}
	}
	for _, kv := range req.EnvMerge {
		key, value, _ := strings.Cut(kv, "=")
		before = append(before, key+"="+os.Expand(value, env.get))
	}
	req.Env = append(before, req.Env...)
	req.HostEnv, req.EnvMerge = nil, nil
	if req.ImageVolume == "tmpfs" {
		req.Mounts = slices.Clone(req.Mounts)
		for _, target := range imageVolumes(req, img) {
			req.Mounts = append(req.Mounts, memory(target))
		}
	}
	command, err := Command(req, img)
	if err != nil {
		return req, err
	}
	if req.Systemd == "always" || req.Systemd == "true" && startsSystemd(command[0]) {
		req.forSystemd()
	}
	return req, nil
}

// memory is the --tmpfs of a flag that implies one.
func memory(target string) Mount {
	return Mount{Type: "tmpfs", Target: target, Flag: "tmpfs", Raw: target}
}

// AddMemory adds a tmpfs at each target where nothing else is mounted.
func (r *Request) AddMemory(targets ...string) {
	for _, t := range targets {
		if !slices.ContainsFunc(r.Mounts, func(m Mount) bool { return path.Clean(m.Target) == t }) {
			r.Mounts = append(r.Mounts, memory(t))
		}
	}
}

// startsSystemd reports whether a program is what podman takes for systemd.
func startsSystemd(program string) bool {
	switch program {
	case "/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init", "init", "systemd":
		return true
	}
	return path.Base(program) == "systemd"
}

// forSystemd gives systemd what its "Container Interface" asks for: fresh
// directories, a cgroup of its own to write into, who runs it, and its signal.
func (r *Request) forSystemd() {
	r.Mounts = slices.Clone(r.Mounts)
	r.AddMemory("/run", "/run/lock", "/tmp", "/var/log/journal")
	r.Security.WritableCgroups = true
	r.Env = append([]string{"container=oci"}, r.Env...)
	if r.StopSignal == "" {
		r.StopSignal = "RTMIN+3"
	}
}
