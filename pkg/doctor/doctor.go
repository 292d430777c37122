// Package doctor says what a machine can and cannot give to containers, and the
// command that mends it. Reading the facts and judging them are apart: what this
// machine cannot show is judged from facts recorded elsewhere.
package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cais.dev/cais/pkg/network"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Note Level = "note" // works, and something is given up
	Bad  Level = "bad"  // containers do not run, or not here
)

// Finding is one thing looked at.
type Finding struct {
	Topic string `json:"topic"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // a command, or what to do
}

// Facts are what was read of the machine. They are written as JSON, so that those
// of another machine can be judged.
type Facts struct {
	UID       int    `json:"uid"` // effective, as this process sees it
	User      string `json:"user"`
	UIDMap    string `json:"uidMap"` // of this process, its fields with single blanks between
	Kernel    string `json:"kernel"` // "6.1"
	Home      Dir    `json:"home"`
	Data      Dir    `json:"data"`  // where containers are kept
	Graph     Dir    `json:"graph"` // where images are kept
	Runtime   Dir    `json:"runtime"`
	SudoUser  string `json:"sudoUser"`
	DockerEnv string `json:"dockerHost"` // DOCKER_HOST

	SubUIDs    int    `json:"subuids"` // how many ids the user has
	SubGIDs    int    `json:"subgids"`
	FreeID     int    `json:"freeID"`    // the first that nobody has
	NewUIDMap  string `json:"newuidmap"` // "" if it works, else why not
	NoNewPrivs bool   `json:"noNewPrivs"`

	MaxUserNS    string   `json:"maxUserNamespaces"` // the sysctls' values; "" if there is none
	CloneUserNS  string   `json:"unprivilegedUsernsClone"`
	AppArmorUser string   `json:"apparmorRestrictUserns"`
	UserNS       string   `json:"userNamespace"` // "" if one could be made, else the kernel's word
	AppArmor     bool     `json:"apparmor"`
	SELinux      bool     `json:"selinux"`
	Seccomp      bool     `json:"seccomp"`     // the kernel has it
	Filtered     bool     `json:"filtered"`    // this process runs under a filter
	SysAdmin     bool     `json:"sysAdmin"`    // and has CAP_SYS_ADMIN
	SysResource  bool     `json:"sysResource"` // and CAP_SYS_RESOURCE
	ProcMasked   bool     `json:"procMasked"`  // something is mounted over parts of /proc
	Container    string   `json:"container"`   // the kind of container that this runs in; "" for none
	Files        uint64   `json:"openFiles"`   // soft limit
	CgroupMode   string   `json:"cgroups"`     // v1, v2, hybrid, none
	Limits       []string `json:"limits"`      // controllers that containers can be limited by
	Systemd      bool     `json:"systemd"`
	Bus          bool     `json:"userBus"` // the user's manager can be asked
	Linger       bool     `json:"linger"`
	BootEnabled  bool     `json:"bootEnabled"`
	WantsBoot    int      `json:"wantsBoot"` // containers that are to come back after a reboot

	Firewalls []network.Firewall `json:"firewalls,omitempty"` // those that drop what root's containers send

	RelaysPorts bool `json:"relaysPorts,omitempty"` // root's, for the kernel's rules cannot lead to them
}

// Dir is a directory and what is below it.
type Dir struct {
	Path     string `json:"path"`
	FS       string `json:"fs"`      // ext2/3/4, xfs, btrfs, tmpfs, overlay, nfs, …; of the nearest directory that exists
	Missing  bool   `json:"missing"` // it does not exist
	Writable bool   `json:"writable"`
	Foreign  bool   `json:"foreign"` // somebody else's
}

// Judge turns facts into findings, one for each thing looked at.
func Judge(f Facts) []Finding {
	var list []Finding
	add := func(topic string, level Level, text, fix string) {
		list = append(list, Finding{topic, level, text, fix})
	}
	root := f.UID == 0
	nested := f.UIDMap != "" && f.UIDMap != "0 0 4294967295"

	kernel(f, add)
	if f.Container != "" || nested && root {
		container(f, add)
	}
	if !root {
		userNamespaces(f, add)
		ids(f, add)
		session(f, add)
	} else if f.SudoUser != "" {
		add("sudo", Note, fmt.Sprintf("root's containers and images are not those of %s: cais needs no sudo", f.SudoUser), "run cais as "+f.SudoUser)
	}
	directories(f, add)
	cgroups(f, add)
	boot(f, add)
	for _, w := range f.Firewalls {
		add("firewall", Note, fmt.Sprintf("%s drops what is forwarded over %s: containers there reach no other machine", w.Name, strings.Join(w.Bridges, ", ")), w.Fix)
	}
	if f.RelaysPorts {
		add("network", Note, "the kernel's rules do not know this machine's addresses: ports published at all of them are relayed, and clients appear with the gateway's address", "a kernel with nft_fib_ipv4 and nft_fib_ipv6")
	}
	if f.DockerEnv != "" {
		add("DOCKER_HOST", Note, fmt.Sprintf("is set to %s; cais works on this machine, and other programs do not find it there", f.DockerEnv), "unset DOCKER_HOST")
	}
	switch {
	case !f.Seccomp:
		add("seccomp", Note, "the kernel has none: containers run without a filter of system calls", "a kernel with CONFIG_SECCOMP_FILTER")
	case f.SELinux:
		add("security module", Note, "SELinux is on, and containers get no label of their own", "--security-opt label=… sets one")
	case f.AppArmor && root:
		add("security module", Note, "AppArmor is on, and containers get no profile unless one is named", "--security-opt apparmor=PROFILE")
	}
	if f.Files > 0 && f.Files < 4096 {
		add("open files", Note, fmt.Sprintf("at most %d files may be open: pulling big images may fail", f.Files), "ulimit -n 65536")
	}
	if !f.SysResource && root && !nested {
		add("CAP_SYS_RESOURCE", Note, "is missing: limits of a container cannot be raised above this shell's, and are lowered to them", "")
	}
	return list
}

type adder func(topic string, level Level, text, fix string)

func kernel(f Facts, add adder) {
	var major, minor int
	if _, err := fmt.Sscanf(f.Kernel, "%d.%d", &major, &minor); err != nil {
		add("kernel", Note, "its version "+f.Kernel+" makes no sense to cais", "")
		return
	}
	older := func(five int) bool { return major < 5 || major == 5 && minor < five } // than 5.…
	switch {
	case older(6):
		add("kernel", Bad, f.Kernel+" is too old: it cannot resolve an image's paths safely (openat2)", "Linux 5.6 or newer; 5.11 for users")
	case older(11) && f.UID != 0:
		add("kernel", Bad, f.Kernel+" lets only root mount overlay", "Linux 5.11 or newer")
	case older(12):
		add("kernel", Bad, f.Kernel+" has no mount_setattr", "Linux 5.12 or newer")
	case older(14):
		add("kernel", Note, f.Kernel+" cannot kill a cgroup at once; cais does it one by one", "")
	default:
		add("kernel", OK, f.Kernel, "")
	}
}

// Options are the two that let containers run in a container.
const Options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"

func container(f Facts, add adder) {
	kind := f.Container
	if kind == "" {
		kind = "user namespace"
	}
	switch {
	case f.UserNS != "" && !f.SysAdmin:
		add("nesting", Bad, fmt.Sprintf("inside a %s that forbids namespaces (%s): images can be pulled, containers not run", kind, f.UserNS),
			"start the outer container with "+Options)
	case f.ProcMasked && f.UID != 0, f.ProcMasked && !f.SysAdmin:
		add("nesting", Note, fmt.Sprintf("inside a %s that masks parts of /proc: containers cannot have one of their own", kind),
			"start the outer container with "+Options)
	default:
		add("nesting", OK, "inside a "+kind+" that allows it", "")
	}
}

func userNamespaces(f Facts, add adder) {
	const topic = "user namespaces"
	switch {
	case f.UserNS == "" && f.AppArmorUser == "1":
		add(topic, Bad, "get no rights, by AppArmor's restriction", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	case f.UserNS == "":
		add(topic, OK, "can be made", "")
	case f.MaxUserNS == "0":
		add(topic, Bad, "are forbidden: only root can run containers", "sudo sysctl -w user.max_user_namespaces=65536")
	case f.CloneUserNS == "0":
		add(topic, Bad, "are forbidden to users", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
	case f.AppArmorUser == "1":
		add(topic, Bad, "are taken their rights by AppArmor", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	default:
		add(topic, Bad, "cannot be made: "+f.UserNS, "ask whoever runs this machine; root can run containers")
	}
}

func ids(f Facts, add adder) {
	const topic = "subordinate ids"
	single := "; containers have one id, and files of other owners seem yours: programs that change user (apt, postgres) fail"
	switch {
	case f.SubUIDs == 0 || f.SubGIDs == 0:
		add(topic, Note, "you have none"+single, addIDs(f))
	case f.NewUIDMap != "":
		fix := "sudo apt-get install uidmap"
		if !strings.Contains(f.NewUIDMap, "not installed") {
			fix = "sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap"
		}
		add(topic, Note, "cannot be used: "+f.NewUIDMap+single, fix)
	case f.NoNewPrivs:
		add(topic, Note, "cannot be used, since no_new_privs is set here"+single, "start this session without no_new_privs")
	case f.SubUIDs < 65536 || f.SubGIDs < 65536:
		add(topic, Note, fmt.Sprintf("you have %d and %d; images with owners above that cannot be unpacked whole", f.SubUIDs, f.SubGIDs),
			addIDs(f))
	default:
		add(topic, OK, fmt.Sprintf("%d", f.SubUIDs), "")
	}
}

// addIDs is the command that gives the user ids which nobody else has: who shares
// them reaches the other's containers.
func addIDs(f Facts) string {
	return fmt.Sprintf("sudo usermod --add-subuids %[1]d-%[2]d --add-subgids %[1]d-%[2]d %[3]s", f.FreeID, f.FreeID+65535, f.User)
}

func session(f Facts, add adder) {
	const topic = "XDG_RUNTIME_DIR"
	switch d := f.Runtime; {
	case d.Path == "":
		add(topic, Note, "is not set; a directory in /tmp is used", "log in with a session (ssh, login), or export XDG_RUNTIME_DIR=/run/user/$(id -u)")
	case d.Missing:
		add(topic, Note, d.Path+" does not exist: the session that made it has ended", "sudo loginctl enable-linger "+f.User)
	case d.Foreign:
		add(topic, Bad, d.Path+" is another user's: su and sudo keep the variable", "unset XDG_RUNTIME_DIR, or log in with 'machinectl shell' or ssh")
	case !d.Writable:
		add(topic, Bad, d.Path+" cannot be written", "export XDG_RUNTIME_DIR=… to a directory of your own")
	default:
		add(topic, OK, d.Path, "")
	}
	if f.Systemd && !f.Linger {
		add("logout", Note, "systemd may end your containers when you log out", "sudo loginctl enable-linger "+f.User)
	}
}

func directories(f Facts, add adder) {
	if f.Home.Foreign {
		level := Note
		if !f.Home.Writable {
			level = Bad
		}
		add("HOME", level, f.Home.Path+" is another user's", "export HOME=~"+f.User)
	}
	seen := map[string]bool{}
	for _, d := range []struct {
		topic, variable string
		Dir
	}{{"containers", "CAIS_ROOT", f.Data}, {"images", "CAIS_ROOT", f.Graph}} {
		if seen[d.Path] {
			continue
		}
		seen[d.Path] = true
		fix := fmt.Sprintf("export %s=/var/tmp/cais-%s", d.variable, f.User)
		switch {
		case !d.Writable:
			add(d.topic, Bad, d.Path+" cannot be written", fix)
		case d.FS == "nfs" || d.FS == "smb" || d.FS == "fuse" || d.FS == "9p":
			add(d.topic, Bad, fmt.Sprintf("%s lies on %s, where overlay cannot write", d.Path, d.FS), fix)
		case d.FS == "overlay":
			add(d.topic, Bad, d.Path+" lies on an overlay, which another cannot lie on", "mount a volume there, or "+fix)
		default:
			add(d.topic, OK, fmt.Sprintf("%s (%s)", d.Path, d.FS), "")
		}
	}
}

func cgroups(f Facts, add adder) {
	const topic = "limits"
	wanted := []string{"cpu", "memory", "pids"}
	missing := slices.DeleteFunc(slices.Clone(wanted), func(c string) bool { return slices.Contains(f.Limits, c) })
	switch {
	case f.CgroupMode == "none":
		add(topic, Note, "there are no cgroups here: containers run without limits", "")
	case len(missing) == 0:
		add(topic, OK, fmt.Sprintf("cgroup %s, %s", f.CgroupMode, strings.Join(f.Limits, " ")), "")
	case f.UID == 0:
		add(topic, Note, fmt.Sprintf("cgroup %s without %s: such limits are not kept", f.CgroupMode, strings.Join(missing, ", ")), "")
	case f.CgroupMode != "v2":
		add(topic, Note, fmt.Sprintf("cgroup %s is not given to users: containers run without limits", f.CgroupMode), "boot with systemd.unified_cgroup_hierarchy=1")
	case !f.Systemd || !f.Bus:
		add(topic, Note, fmt.Sprintf("no cgroup is delegated to you, and no user manager to ask for one: no limits for %s", strings.Join(missing, ", ")), "log in with a session of systemd's")
	default:
		add(topic, Note, fmt.Sprintf("systemd does not delegate %s to you", strings.Join(missing, ", ")),
			"sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload")
	}
}

func boot(f Facts, add adder) {
	if f.WantsBoot > 0 && !f.BootEnabled {
		add("reboot", Note, fmt.Sprintf("%d containers are to run always, and nothing starts them after a reboot", f.WantsBoot), "cais system boot enable")
	}
	if f.BootEnabled {
		add("reboot", OK, "containers come back after one", "")
	}
}

// Worst is the highest level among findings.
func Worst(list []Finding) Level {
	worst := OK
	for _, f := range list {
		if f.Level == Bad || f.Level == Note && worst == OK {
			worst = f.Level
		}
	}
	return worst
}

// base is the nearest directory at or above p that exists says.
func base(p string, exists func(string) bool) string {
	for p != "/" && p != "." && !exists(p) {
		p = filepath.Dir(p)
	}
	return p
}
