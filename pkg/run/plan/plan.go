package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec returns the OCI spec for req on host, for an image with config img, and
// what the person should be told. It fails with Invalid or, if this host cannot
// do it, Unsupported; nothing exists yet that would have to be undone.
//
// The seccomp filter is not part of it: Linux.Seccomp stays nil, and
// Request.Security.Seccomp says which one start compiles.
func Spec(req Request, img oci.Config, host Host, in Inputs) (*specs.Spec, []Warning, error) {
	if err := Check(req); err != nil {
		return nil, nil, err
	}
	if on := req.HealthOnFailure; on != "" && on != "none" && Health(req, img) == nil {
		return nil, nil, errs.New(errs.Invalid, "--health-on-failure "+on+" needs a health check: give one with --health-cmd")
	}
	b := builder{req: req, img: img, host: host, inUserNS: host.InUserNS, in: in, spec: &specs.Spec{
		Version:     specs.Version,
		Process:     &specs.Process{},
		Root:        &specs.Root{Path: in.Rootfs, Readonly: req.ReadOnly},
		Annotations: req.Annotations,
		Linux:       &specs.Linux{},
	}}
	// Namespaces first: names, mounts and sysctls depend on them. Capabilities
	// after user and devices.
	for _, step := range []func() error{
		b.namespaces, b.names, b.resolver, b.process, b.limits, b.resources, b.devices, b.capabilities, b.mounts, b.edits, b.paths, b.sysctls, b.labels,
	} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return b.spec, b.warnings, nil
}

// builder carries what the steps of Spec share.
type builder struct {
	req      Request
	img      oci.Config
	host     Host
	in       Inputs
	spec     *specs.Spec
	user     identity
	warnings []Warning
	// deviceMounts are bound device nodes: below /dev, so after it.
	deviceMounts []specs.Mount

	inUserNS bool // what makes the mounts is in a user namespace

	// What the namespaces are decides much of the rest.
	hostNet, joinNet bool
	hostPID          bool
	hostIPC, joinIPC bool
	hostUTS, joinUTS bool
}

// short is a flag that this host answers only in part: a warning, or the end
// when limits are strict.
func (b *builder) short(flag, text string) error {
	if b.req.StrictLimits {
		text, _, _ = strings.Cut(text, "; --") // what would have been ignored
		err := errs.New(errs.Unsupported, text)
		return errs.WithHint(err, "Leave out --strict-limits to go on without it.")
	}
	b.warnings = append(b.warnings, Warning{Flag: flag, Text: text})
	return nil
}

// names decides host and domain name.
func (b *builder) names() error {
	b.spec.Domainname = cmp.Or(b.req.Domainname, b.in.NetDomainname)
	if b.hostUTS || b.joinUTS {
		return nil // not ours to name; Check has refused --hostname with it
	}
	b.spec.Hostname = b.hostname()
	return nil
}

// resolver warns in Docker's words of a name server on loopback, which is the
// container's own.
func (b *builder) resolver() error {
	for _, s := range b.req.DNS {
		if a, err := netip.ParseAddr(s); err == nil && a.IsLoopback() && !b.hostNet {
			b.warnings = append(b.warnings, Warning{Flag: "dns", Text: "Localhost DNS (" + s + ") may fail in containers."})
			break
		}
	}
	return nil
}

// hostname is what HOSTNAME says, whoever owns the UTS namespace.
func (b *builder) hostname() string {
	switch {
	case b.req.Hostname != "":
		return b.req.Hostname
	case (b.hostNet || b.hostUTS) && b.in.HostHostname != "":
		return b.in.HostHostname
	case b.in.NetHostname != "":
		return b.in.NetHostname
	case len(b.in.ID) > 12:
		return b.in.ID[:12]
	}
	return b.in.ID
}

// KeepGroups is the --group-add that leaves the process the caller's own
// supplementary groups; KeepGroupsAnnotation says so in a spec, as crun has it.
const (
	KeepGroups           = "keep-groups"
	KeepGroupsAnnotation = "run.oci.keep_original_groups"
)

// process decides what is executed, by whom, where and with which environment.
func (b *builder) process() error {
	p := b.spec.Process
	var err error
	if p.Args, err = Command(b.req, b.img); err != nil {
		return err
	}
	user := b.img.User
	if b.req.User != "" {
		user = b.req.User
	}
	added := b.req.GroupAdd
	if slices.Contains(added, KeepGroups) {
		added = nil
	}
	if b.user, err = resolve(user, added, b.in.Passwd, b.in.Group); err != nil {
		return err
	}
	if err := b.host.mapped(&b.user); err != nil {
		return err
	}
	p.User = b.user.spec()
	p.User.Umask = b.req.Umask
	if len(added) < len(b.req.GroupAdd) {
		p.User.AdditionalGids = nil
		b.spec.Annotations = maps.Clone(b.spec.Annotations)
		if b.spec.Annotations == nil {
			b.spec.Annotations = map[string]string{}
		}
		b.spec.Annotations[KeepGroupsAnnotation] = "1"
	}
	p.Env = environment(b.req, b.img, b.hostname(), b.user.home)
	p.Terminal = b.req.TTY
	p.NoNewPrivileges = b.req.Security.NoNewPrivileges
	p.Cwd, err = workdir(b.req.Workdir, b.img.WorkingDir)
	return err
}

// Command returns what the container executes. Docker's rule: naming an
// entrypoint drops the image's Cmd, naming only arguments keeps its entrypoint.
func Command(req Request, img oci.Config) ([]string, error) {
	entry, args := img.Entrypoint, req.Args
	switch {
	case req.Entrypoint != nil:
		entry = *req.Entrypoint
	case len(args) == 0:
		args = img.Cmd
	}
	all := make([]string, 0, len(entry)+len(args))
	all = append(append(all, entry...), args...)
	if len(all) == 0 {
		return nil, errs.WithHint(errs.New(errs.Invalid, "no command specified"),
			"The image names none: put one after the image.")
	}
	for _, a := range all {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, errs.New(errs.Invalid, "the command contains a NUL byte")
		}
	}
	return all, nil
}

// workdir is the flag's directory, else the image's, else the root. A flag that
// is relative is a mistake; an image's is taken from the root, as Docker does.
func workdir(flag, image string) (string, error) {
	dir := image
	if flag != "" {
		if !path.IsAbs(flag) {
			return "", errs.New(errs.Invalid, fmt.Sprintf("the working directory '%s' is invalid, it needs to be an absolute path", flag))
		}
		dir = flag
	}
	if strings.IndexByte(dir, 0) >= 0 {
		return "", errs.New(errs.Invalid, "the working directory contains a NUL byte")
	}
	return path.Clean("/" + dir), nil
}
