package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/userns"
)

// Read reads the facts of this machine. Getenv is os.Getenv; wantsBoot says how
// many containers are to come back after a reboot, bootEnabled that they do.
func Read(paths config.Paths, getenv func(string) string, wantsBoot int, bootEnabled bool) Facts {
	f := Facts{
		UID: os.Geteuid(), UIDMap: fields(read("/proc/self/uid_map")), Kernel: kernelVersion(),
		SudoUser: getenv("SUDO_USER"), DockerEnv: getenv("DOCKER_HOST"),
		MaxUserNS:    strings.TrimSpace(read("/proc/sys/user/max_user_namespaces")),
		CloneUserNS:  strings.TrimSpace(read("/proc/sys/kernel/unprivileged_userns_clone")),
		AppArmorUser: strings.TrimSpace(read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")),
		AppArmor:     strings.HasPrefix(read("/sys/module/apparmor/parameters/enabled"), "Y"),
		SELinux:      strings.HasPrefix(read("/sys/fs/selinux/enforce"), "1"),
		ProcMasked:   procMasked(read("/proc/self/mountinfo")),
		Container:    containerKind(getenv),
		Systemd:      exists("/run/systemd/system"),
		WantsBoot:    wantsBoot, BootEnabled: bootEnabled,
	}
	f.User = strconv.Itoa(f.UID)
	if u, err := user.LookupId(f.User); err == nil {
		f.User = u.Username
	}
	f.Home, f.Data, f.Graph = dir(getenv("HOME")), dir(paths.Root), dir(paths.GraphRoot)
	f.Runtime = dir(getenv("XDG_RUNTIME_DIR"))
	f.Bus = exists(filepath.Join(getenv("XDG_RUNTIME_DIR"), "bus")) && getenv("XDG_RUNTIME_DIR") != ""
	f.Linger = exists("/var/lib/systemd/linger/" + f.User)
	status := read("/proc/self/status")
	caps := mask(status, "CapEff:")
	f.SysAdmin, f.SysResource = caps&(1<<21) != 0, caps&(1<<24) != 0
	f.NoNewPrivs = strings.Contains(status, "NoNewPrivs:\t1")
	f.Seccomp, f.Filtered = strings.Contains(status, "Seccomp:"), strings.Contains(status, "Seccomp:\t2")
	f.SubUIDs, f.SubGIDs = userns.Subordinate("/etc/subuid", f.UID), userns.Subordinate("/etc/subgid", f.UID)
	f.FreeID = userns.FreeID("/etc/subuid", "/etc/subgid")
	f.NewUIDMap = helper()
	f.UserNS = tryUserNS()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err == nil {
		f.Files = l.Max // the soft one is raised by Go's runtime
	}
	f.CgroupMode, f.Limits = limits()
	return f
}

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}

func fields(s string) string { return strings.Join(strings.Fields(s), " ") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func mask(status, key string) uint64 {
	_, rest, _ := strings.Cut(status, key)
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return 0
	}
	return n
}

func kernelVersion() string {
	release := strings.TrimSpace(read("/proc/sys/kernel/osrelease"))
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	return parts[0] + "." + strings.TrimRight(strings.SplitN(parts[1], "-", 2)[0], "+")
}

// procMasked says that something lies over a part of /proc.
func procMasked(mountinfo string) bool {
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
	}
	return false
}

func containerKind(getenv func(string) string) string {
	switch {
	case exists("/run/.containerenv"):
		return "container of Podman"
	case exists("/.dockerenv"):
		return "container of Docker"
	case getenv("container") != "":
		return "container (" + getenv("container") + ")"
	case getenv("KUBERNETES_SERVICE_HOST") != "":
		return "pod"
	}
	return ""
}

func dir(path string) Dir {
	d := Dir{Path: path}
	if path == "" {
		return d
	}
	d.Missing = !exists(path)
	at := base(path, exists)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(at, &fs); err == nil {
		d.FS = fsName(int64(fs.Type))
	}
	const wOK, atEaccess, atFdcwd = 2, 0x200, -100
	d.Writable = syscall.Faccessat(atFdcwd, at, wOK, atEaccess) == nil
	var st syscall.Stat_t
	if err := syscall.Stat(at, &st); err == nil && !d.Missing {
		d.Foreign = int(st.Uid) != os.Geteuid()
	}
	return d
}

// fsName names file systems by statfs(2)'s magic numbers.
func fsName(magic int64) string {
	switch magic {
	case 0xef53:
		return "ext2/3/4"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x01021994:
		return "tmpfs"
	case 0x794c7630:
		return "overlay"
	case 0x6969:
		return "nfs"
	case 0x65735546:
		return "fuse"
	case 0x01021997:
		return "9p"
	case 0xff534d42, 0xfe534d42:
		return "smb"
	case 0x2fc12fc1:
		return "zfs"
	}
	return fmt.Sprintf("%#x", magic)
}

// helper says why newuidmap and newgidmap do not work; "" if they do.
func helper() string {
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := launch.LookHelper(name)
		if err != nil {
			return name + " is not installed"
		}
		if why := userns.HelperProblem(path); why != "" {
			return name + " " + why
		}
	}
	return ""
}

// tryUserNS makes a user namespace and leaves it.
func tryUserNS() string {
	cmd := exec.Command("/proc/self/exe", "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		return ""
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

func limits() (mode string, controllers []string) {
	h, err := cgroup.Detect()
	if err != nil {
		return "none", nil
	}
	p := h.Plan()
	for name := range p.Controllers {
		if name != "freezer" && name != "devices" {
			controllers = append(controllers, name)
		}
	}
	slices.Sort(controllers)
	return h.Mode(), controllers
}
