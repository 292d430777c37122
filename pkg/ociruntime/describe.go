package ociruntime

import (
	"encoding/json"
	"errors"

	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
)

// SpecVersion is the specification that is followed.
func SpecVersion() string { return specs.Version }

// features is what the spec's features.md describes.
type features struct {
	Min          string            `json:"ociVersionMin"`
	Max          string            `json:"ociVersionMax"`
	Hooks        []string          `json:"hooks"`
	MountOptions []string          `json:"mountOptions"`
	Linux        linuxFeatures     `json:"linux"`
	Annotations  map[string]string `json:"annotations"`
}

type linuxFeatures struct {
	Namespaces   []string        `json:"namespaces"`
	Capabilities []string        `json:"capabilities"`
	Cgroup       map[string]bool `json:"cgroup"`
	Seccomp      seccompFeatures `json:"seccomp"`
	Apparmor     map[string]bool `json:"apparmor"`
	Selinux      map[string]bool `json:"selinux"`
	IntelRdt     map[string]bool `json:"intelRdt"`
	Mount        map[string]any  `json:"mountExtensions"`
	NetDevices   map[string]bool `json:"netDevices"`
}

type seccompFeatures struct {
	Enabled        bool     `json:"enabled"`
	Actions        []string `json:"actions"`
	Operators      []string `json:"operators"`
	Archs          []string `json:"archs"`
	KnownFlags     []string `json:"knownFlags"`
	SupportedFlags []string `json:"supportedFlags"`
}

// Features describes the runtime, for `features`.
func Features(version string) any {
	var f features
	f.Min, f.Max = "1.0.0", SpecVersion()
	f.Hooks = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
	f.MountOptions = lower.MountOptions()
	f.Linux.Namespaces = []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}
	for _, c := range lower.Capabilities() {
		f.Linux.Capabilities = append(f.Linux.Capabilities, "CAP_"+c)
	}
	f.Linux.Cgroup = map[string]bool{"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true}
	flags := strings.Fields("SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_LOG")
	f.Linux.Seccomp = seccompFeatures{
		Enabled:    true,
		Actions:    strings.Fields("SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_LOG SCMP_ACT_TRACE SCMP_ACT_TRAP"),
		Operators:  strings.Fields("SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_LE SCMP_CMP_LT SCMP_CMP_MASKED_EQ SCMP_CMP_NE"),
		Archs:      archs(),
		KnownFlags: flags, SupportedFlags: flags,
	}
	f.Linux.Apparmor, f.Linux.Selinux = map[string]bool{"enabled": true}, map[string]bool{"enabled": true}
	f.Linux.IntelRdt, f.Linux.NetDevices = map[string]bool{"enabled": false}, map[string]bool{"enabled": false}
	f.Linux.Mount = map[string]any{"idmap": map[string]bool{"enabled": false}}
	f.Annotations = map[string]string{"dev.cais.version": version}
	return f
}

func archs() []string {
	if runtime.GOARCH == "amd64" {
		return []string{"SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"}
	}
	return []string{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"}
}

// WriteSpec writes a config.json to begin with into dir; one that is there is kept.
func WriteSpec(dir string, rootless bool) error {
	path := filepath.Join(dir, "config.json")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Conflict, path+" exists already")
	}
	text, err := json.MarshalIndent(example(rootless), "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o666)
}

func example(rootless bool) *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	quiet := []string{"nosuid", "noexec", "nodev"}
	with := func(more ...string) []string { return append(append([]string{}, quiet...), more...) }
	s := &specs.Spec{
		Version: SpecVersion(), Hostname: "cais",
		Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: with("mode=1777", "size=65536k")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: with()},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: with("ro")},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: with("relatime", "ro")},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"}, {Type: "mount"}},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	if rootless {
		s.Linux.Resources = nil
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}}
		s.Mounts[2].Options = s.Mounts[2].Options[:5] // there is no group 5
	}
	return s
}
