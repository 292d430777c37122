package build

import (
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// invalid is a mistake in a flag's value.
func invalid(format string, a ...any) error {
	return errs.New(errs.Invalid, fmt.Sprintf(format, a...))
}

// csvFields reads a list with commas, in which a field may be quoted.
func csvFields(s string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(s))
	fields, err := r.Read()
	if err != nil {
		return nil, invalid("cannot read %q: %v", s, err)
	}
	return fields, nil
}

// keyValues reads "k=v,k=v"; keys become small letters.
func keyValues(s string) (map[string]string, error) {
	fields, err := csvFields(s)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, invalid("invalid value %s, expected k=v", f)
		}
		m[strings.TrimSpace(strings.ToLower(k))] = v
	}
	return m, nil
}

// parseOutput reads one --output: "type=…,dest=…", or a directory, or "-" for a
// tar on stdout.
func parseOutput(s string) (export.Spec, error) {
	if fields, err := csvFields(s); err == nil && len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, "type=") {
		if s == "-" {
			return export.Spec{Type: "tar", Dest: "-"}, nil
		}
		return export.Spec{Type: "local", Dest: s}, nil
	}
	m, err := keyValues(s)
	if err != nil {
		return export.Spec{}, err
	}
	o := export.Spec{Type: m["type"], Dest: m["dest"], Attrs: m}
	delete(m, "type")
	delete(m, "dest")
	switch o.Type {
	case "":
		return o, invalid("type is required for output")
	case "registry":
		o.Type = "image"
		if _, ok := m["push"]; !ok {
			m["push"] = "true"
		}
	case "image", "local", "tar", "oci", "docker":
	default:
		return o, invalid("exporter %q could not be found: it is image, registry, local, tar, oci or docker", o.Type)
	}
	return o, nil
}

// checkOutput refuses a destination that cannot work, and sets the default one.
func checkOutput(o *export.Spec, terminal bool) error {
	dir := o.Type == "local" || (o.Type == "oci" || o.Type == "docker") && o.Attrs["tar"] == "false"
	switch {
	case o.Type == "image":
		if o.Dest != "" {
			return invalid("dest is not supported by image exporter")
		}
		return nil
	case dir:
		if o.Dest == "" {
			return invalid("dest is required for %s exporter", o.Type)
		}
		if o.Dest == "-" {
			return invalid("dest cannot be stdout for %s exporter", o.Type)
		}
		if fi, err := os.Stat(o.Dest); err == nil && !fi.IsDir() {
			return invalid("destination directory %q is a file", o.Dest)
		}
		return nil
	case o.Dest == "" && o.Type == "docker":
		return nil
	case o.Dest == "":
		o.Dest = "-"
	}
	if o.Dest == "-" {
		if terminal {
			return errs.WithHint(invalid("dest file is required for %s exporter. refusing to write to console", o.Type), "Redirect stdout, or add dest=FILE.")
		}
		return nil
	}
	if fi, err := os.Stat(o.Dest); err == nil && fi.IsDir() {
		return invalid("destination file %q is a directory", o.Dest)
	}
	return nil
}

// outputs are the --output flags with what --push and --load make of them.
func outputs(flags []string, push, load, terminal bool) ([]export.Spec, error) {
	var all []export.Spec
	for _, s := range flags {
		if s == "" { // as in buildx: a script's variable that is empty
			continue
		}
		o, err := parseOutput(s)
		if err != nil {
			return nil, err
		}
		if o.Attrs == nil {
			o.Attrs = map[string]string{}
		}
		if err := checkOutput(&o, terminal); err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	isStore := func(o export.Spec) bool { return o.Type == "docker" && o.Dest == "" }
	if push {
		if len(all) == 0 {
			all = append(all, export.Spec{Type: "image", Attrs: map[string]string{}})
		}
		found := false
		for _, o := range all {
			if o.Type == "image" {
				o.Attrs["push"] = "true"
				found = true
			}
		}
		if !found {
			return nil, invalid("push and %q output can't be used together", all[0].Type)
		}
	}
	if load && !slices.ContainsFunc(all, func(o export.Spec) bool { return o.Type == "image" || isStore(o) }) {
		all = append(all, export.Spec{Type: "image", Attrs: map[string]string{}})
	}
	if len(all) == 0 {
		all = append(all, export.Spec{Type: "image", Attrs: map[string]string{}})
	}
	stdout := 0
	for i := range all {
		if isStore(all[i]) {
			all[i].Type = "image"
		}
		if all[i].Dest == "-" {
			stdout++
		}
		if err := all[i].Check(); err != nil {
			return nil, err
		}
	}
	if stdout > 1 {
		return nil, invalid("only one output can go to stdout")
	}
	return all, nil
}

// parseCache reads one --cache-from or --cache-to; several names of images stand
// in one flag.
func parseCache(s string, to bool) ([]export.CacheSpec, error) {
	fields, err := csvFields(s)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(fields, func(f string) bool { return strings.Contains(f, "=") }) {
		var all []export.CacheSpec
		for _, f := range fields {
			if _, err := oci.Parse(f); err != nil {
				return nil, err
			}
			all = append(all, export.CacheSpec{Type: "registry", Attrs: map[string]string{"ref": f}})
		}
		return all, nil
	}
	m, err := keyValues(s)
	if err != nil {
		return nil, err
	}
	c := export.CacheSpec{Type: m["type"], Attrs: m}
	delete(m, "type")
	switch c.Type {
	case "":
		return nil, invalid("type required form> %q", s)
	case "inline":
		if !to {
			return nil, invalid("--cache-from type=inline: an inline cache is read by type=registry")
		}
	case "registry":
		if m["ref"] == "" {
			return nil, invalid("--cache type=registry needs ref=NAME: %s", s)
		}
	case "local":
		if to && m["dest"] == "" {
			return nil, invalid("local cache exporter requires dest")
		}
		if !to && m["src"] == "" {
			return nil, invalid("local cache importer requires src")
		}
	case "gha", "s3", "azblob":
		return nil, errs.WithHint(errs.New(errs.Unsupported, "a cache of type "+c.Type+" is not supported"), "Use type=registry, type=local or type=inline.")
	default:
		return nil, invalid("unknown cache type %q: it is registry, local or inline", c.Type)
	}
	return []export.CacheSpec{c}, c.Check(to)
}

// parseSecret reads one --secret: id=…[,src=…|env=…][,type=file|env].
func parseSecret(s string, hasEnv func(string) bool) (source.Secret, error) {
	fields, err := csvFields(s)
	if err != nil {
		return source.Secret{}, err
	}
	var x source.Secret
	kind := ""
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return x, invalid("invalid field '%s' must be a key=value pair", f)
		}
		switch strings.ToLower(k) {
		case "type":
			if v != "file" && v != "env" {
				return x, invalid("unsupported secret type %q", v)
			}
			kind = v
		case "id":
			x.ID = v
		case "source", "src":
			x.File = v
		case "env":
			x.Env = v
		default:
			return x, invalid("unexpected key '%s' in '%s'", k, f)
		}
	}
	if x.ID == "" {
		return x, invalid("secret missing ID: %s", s)
	}
	if x.Env != "" && x.File != "" {
		return x, invalid("secret %s has both a file and a variable: give src or env", x.ID)
	}
	if kind == "env" && x.Env == "" {
		x.Env, x.File = x.File, ""
	}
	if x.Env == "" && x.File == "" {
		if kind != "file" && hasEnv(x.ID) {
			x.Env = x.ID
		} else {
			x.File = x.ID
		}
	}
	return x, nil
}

// parseSSH reads one --ssh: default, or ID=SOCKET|KEY[,KEY].
func parseSSH(s string) source.SSH {
	id, paths, ok := strings.Cut(s, "=")
	x := source.SSH{ID: id}
	if ok && paths != "" {
		x.Paths = strings.Split(paths, ",")
	}
	return x
}

// parseNamed reads "name=value" flags of which a name counts once.
func parseNamed(what string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, invalid("invalid %s value %s: expected NAME=VALUE", what, s)
		}
		m[k] = v
	}
	return m, nil
}

// namedContexts reads the --build-context flags. Names are compared as
// references, in small letters.
func namedContexts(list []string) (map[string]string, error) {
	m, err := parseNamed("context", list)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for k, v := range m {
		if r, err := oci.Parse(k); err == nil && strings.ContainsAny(k, "/:@") {
			k = r.Familiar()
		} else {
			k = strings.ToLower(k)
		}
		for _, podmans := range []string{"container-image://", "docker://"} {
			if ref, ok := strings.CutPrefix(v, podmans); ok {
				v = "docker-image://" + ref
			}
		}
		out[k] = v
	}
	return out, nil
}

// buildArgs reads --build-arg: a name alone takes its value from the environment,
// and is left out if it has none there.
func buildArgs(list []string, lookup func(string) (string, bool)) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			if v, ok = lookup(k); !ok {
				continue
			}
		}
		m[k] = v
	}
	return m
}

// labels reads --label; a name alone has an empty value.
func labels(list []string) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		m[k] = v
	}
	return m
}

// platforms reads the --platform flags, each maybe with several.
func platforms(list []string) ([]oci.Platform, error) {
	var all []oci.Platform
	for _, s := range list {
		for p := range strings.SplitSeq(s, ",") {
			p = strings.TrimSpace(p)
			if p == "" {
				continue
			}
			v := oci.HostPlatform()
			if p != "local" {
				var err error
				if v, err = oci.ParsePlatform(p, oci.HostPlatform()); err != nil {
					return nil, err
				}
			}
			if v = v.Normalize(); !slices.ContainsFunc(all, func(o oci.Platform) bool { return o.String() == v.String() }) {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// addHosts reads --add-host: HOST:IP or HOST=IP, an IPv6 address maybe in
// brackets.
func addHosts(list []string) ([]graph.Host, error) {
	var all []graph.Host
	for _, s := range list {
		name, ip, ok := strings.Cut(s, "=")
		if !ok {
			name, ip, ok = strings.Cut(s, ":")
		}
		if !ok || name == "" || ip == "" {
			return nil, invalid("bad format for add-host: %q", s)
		}
		ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
		if ip != "host-gateway" && !isIP(ip) {
			return nil, invalid("invalid IP address in add-host: %q", ip)
		}
		all = append(all, graph.Host{Name: name, IP: ip})
	}
	return all, nil
}

// annotation is one --annotation.
type annotation struct {
	level    string // manifest, index, manifest-descriptor, index-descriptor
	platform *oci.Platform
	key      string
	value    string
}

// annotations reads the --annotation flags: [TYPE[,TYPE…][[PLATFORM]]:]KEY=VALUE.
func annotations(list []string) ([]annotation, error) {
	var all []annotation
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, invalid("invalid annotation %q, expected key=value", s)
		}
		types, name, typed := strings.Cut(key, ":")
		if !typed {
			all = append(all, annotation{level: "manifest", key: key, value: value})
			continue
		}
		if name == "" {
			return nil, invalid("invalid annotation %q: it has no key", s)
		}
		for t := range strings.SplitSeq(types, ",") {
			a := annotation{key: name, value: value}
			level, rest, has := strings.Cut(t, "[")
			if has {
				p, err := oci.ParsePlatform(strings.TrimSuffix(rest, "]"), oci.HostPlatform())
				if err != nil || !strings.HasSuffix(rest, "]") {
					return nil, invalid("invalid annotation %q: bad platform", s)
				}
				p = p.Normalize()
				a.platform = &p
			}
			switch level {
			case "manifest", "manifest-descriptor":
			case "index", "index-descriptor":
				if a.platform != nil {
					return nil, invalid("invalid annotation %q: an index has no platform", s)
				}
			default:
				return nil, invalid("invalid annotation %q: unknown type %q: it is manifest, index, manifest-descriptor or index-descriptor", s, level)
			}
			a.level = level
			all = append(all, a)
		}
	}
	return all, nil
}

// pullWords reads --pull: Docker's bool or podman's word.
func pullWords(s string) (always bool, newer, never bool, err error) {
	switch strings.ToLower(s) {
	case "always":
		return true, false, false, nil
	case "missing", "ifnotpresent", "":
		return false, false, false, nil
	case "never":
		return false, false, true, nil
	case "newer", "ifnewer":
		return false, true, false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, false, false, invalid("invalid value %q for --pull: true, false, always, missing, never or newer", s)
	}
	return b, false, false, nil
}
