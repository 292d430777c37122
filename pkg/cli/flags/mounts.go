package flags

import (
	"encoding/csv"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/volume"
)

// Volume reads one -v, [SRC:]DST[:OPTIONS]; paths that are not absolute begin at
// env.Dir.
func Volume(s string, env Env) (plan.Mount, error) {
	if s == "" {
		return plan.Mount{}, invalid("invalid empty volume spec")
	}
	parts := strings.Split(s, ":")
	m := plan.Mount{Flag: "v", Raw: s}
	for _, p := range parts {
		if p == "" {
			return m, invalid("invalid spec: %s: empty section between colons", s)
		}
	}
	switch len(parts) {
	case 1:
		// Docker takes a relative path for one from the root, here alone.
		m.Type, m.Target, m.Raw = "volume", path.Join("/", parts[0]), ""
	case 2:
		// "/x:ro" would be an anonymous volume with a mode, which Docker refuses
		// as a relative target; so does this.
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target = parts[0], parts[1]
		if err := volumeOptions(&m, parts[2]); err != nil {
			return m, err
		}
	default:
		return m, invalid("invalid spec: %s: too many colons", s)
	}
	if !path.IsAbs(m.Target) {
		return m, invalid("invalid volume specification: '%s': invalid mount config for type \"%s\": invalid mount path: '%s' mount path must be absolute", s, kindOf(m), m.Target)
	}
	if m.Source == "" {
		return m, nil
	}
	if slices.Contains(m.Options, "O") && m.Source[0] != '/' && m.Source[0] != '.' {
		return m, errs.New(errs.Unsupported, "--volume option O is for directories: "+m.Source+" is a volume")
	}
	switch m.Source[0] {
	case '/', '.':
		m.Type, m.CreateSrc = "bind", !slices.Contains(m.Options, "nocreate")
		m.Source = absolute(m.Source, env.Dir)
		if slices.Contains(m.Options, "nocopy") || slices.Contains(m.Options, "copy") {
			return m, invalid("invalid mode: %s", parts[2])
		}
	case '~':
		return m, errs.WithHint(invalid("invalid volume specification: '%s': ~ is the shell's, and it was not expanded", s),
			"Write "+path.Join(env.Home, strings.TrimLeft(m.Source, "~"))+" or $HOME instead.")
	default:
		m.Type = "volume"
		if m.Propagation != "" {
			return m, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": field BindOptions must not be specified", s)
		}
		if err := volume.CheckName(m.Source); err != nil {
			return m, err
		}
	}
	return m, nil
}

func kindOf(m plan.Mount) string {
	if m.Source == "" || m.Source[0] != '/' && m.Source[0] != '.' {
		return "volume"
	}
	return "bind"
}

func absolute(p, dir string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return filepath.Join(dir, p)
}

// volumeOptions reads the third part: at most one of each class.
func volumeOptions(m *plan.Mount, text string) error {
	seen := map[string]bool{}
	for o := range strings.SplitSeq(text, ",") {
		class := ""
		switch o {
		case "ro", "rw":
			class, m.ReadOnly = "access", o == "ro"
		case "z", "Z":
			class = "label"
			m.Options = append(m.Options, o)
		case "shared", "rshared", "slave", "rslave", "private", "rprivate":
			class, m.Propagation = "propagation", o
		case "nocopy", "copy":
			class = "copy"
			m.Options = append(m.Options, o)
		case "cached", "delegated", "consistent", "default":
			class = "consistency" // Docker Desktop's; there is one kernel here
		case "exec", "noexec", "dev", "nodev", "suid", "nosuid":
			class = strings.TrimPrefix(o, "no")
			m.Options = append(m.Options, o)
		case "bind", "rbind": // podman's words
			class = "recursion"
			if o == "bind" {
				m.Recursive = "disabled"
			}
		case "nocreate":
			class = o
			m.Options = append(m.Options, o)
		case "U", "O":
			class = o
			m.Options = append(m.Options, o)
		case "idmap":
			class = o
			m.Options = append(m.Options, o)
		default:
			if !strings.HasPrefix(o, "idmap=") {
				return invalid("invalid mode: %s", text)
			}
			class = "idmap"
			m.Options = append(m.Options, o)
		}
		if seen[class] {
			return invalid("invalid mode: %s", text)
		}
		seen[class] = true
	}
	return nil
}

// parseTmpfs reads --tmpfs PATH[:options].
func parseTmpfs(s string) (plan.Mount, error) {
	target, options, _ := strings.Cut(s, ":")
	m := plan.Mount{Type: "tmpfs", Target: target, Flag: "tmpfs", Raw: s}
	if options != "" {
		m.Options = strings.Split(options, ",")
	}
	if !path.IsAbs(target) {
		return m, invalid("invalid tmpfs mount: '%s': the path must be absolute", s)
	}
	_, err := plan.TmpfsOptions(m.Options, false)
	return m, err
}

// mountReader reads --mount.
type mountReader struct {
	m          plan.Mount
	env        Env
	create     bool
	bind       bool // a bind option was given
	writable   bool // asked for in so many words
	volume     string
	subpath    string // the key that it came by
	tmpfs      bool
	size, mode string
}

// parseMount reads --mount's comma-separated key=value list.
func parseMount(s string, env Env) (plan.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return plan.Mount{}, invalid("invalid argument %q for --mount: %s", s, err.Error())
	}
	r := mountReader{m: plan.Mount{Type: "volume", Flag: "mount", Raw: s}, env: env}
	for _, f := range fields {
		key, val, valued := strings.Cut(f, "=")
		if err := r.field(strings.ToLower(strings.TrimSpace(key)), val, valued, f); err != nil {
			return plan.Mount{}, err
		}
	}
	return r.finish()
}

func (r *mountReader) field(key, val string, valued bool, whole string) error {
	if isChoice, err := r.choice(key, val, valued, whole); isChoice {
		return err
	}
	if !valued {
		return invalid("invalid field '%s' must be a key=value pair", whole)
	}
	return r.value(key, val, whole)
}

// choice reads a field that may stand without a value; it reports whether this is one.
func (r *mountReader) choice(key, val string, valued bool, whole string) (bool, error) {
	var on bool
	switch key {
	case "readonly", "ro", "rw", "volume-nocopy", "bind-create-src", "bind-nonrecursive", "u", "chown":
		var err error
		if on, err = boolWord(val); err != nil || valued && val == "" {
			return true, invalid("invalid value for %s: %s", key, val)
		}
	}
	switch key {
	case "readonly", "ro":
		r.m.ReadOnly = on
	case "rw": // podman's
		r.writable, r.m.ReadOnly = on, !on
	case "volume-nocopy":
		r.volume = key
		if on {
			r.m.Options = append(r.m.Options, "nocopy")
		}
	case "bind-create-src":
		r.bind, r.create = true, on
	case "bind-nonrecursive":
		r.bind = true
		if on {
			r.m.Recursive = "disabled"
		}
	case "u", "chown":
		if on {
			r.m.Options = append(r.m.Options, "U")
		}
	case "idmap":
		r.m.Options = append(r.m.Options, strings.TrimSpace(whole))
	case "notmpcopyup": // podman's: what its tmpfs has at first is as in Docker's, nothing
		r.tmpfs = true
		return !valued, nil
	default:
		return false, nil
	}
	return true, nil
}

// value reads a field that has one.
func (r *mountReader) value(key, val, whole string) error {
	switch key {
	case "type":
		r.m.Type = strings.ToLower(val)
	case "source", "src":
		r.m.Source = val
	case "target", "dst", "destination":
		r.m.Target = val
	case "consistency":
	case "bind-propagation":
		r.bind = true
		if !slices.Contains([]string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}, val) {
			return invalid("invalid propagation mode: %s", val)
		}
		r.m.Propagation = val
	case "bind-recursive":
		r.bind = true
		switch val {
		case "enabled":
		case "disabled", "writable", "readonly":
			r.m.Recursive = val
		default:
			return invalid("invalid value for %s: %s (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")", key, val)
		}
	case "tmpfs-size":
		r.tmpfs = true
		n, err := units.ParseSize(val)
		if err != nil {
			return invalid("invalid value for %s: %s", key, val)
		}
		r.size = strconv.FormatInt(n, 10)
	case "tmpfs-mode":
		r.tmpfs = true
		if _, err := strconv.ParseUint(val, 8, 12); err != nil {
			return invalid("invalid value for %s: %s", key, val)
		}
		r.mode = val
	case "volume-subpath", "image-subpath", "subpath":
		r.subpath, r.m.Subpath = key, val
		if key == "volume-subpath" {
			r.volume = key
		}
	case "volume-driver":
		r.volume, r.m.Driver = key, val
	case "volume-label":
		r.volume = key
		k, v, _ := strings.Cut(val, "=")
		if r.m.Labels == nil {
			r.m.Labels = map[string]string{}
		}
		r.m.Labels[k] = v
	case "volume-opt":
		r.volume = key
		k, v, ok := strings.Cut(val, "=")
		if !ok {
			return invalid("invalid field '%s' must be a key=value pair", whole)
		}
		if r.m.DriverOpts == nil {
			r.m.DriverOpts = map[string]string{}
		}
		r.m.DriverOpts[k] = v
	case "relabel":
		switch val {
		case "shared":
			r.m.Options = append(r.m.Options, "z")
		case "private":
			r.m.Options = append(r.m.Options, "Z")
		default:
			return invalid("invalid value for %s: %s (must be \"shared\" or \"private\")", key, val)
		}
	default:
		return invalid("unexpected key '%s' in '%s'", key, whole)
	}
	return nil
}

func (r *mountReader) finish() (plan.Mount, error) {
	m := r.m
	switch m.Type {
	case "bind", "volume", "tmpfs", "image", "devpts", "ramfs":
	case "npipe", "cluster", "glob", "artifact":
		err := errs.New(errs.Unsupported, "--mount type="+m.Type+" is not supported yet")
		return m, errs.WithHint(err, "There are bind, volume, tmpfs, image, devpts and ramfs.")
	default:
		return m, invalid("invalid mount config: mount type unknown: \"%s\"", m.Type)
	}
	switch {
	case m.Target == "":
		return m, invalid("invalid mount config for type \"%s\": field Target must not be empty", m.Type)
	case !path.IsAbs(m.Target):
		return m, invalid("invalid mount config for type \"%s\": invalid mount path: '%s' mount path must be absolute", m.Type, m.Target)
	case r.bind && m.Type != "bind":
		return m, invalid("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	case r.volume != "" && m.Type != "volume":
		return m, invalid("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	case r.tmpfs && m.Type != "tmpfs":
		return m, invalid("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	case r.subpath == "image-subpath" && m.Type != "image":
		return m, invalid("cannot mix 'image-*' options with mount type '%s'", m.Type)
	case r.subpath != "" && m.Type != "volume" && m.Type != "image":
		return m, invalid("unexpected key 'subpath' for mount type '%s'", m.Type)
	case m.Subpath != "" && !filepath.IsLocal(m.Subpath):
		return m, invalid("invalid mount config for type \"%[1]s\": subpath must be a relative path within the %[1]s: %s", m.Type, m.Subpath)
	case m.Type == "image" && r.writable:
		return m, errs.New(errs.Unsupported, "a mount of an image is for reading only: make a volume of it with --mount type=volume, or a container")
	case m.Type == "image" && m.Source == "":
		return m, invalid("invalid mount config for type \"image\": field Source must not be empty")
	case m.Type == "tmpfs" && m.Source != "":
		return m, invalid("invalid mount config for type \"tmpfs\": field Source must not be specified")
	case m.Type == "bind" && m.Source == "":
		return m, invalid("invalid mount config for type \"bind\": field Source must not be empty")
	case m.Recursive == "readonly" && m.Propagation != "rprivate":
		return m, invalid("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	case (m.Recursive == "readonly" || m.Recursive == "writable") && !m.ReadOnly:
		return m, invalid("option 'bind-recursive=%s' requires 'readonly' to be specified in conjunction", m.Recursive)
	}
	if m.Type == "volume" && m.Source != "" {
		if err := volume.CheckName(m.Source); err != nil {
			if path.IsAbs(m.Source) {
				err = errs.WithHint(err, "A host directory wants type=bind: --mount makes a volume unless the type is given.")
			}
			return m, err
		}
	}
	if m.Type == "bind" {
		if m.Source[0] == '~' {
			return m, invalid("invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		m.Source, m.CreateSrc = absolute(m.Source, r.env.Dir), r.create
	}
	if r.size != "" {
		m.Options = append(m.Options, "size="+r.size)
	}
	if r.mode != "" {
		m.Options = append(m.Options, "mode="+r.mode)
	}
	return m, nil
}
