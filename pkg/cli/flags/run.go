// Package flags reads Docker's flags and the small languages of their values
// into what the services take.
package flags

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/units"
	"github.com/spf13/pflag"
)

// RunOptions are what run and create do with a container, beyond what it is.
type RunOptions struct {
	Name     string // --name; empty: one is made up
	Detach   bool
	Attach   []string // -a: stdin, stdout, stderr; empty: what the flags imply
	SigProxy bool
	Pull     string   // always, missing, never, newer
	Quiet    bool     // no progress while pulling
	Platform string   // os[/arch[/variant]], from --platform, --os, --arch, --variant, $DOCKER_DEFAULT_PLATFORM
	Replace  bool     // remove a container of that name first
	Warnings []string // of flags that have no effect
	CIDFile  string

	// How the registry is spoken to, when the image must be pulled.
	AuthFile  string
	CertDir   string
	Creds     string
	TLSVerify *bool
}

// RunFlags are the flags of run and create.
type RunFlags struct {
	fs  *pflag.FlagSet
	run bool
	req plan.Request
	o   RunOptions

	env, envFiles, dotenv   []string
	labels, labelFiles      []string
	annotations             []string
	volumes, mounts, tmpfs  []string
	net                     networkFlags
	securityOpt             []string
	logOpts                 []string
	secrets                 []string
	envHost, httpProxy      bool
	readOnlyTmpfs           bool
	attach                  []string
	stopTimeout             int
	entrypoint              *string
	platform, os, arch, vrt string
	tlsVerify               bool
	isolation               string
	userns                  string
	oomKillDisable          bool
	healthcheck             oci.Healthcheck
	healthCmd               string
	noHealth                bool
	restart                 plan.RestartPolicy
}

// Run defines the flags of run, or of create when run is false, in fs.
func Run(fs *pflag.FlagSet, run bool) *RunFlags {
	f := &RunFlags{fs: fs, run: run, restart: plan.RestartPolicy{Name: "no"}}
	fs.Bool("help", false, "Print usage") // -h is --hostname
	f.general()
	f.files()
	f.network()
	f.namespaces()
	f.security()
	f.resources()
	Refuse(fs, later)
	return f
}

func (f *RunFlags) general() {
	fs, r, o := f.fs, &f.req, &f.o
	fs.StringVar(&o.Name, "name", "", "Assign a name to the container")
	if f.run {
		fs.BoolVarP(&o.Detach, "detach", "d", false, "Run in the background and print the container's id")
		fs.StringVar(&r.DetachKeys, "detach-keys", "", "Detach with these `keys` (default ctrl-p,ctrl-q)")
		fs.BoolVar(&o.SigProxy, "sig-proxy", true, "Pass received signals on to the process")
	}
	define(fs, "attach", "a", "list", "Attach to stdin, stdout or stderr", f.addAttach)
	fs.BoolVarP(&r.OpenStdin, "interactive", "i", false, "Keep stdin open")
	fs.BoolVarP(&r.TTY, "tty", "t", false, "Give it a terminal")
	fs.BoolVar(&r.AutoRemove, "rm", false, "Remove the container and its anonymous volumes when it ends")
	define(fs, "restart", "", "string", "Restart policy: no, on-failure[:N], always, unless-stopped (default no)", func(s string) (err error) {
		f.restart, err = parseRestart(s)
		return err
	})
	fs.StringVar(&r.PIDFile, "pidfile", "", "Write its pid to this `file` at each start")
	fs.StringVar(&r.MonitorFile, "conmon-pidfile", "", "Write its monitor's pid to this `file` at each start")
	fs.StringVar(&r.Systemd, "systemd", "", "Let systemd run in it: true (if it is the command), always, false")
	define(fs, "sdnotify", "", "string", "Who tells systemd that it runs: ignore", func(s string) error {
		if s != "ignore" {
			return fmt.Errorf("sdnotify %q is not supported: have the unit run cais in the foreground, without -d, as Type=exec", s)
		}
		return nil
	})
	fs.StringVar(&o.CIDFile, "cidfile", "", "Write the container's id to this `file`")
	define(fs, "entrypoint", "", "string", "Replace the image's entrypoint", func(s string) error {
		f.entrypoint = &s
		return nil
	})
	list(fs, &f.env, "env", "e", "Set environment variables")
	list(fs, &f.envFiles, "env-file", "", "Read environment variables from a file")
	list(fs, &f.dotenv, "dotenv", "", "Read environment variables from a file with shell quotes")
	fs.BoolVar(&f.envHost, "env-host", false, "Let it have our environment, but for what the image sets")
	list(fs, &r.EnvMerge, "env-merge", "", "Set a variable with the image's in it: KEY=x${KEY}")
	fs.BoolVar(&f.httpProxy, "http-proxy", false, "Let it have our variables for proxies; false: not even those of config.json")
	list(fs, &r.UnsetEnv, "unsetenv", "", "Leave out a variable of the image")
	fs.BoolVar(&r.UnsetEnvAll, "unsetenv-all", false, "Leave out all variables but those given here")
	list(fs, &f.labels, "label", "l", "Set metadata on the container")
	list(fs, &f.labelFiles, "label-file", "", "Read labels from a file")
	list(fs, &f.annotations, "annotation", "", "Add an annotation for the OCI runtime")
	fs.StringVarP(&r.Workdir, "workdir", "w", "", "Working directory inside the container")
	fs.StringVarP(&r.User, "user", "u", "", "User name or id: `name|uid[:group|gid]`")
	list(fs, &r.GroupAdd, "group-add", "", "Add more groups")
	fs.StringVarP(&r.Hostname, "hostname", "h", "", "Host `name` inside the container")
	fs.StringVar(&r.Domainname, "domainname", "", "Domain `name` inside the container")
	fs.BoolVar(&r.Init, "init", false, "Run an init that passes signals on and reaps processes")
	fs.StringVar(&r.StopSignal, "stop-signal", "", "`Signal` to stop the container with")
	fs.IntVar(&f.stopTimeout, "stop-timeout", 0, "`Seconds` to wait before killing (default 10)")
	define(fs, "umask", "", "mode", "Mode bits that files are made without (default 0022)", func(s string) error {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o777 {
			return fmt.Errorf("invalid umask %q: give octal digits, 0 to 0777", s)
		}
		mask := uint32(n)
		r.Umask = &mask
		return nil
	})
	fs.IntVar(&r.Timeout, "timeout", 0, "Kill the container after this many `seconds`")
	fs.BoolVar(&o.Replace, "replace", false, "Remove a container of the same name first")
	fs.BoolVar(&r.RemoveImage, "rmi", false, "Like --rm, and remove the image unless something else uses it")
	fs.StringVar(&o.Pull, "pull", "missing", "Pull the image: always, missing, never, newer")
	fs.BoolVarP(&o.Quiet, "quiet", "q", false, "Do not show the pull's progress")
	fs.StringVar(&f.platform, "platform", "", "Platform of the image: `os[/arch[/variant]]`")
	fs.StringVar(&f.os, "os", "", "Operating system of the image")
	fs.StringVar(&f.arch, "arch", "", "Architecture of the image")
	fs.StringVar(&f.vrt, "variant", "", "Variant of the image's architecture")
	fs.StringVar(&o.AuthFile, "authfile", "", "Read credentials from this `file`")
	fs.StringVar(&o.CertDir, "cert-dir", "", "Read certificates and keys from this `directory`")
	fs.StringVar(&o.Creds, "creds", "", "Credentials for the registry: `user:password`")
	fs.BoolVar(&f.tlsVerify, "tls-verify", true, "Require TLS and check the registry's certificate")
	fs.StringVar(&r.LogDriver, "log-driver", "", "Log `driver`: json-file, local, journald, syslog, none")
	list(fs, &f.secrets, "secret", "", "Let it have a secret: NAME[,type=mount|env,target=,uid=,gid=,mode=]")
	list(fs, &f.logOpts, "log-opt", "", "Options of the log driver")
	fs.StringVar(&f.isolation, "isolation", "", "Isolation technology: default")
	f.health()

	// What Docker has given up, and takes still.
	fs.Bool("disable-content-trust", true, "Accepted: there is no content trust")
	fs.String("kernel-memory", "", "Without effect: kernels have no such limit any more")
	for _, name := range []string{"disable-content-trust", "kernel-memory"} {
		fs.Lookup(name).Hidden = true
	}
}

func (f *RunFlags) health() {
	fs, h := f.fs, &f.healthcheck
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if older, ok := strings.CutPrefix(name, "healthcheck-"); ok { // podman's, which podman-compose uses
			name = "health-" + strings.Replace(older, "command", "cmd", 1)
		}
		return pflag.NormalizedName(name)
	})
	fs.BoolVar(&f.noHealth, "no-healthcheck", false, "Do not run the image's health check")
	fs.StringVar(&f.healthCmd, "health-cmd", "", "`Command` that says by its exit code how the container does")
	fs.Func("health-interval", "Pause between two checks: a `duration`, or disable (default 30s)", func(s string) (err error) {
		if s == "disable" { // podman's: none but those of healthcheck run
			h.Interval = 100 * 365 * 24 * time.Hour
			return nil
		}
		h.Interval, err = time.ParseDuration(s)
		return err
	})
	fs.DurationVar(&h.Timeout, "health-timeout", 0, "How long a check may take (default 30s)")
	fs.DurationVar(&h.StartPeriod, "health-start-period", 0, "How long failures do not count at first")
	fs.DurationVar(&h.StartInterval, "health-start-interval", 0, "Pause between two checks in the start period (default 5s)")
	fs.IntVar(&h.Retries, "health-retries", 0, "Failures in a row that make it unhealthy (default 3)")
	fs.StringVar(&f.req.HealthOnFailure, "health-on-failure", "", "What to do when it becomes unhealthy: none, kill, restart, stop")
}

// setHealth puts what was asked for into r.
func (f *RunFlags) setHealth(r *plan.Request) error {
	h := f.healthcheck
	durations := map[string]time.Duration{
		"interval": h.Interval, "timeout": h.Timeout, "start-period": h.StartPeriod, "start-interval": h.StartInterval,
	}
	given := f.healthCmd != "" || h.Retries != 0
	for name, d := range durations {
		if d < 0 {
			return invalid("--health-%s cannot be negative", name)
		}
		given = given || d != 0
	}
	switch {
	case h.Retries < 0:
		return invalid("--health-retries cannot be negative")
	case f.noHealth && given:
		return invalid("--no-healthcheck conflicts with --health-* options")
	case f.noHealth, strings.EqualFold(f.healthCmd, "none"):
		r.Health = &oci.Healthcheck{Test: []string{"NONE"}}
		return nil
	case !given:
		return nil
	}
	if f.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", f.healthCmd}
		var argv []string
		if strings.HasPrefix(f.healthCmd, "[") && json.Unmarshal([]byte(f.healthCmd), &argv) == nil && len(argv) > 0 {
			h.Test = argv
			if argv[0] != "CMD" && argv[0] != "CMD-SHELL" {
				h.Test = append([]string{"CMD"}, argv...)
			}
		}
	}
	r.Health = &h
	return nil
}

func (f *RunFlags) addAttach(s string) error {
	s = strings.ToLower(s)
	if !slices.Contains([]string{"stdin", "stdout", "stderr"}, s) {
		return errors.New("valid streams are STDIN, STDOUT and STDERR")
	}
	f.attach = append(f.attach, s)
	return nil
}

func (f *RunFlags) files() {
	fs, r := f.fs, &f.req
	list(fs, &f.volumes, "volume", "v", "Bind a directory or file: [SRC:]DST[:options]")
	list(fs, &f.mounts, "mount", "", "Attach a file system: type=bind|tmpfs|volume,…")
	list(fs, &r.VolumesFrom, "volumes-from", "", "Mount the binds and volumes of another container: NAME[:ro]")
	fs.StringVar(&r.VolumeDriver, "volume-driver", "", "Driver of the volumes that are made: local")
	list(fs, &f.tmpfs, "tmpfs", "", "Mount a tmpfs: DST[:options]")
	bytes(fs, &r.ShmSize, "shm-size", "", "Size of /dev/shm (default 64m)", false)
	fs.BoolVar(&r.ReadOnly, "read-only", false, "Mount the root file system read-only")
	fs.BoolVar(&f.readOnlyTmpfs, "read-only-tmpfs", false, "With --read-only, mount a tmpfs at /run, /tmp and /var/tmp")
	fs.StringVar(&r.ImageVolume, "image-volume", "", "What the image's volumes are: bind, anonymous, tmpfs, ignore")
	define(fs, "passwd", "", "bool", "Let /etc/passwd and group have entries for a --user that is only a number; false: nor for keep-id", func(s string) error {
		on, err := strconv.ParseBool(s)
		r.Passwd = strconv.FormatBool(on)
		return err
	})
	fs.Lookup("passwd").NoOptDefVal = "true"
	entry := func(flag, usage string, to *string) {
		define(fs, flag, "", "string", usage, func(s string) error {
			if strings.ContainsAny(s, "\n\x00") {
				return fmt.Errorf("%s must be one line", flag)
			}
			*to = s
			return nil
		})
	}
	entry("passwd-entry", "Entry of /etc/passwd for such a user, with $USERNAME, $UID, $GID, $NAME and $HOME", &r.PasswdEntry)
	entry("group-entry", "Entry of /etc/group for his group, with $GROUPNAME, $GID and $USERLIST", &r.GroupEntry)
	fs.StringVar(&r.Timezone, "tz", "", "Time `zone` of the container: a name, or local")
	fs.BoolVar(&r.NoHosts, "no-hosts", false, "Leave /etc/hosts as the image has it")
	fs.BoolVar(&r.NoHostname, "no-hostname", false, "Leave /etc/hostname as the image has it")
}

func (f *RunFlags) namespaces() {
	fs, r := f.fs, &f.req
	fs.StringVar(&r.PIDMode, "pid", "", "PID namespace: host, container:NAME")
	fs.StringVar(&r.IPCMode, "ipc", "", "IPC namespace: private, shareable, host, none, container:NAME")
	fs.StringVar(&r.UTSMode, "uts", "", "UTS namespace: host")
	fs.StringVar(&f.userns, "userns", "", "User namespace: host, private, auto[:size=N], keep-id[:uid=N,gid=N], nomap, container:NAME, ns:PATH")
	list(fs, &r.UIDMaps, "uidmap", "", "Map user ids of the container: CONTAINER:HOST[:SIZE]")
	list(fs, &r.GIDMaps, "gidmap", "", "Map group ids of the container: CONTAINER:HOST[:SIZE] (default: as --uidmap)")
	fs.StringVar(&r.SubUIDName, "subuidname", "", "Map the user ids that /etc/subuid gives to NAME")
	fs.StringVar(&r.SubGIDName, "subgidname", "", "Map the group ids that /etc/subgid gives to NAME")
	fs.StringVar(&r.CgroupNSMode, "cgroupns", "", "Cgroup namespace: host, private, container:NAME")
	fs.StringVar(&r.CgroupParent, "cgroup-parent", "", "Cgroup below which the container's is made")
	fs.StringVar(&r.Cgroups, "cgroups", "", "enabled, disabled")
}

func (f *RunFlags) security() {
	fs, r := f.fs, &f.req
	fs.BoolVar(&r.Privileged, "privileged", false, "Give it all capabilities and devices, and hide nothing")
	list(fs, &r.CapAdd, "cap-add", "", "Add a capability")
	list(fs, &r.CapDrop, "cap-drop", "", "Drop a capability")
	list(fs, &f.securityOpt, "security-opt", "", "Security options: no-new-privileges, seccomp=, apparmor=, …")
	define(fs, "gpus", "", "gpu-request", "GPUs to add, as their vendor describes them (CDI): all, a number, device=ID", func(s string) error {
		fields, err := csv.NewReader(strings.NewReader(s)).Read()
		if err != nil {
			return err
		}
		names, err := plan.GPUs(fields)
		r.CDI = append(r.CDI, names...)
		return err
	})
	define(fs, "device", "", "list", "Add a device: HOST[:CONTAINER][:rwm], vendor.com/class=name (CDI)", func(s string) error {
		if !strings.HasPrefix(s, "/") && strings.Contains(s, "=") {
			r.CDI = append(r.CDI, s)
			return plan.CheckCDI(s)
		}
		d, err := Device(s)
		r.Devices = append(r.Devices, d)
		return err
	})
	list(fs, &r.DeviceCgroupRules, "device-cgroup-rule", "", "Add a rule to the allowed devices")
	define(fs, "sysctl", "", "map", "Set a kernel parameter of the container's namespaces", func(s string) error {
		key, val, err := parseSysctl(s)
		if err != nil {
			return err
		}
		if r.Sysctls == nil {
			r.Sysctls = map[string]string{}
		}
		r.Sysctls[key] = val
		return nil
	})
	define(fs, "ulimit", "", "list", "Limit: NAME=SOFT[:HARD]", func(s string) error {
		u, ok, err := ParseUlimit(s)
		if err != nil || !ok {
			return err
		}
		// Docker keeps the last of a name.
		r.Ulimits = slices.DeleteFunc(r.Ulimits, func(have plan.Ulimit) bool { return have.Name == u.Name })
		r.Ulimits = append(r.Ulimits, u)
		return nil
	})
	fs.IntVar(&r.OOMScoreAdj, "oom-score-adj", 0, "Preference for the OOM killer (-1000 to 1000)")
	fs.BoolVar(&f.oomKillDisable, "oom-kill-disable", false, "Keep the OOM killer away")
	fs.StringVar(&r.Runtime, "runtime", "", "OCI runtime to use for this container: a path, or a name")
	fs.BoolVar(&r.StrictLimits, "strict-limits", false, "Fail when this machine cannot apply a limit")
}

func (f *RunFlags) resources() { Limits(f.fs, &f.req.Resources) }

// Limits defines the flags for limits in fs, and reads them into r.
func Limits(fs *pflag.FlagSet, r *plan.Resources) {
	bytes(fs, &r.Memory, "memory", "m", "Memory limit", false)
	bytes(fs, &r.MemoryReservation, "memory-reservation", "", "Memory soft limit", false)
	bytes(fs, &r.MemorySwap, "memory-swap", "", "Memory and swap together; -1 for unlimited swap", true)
	define(fs, "memory-swappiness", "", "int", "Swappiness of the container's memory (0 to 100)", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("invalid syntax")
		}
		if n != -1 {
			r.MemorySwappiness = &n
		}
		return nil
	})
	define(fs, "cpus", "", "decimal", "Number of processors", func(s string) (err error) {
		r.NanoCPUs, err = nanoCPUs(s)
		return err
	})
	fs.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Int64Var(&r.CPUPeriod, "cpu-period", 0, "CFS period in µs")
	fs.Int64Var(&r.CPUQuota, "cpu-quota", 0, "CFS quota in µs")
	fs.Int64Var(&r.CPURTPeriod, "cpu-rt-period", 0, "Real-time period in µs")
	fs.Int64Var(&r.CPURTRuntime, "cpu-rt-runtime", 0, "Real-time runtime in µs")
	fs.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "Processors to use (0-3, 0,1)")
	fs.StringVar(&r.CpusetMems, "cpuset-mems", "", "Memory nodes to use (0-3, 0,1)")
	optInt(fs, &r.PidsLimit, "pids-limit", "Number of processes; -1 for unlimited")
	fs.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO weight (10 to 1000)")
	define(fs, "blkio-weight-device", "", "list", "Block IO weight of a device: PATH:WEIGHT", func(s string) error {
		path, val, err := pathValue(s)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(val, 10, 16)
		if err != nil || n != 0 && (n < 10 || n > 1000) {
			return fmt.Errorf("invalid weight for device: %s", s)
		}
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, plan.Weight{Path: path, Weight: uint16(n)})
		return nil
	})
	rate := func(p *[]plan.Rate, name, usage string, parse func(string) (int64, error)) {
		define(fs, name, "", "list", usage, func(s string) error {
			path, val, err := pathValue(s)
			if err != nil {
				return err
			}
			n, err := parse(val)
			if err != nil || n < 0 {
				return fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer", s)
			}
			*p = append(*p, plan.Rate{Path: path, Rate: uint64(n)})
			return nil
		})
	}
	number := func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
	rate(&r.ReadBPS, "device-read-bps", "Bytes a second read from a device: PATH:RATE", units.ParseSize)
	rate(&r.WriteBPS, "device-write-bps", "Bytes a second written to a device: PATH:RATE", units.ParseSize)
	rate(&r.ReadIOPS, "device-read-iops", "Reads a second from a device: PATH:RATE", number)
	rate(&r.WriteIOPS, "device-write-iops", "Writes a second to a device: PATH:RATE", number)
}

// Request returns what the flags ask for. args are what follows the flags: the
// image and the command. A mistake is Invalid, with Docker's words.
func (f *RunFlags) Request(args []string, env Env) (plan.Request, RunOptions, error) {
	r, o := f.req, f.o
	if err := Refused(f.fs); err != nil {
		return r, o, err
	}
	for _, step := range []func(*plan.Request, *RunOptions, Env) error{
		f.setEnv, f.setMetadata, f.setMounts, f.setNetwork, f.setModes, f.setStreams, f.setLife, f.setImage,
	} {
		if err := step(&r, &o, env); err != nil {
			return r, o, err
		}
	}
	if len(args) > 1 {
		r.Args = slices.Clone(args[1:])
	}
	return r, o, plan.Check(r)
}

func (f *RunFlags) setEnv(r *plan.Request, _ *RunOptions, env Env) error {
	for _, file := range f.dotenv {
		vars, err := dotenv(file, env)
		if err != nil {
			return err
		}
		r.Env = append(r.Env, vars...)
	}
	if f.fs.Changed("http-proxy") {
		env.Proxies = nil
		for _, key := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy"} {
			for _, key := range []string{key, strings.ToUpper(key)} {
				if f.httpProxy {
					env.Proxies = env.appendVar(env.Proxies, key)
				}
			}
		}
	}
	if f.envHost {
		r.HostEnv = env.All
	}
	for _, kv := range r.EnvMerge {
		if key, _, ok := strings.Cut(kv, "="); key == "" || !ok {
			return invalid("invalid --env-merge %q: give KEY=VALUE", kv)
		}
	}
	vars, err := Environment(f.env, f.envFiles, env)
	if err != nil {
		return err
	}
	r.Env = append(r.Env, vars...)
	if slices.Contains(r.GroupAdd, plan.KeepGroups) && len(r.GroupAdd) > 1 {
		return invalid("the '--group-add keep-groups' option is not allowed with any other --group-add options")
	}
	return nil
}

func (f *RunFlags) setMetadata(r *plan.Request, o *RunOptions, _ Env) (err error) {
	if r.Labels, err = labels(f.labels, f.labelFiles); err != nil {
		return err
	}
	if r.Annotations, err = keyValues("annotation", f.annotations); err != nil {
		return err
	}
	if o.Name != "" {
		if err := container.CheckName(strings.TrimPrefix(o.Name, "/")); err != nil {
			return err
		}
		o.Name = strings.TrimPrefix(o.Name, "/")
	}
	if err := checkHostname("hostname", r.Hostname); err != nil {
		return err
	}
	return checkHostname("domainname", r.Domainname)
}

func (f *RunFlags) setMounts(r *plan.Request, _ *RunOptions, env Env) error {
	add := func(texts []string, parse func(string) (plan.Mount, error)) error {
		for _, s := range texts {
			m, err := parse(s)
			if err != nil {
				return err
			}
			r.Mounts = append(r.Mounts, m)
		}
		return nil
	}
	r.Mounts = nil
	if err := add(once(f.volumes), func(s string) (plan.Mount, error) { return Volume(s, env) }); err != nil {
		return err
	}
	if err := add(f.mounts, func(s string) (plan.Mount, error) { return parseMount(s, env) }); err != nil {
		return err
	}
	if err := add(once(f.tmpfs), parseTmpfs); err != nil {
		return err
	}
	switch r.ImageVolume {
	case "bind", "anonymous": // podman's words for what Docker does
		r.ImageVolume = ""
	case "", "tmpfs", "ignore":
	default:
		return invalid("invalid --image-volume %q: give bind, anonymous, tmpfs or ignore", r.ImageVolume)
	}
	if f.readOnlyTmpfs && r.ReadOnly {
		r.AddMemory("/run", "/tmp", "/var/tmp")
	}
	for _, from := range r.VolumesFrom {
		name, mode, _ := strings.Cut(from, ":")
		switch {
		case name == "":
			return invalid("invalid volumes-from: %q", from)
		case mode != "" && mode != "ro" && mode != "rw" && mode != "z" && mode != "ro,z" && mode != "rw,z":
			return invalid("invalid mode: %s", mode)
		}
	}
	for i := range r.Mounts {
		if m := &r.Mounts[i]; m.Type == "volume" && m.Driver == "" {
			m.Driver = r.VolumeDriver
		}
	}
	return nil
}

// once is list without what it says again: scripts that put flags together do.
// Docker forgives it for -v and --tmpfs, and not for --mount.
func once(list []string) []string {
	var all []string
	for _, s := range list {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func (f *RunFlags) setModes(r *plan.Request, _ *RunOptions, env Env) (err error) {
	if r.UserNS = f.userns; !f.fs.Changed("userns") && len(r.UIDMaps)+len(r.GIDMaps) == 0 && r.SubUIDName == "" && r.SubGIDName == "" {
		for _, key := range []string{"CAIS_USERNS", "PODMAN_USERNS"} {
			if v, ok := env.lookup(key); ok && v != "" {
				r.UserNS = v
				break
			}
		}
	}
	if f.isolation != "" && f.isolation != "default" {
		return invalid("invalid isolation: %s: only default is there on Linux", f.isolation)
	}
	r.SecurityOpt = f.securityOpt
	if r.Security, err = Security(f.securityOpt, env); err != nil {
		return err
	}
	if f.fs.Changed("oom-kill-disable") {
		r.OOMKillDisable = &f.oomKillDisable
	}
	return nil
}

// setStreams: what -a does not name is decided by -i and -d.
func (f *RunFlags) setStreams(r *plan.Request, o *RunOptions, _ Env) error {
	o.Attach = f.attach
	switch {
	case len(f.attach) > 0:
		r.AttachStdin = slices.Contains(f.attach, "stdin")
		r.AttachStdout = slices.Contains(f.attach, "stdout")
		r.AttachStderr = slices.Contains(f.attach, "stderr")
	case !o.Detach:
		r.AttachStdin, r.AttachStdout, r.AttachStderr = r.OpenStdin, true, true
	}
	r.StdinOnce = r.OpenStdin && r.AttachStdin
	return nil
}

func (f *RunFlags) setLife(r *plan.Request, o *RunOptions, env Env) (err error) {
	if err := f.setHealth(r); err != nil {
		return err
	}
	r.Restart = f.restart
	if r.RemoveImage && !r.AutoRemove && f.fs.Changed("rm") {
		return invalid("--rmi removes the container first: leave --rm=false out")
	}
	r.AutoRemove = r.AutoRemove || r.RemoveImage
	if f.entrypoint != nil {
		r.Entrypoint = parseEntrypoint(*f.entrypoint)
	}
	if f.fs.Changed("stop-timeout") {
		if f.stopTimeout < -1 {
			return invalid("invalid --stop-timeout %d", f.stopTimeout)
		}
		r.StopTimeout = &f.stopTimeout
	}
	if err := checkSignal(r.StopSignal); err != nil {
		return err
	}
	switch r.Systemd {
	case "", "true", "always":
	case "false":
		r.Systemd = ""
	default:
		return invalid("invalid --systemd %q: give true, false or always", r.Systemd)
	}
	for _, file := range []*string{&r.PIDFile, &r.MonitorFile} {
		if *file != "" {
			*file = absolute(*file, env.Dir)
		}
	}
	if o.CIDFile != "" {
		o.CIDFile = absolute(o.CIDFile, env.Dir)
		r.CIDFile = o.CIDFile
	}
	if r.Secrets, err = parseSecrets(f.secrets); err != nil {
		return err
	}
	if r.LogOpts, err = keyValues("log-opt", f.logOpts); err != nil {
		return err
	}
	return plan.CheckLog(r.LogDriver, r.LogOpts)
}

func (f *RunFlags) setImage(r *plan.Request, o *RunOptions, env Env) error {
	if !slices.Contains([]string{"always", "missing", "never", "newer"}, o.Pull) {
		return invalid(`invalid pull option: '%s': must be one of "always", "missing", "newer" or "never"`, o.Pull)
	}
	o.Platform = f.platform
	if f.os+f.arch+f.vrt != "" {
		if f.platform != "" {
			return invalid("conflicting options: --platform and --os, --arch or --variant")
		}
		host := oci.HostPlatform()
		o.Platform = strings.TrimRight(first(f.os, host.OS)+"/"+first(f.arch, host.Architecture)+"/"+f.vrt, "/")
	}
	if o.Platform == "" {
		o.Platform, _ = env.lookup("DOCKER_DEFAULT_PLATFORM")
	}
	if o.Platform != "" {
		if _, err := oci.ParsePlatform(o.Platform, oci.HostPlatform()); err != nil {
			return err
		}
	}
	if trust, err := f.fs.GetBool("disable-content-trust"); err != nil || !trust {
		err := errs.New(errs.Unsupported, "--disable-content-trust=false is not supported: there is no content trust, which Docker has given up, too")
		return errs.WithHint(err, "Let policy.json ask for signatures, see containers-policy.json(5).")
	}
	r.Platform = o.Platform
	if f.fs.Changed("tls-verify") {
		o.TLSVerify = &f.tlsVerify
	}
	return nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
