package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"cais.dev/cais/pkg/errs"
)

// Registries is what containers-registries.conf(5) says, as far as cais goes by
// it: where images really are, which registries are insecure or blocked, and what
// names without a registry stand for, for those who do not want Docker Hub's.
type Registries struct {
	Entries []Registry
	Files   []string // which files were read
	Helpers []string // credential-helpers, for [AuthSource]

	search  []string
	mode    string            // of short names
	aliases map[string]string // an empty value takes back an earlier one
}

// Registry is one [[registry]] table.
type Registry struct {
	Prefix             string   `toml:"prefix"` // "host", "host/ns/repo", "*.host"
	Location           string   `toml:"location"`
	Insecure           bool     `toml:"insecure"`
	Blocked            bool     `toml:"blocked"`
	MirrorByDigestOnly bool     `toml:"mirror-by-digest-only"`
	Mirrors            []Mirror `toml:"mirror"`
}

// Mirror is one [[registry.mirror]] table.
type Mirror struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"` // "", "all", "digest-only", "tag-only"
}

// Endpoint is one place to get a repository from.
type Endpoint struct {
	Name     string // host[:port]/path
	Insecure bool   // plain http, and certificates that nobody vouches for
	Mirror   bool   // not the registry that the name says
}

// registriesFile is a file's form; version 1 had lists instead of tables.
type registriesFile struct {
	Registry   []Registry        `toml:"registry"`
	Search     []string          `toml:"unqualified-search-registries"`
	Mode       string            `toml:"short-name-mode"`
	Helpers    []string          `toml:"credential-helpers"`
	Aliases    map[string]string `toml:"aliases"`
	Registries struct {
		Search struct {
			Registries []string `toml:"registries"`
		} `toml:"search"`
		Insecure struct {
			Registries []string `toml:"registries"`
		} `toml:"insecure"`
		Block struct {
			Registries []string `toml:"registries"`
		} `toml:"block"`
	} `toml:"registries"`
}

// ReadRegistries reads the first of the main files that exists, then the
// drop-ins, system's before user's, in the order of their names: a table for the
// same prefix replaces the one before it. A file that is there but cannot be
// read or understood is an error naming it: it may block a registry.
func ReadRegistries(e Env, root fs.FS) (*Registries, error) {
	main := []string{path.Join(e.configHome(), "containers/registries.conf"), "/etc/containers/registries.conf"}
	if f := e.Getenv("CONTAINERS_REGISTRIES_CONF"); f != "" {
		main = []string{f}
	}
	r := &Registries{}
	for _, f := range main {
		found, err := r.read(root, f)
		if err != nil {
			return nil, err
		}
		if found {
			break
		}
	}
	for _, dir := range []string{"/etc/containers/registries.conf.d", path.Join(e.configHome(), "containers/registries.conf.d")} {
		if !path.IsAbs(dir) {
			continue
		}
		names, err := fs.ReadDir(root, strings.TrimPrefix(dir, "/"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errs.E("read "+dir, errs.Denied, err)
		}
		for _, n := range names { // sorted by name
			if !strings.HasSuffix(n.Name(), ".conf") {
				continue
			}
			if _, err := r.read(root, path.Join(dir, n.Name())); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// read merges one file, if it exists.
func (r *Registries) read(root fs.FS, name string) (found bool, err error) {
	if !path.IsAbs(name) {
		return false, nil
	}
	raw, err := readFile(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, errs.WithHint(errs.E("read registries", errs.Denied, err), "Make it readable, or name another with CONTAINERS_REGISTRIES_CONF.")
	}
	var f registriesFile
	if _, err := toml.Decode(string(raw), &f); err != nil {
		return false, errs.WithHint(errs.E("read "+name, errs.Invalid, err), "See containers-registries.conf(5), or name another file with CONTAINERS_REGISTRIES_CONF.")
	}
	if f.Helpers != nil {
		r.Helpers = f.Helpers
	}
	if err := r.readShortNames(f); err != nil {
		return false, errs.E("read "+name, errs.Invalid, err)
	}
	for _, host := range f.Registries.Insecure.Registries {
		f.Registry = append(f.Registry, Registry{Location: host, Insecure: true})
	}
	for _, host := range f.Registries.Block.Registries {
		f.Registry = append(f.Registry, Registry{Location: host, Blocked: true})
	}
	for _, reg := range f.Registry {
		if reg, err = reg.normal(); err != nil {
			return false, errs.E("read "+name, errs.Invalid, err)
		}
		same := func(o Registry) bool { return o.Prefix == reg.Prefix }
		if i := slices.IndexFunc(r.Entries, same); i >= 0 {
			r.Entries[i] = reg
			continue
		}
		r.Entries = append(r.Entries, reg)
	}
	r.Files = append(r.Files, name)
	return true, nil
}

// normal fills in what may be left out and refuses what has no meaning.
func (r Registry) normal() (Registry, error) {
	r.Prefix, r.Location = strings.TrimSuffix(r.Prefix, "/"), strings.TrimSuffix(r.Location, "/")
	wild := strings.HasPrefix(r.Prefix, "*.")
	switch {
	case r.Prefix == "" && r.Location == "":
		return r, errors.New("a [[registry]] has neither prefix nor location")
	case r.Prefix == "":
		r.Prefix = r.Location
	case r.Location == "" && !wild:
		r.Location = r.Prefix
	}
	for i, m := range r.Mirrors {
		r.Mirrors[i].Location = strings.TrimSuffix(m.Location, "/")
		if r.Mirrors[i].Location == "" {
			return r, fmt.Errorf("a mirror of %s has no location", r.Prefix)
		}
		switch m.PullFromMirror {
		case "", "all", "digest-only", "tag-only":
		default:
			return r, fmt.Errorf("mirror %s: pull-from-mirror is %q, not all, digest-only or tag-only", m.Location, m.PullFromMirror)
		}
		if m.PullFromMirror != "" && r.MirrorByDigestOnly {
			return r, fmt.Errorf("mirror %s: pull-from-mirror contradicts %s's mirror-by-digest-only", m.Location, r.Prefix)
		}
	}
	for _, l := range append([]string{r.Location}, locations(r.Mirrors)...) {
		if strings.Contains(l, "://") {
			return r, fmt.Errorf("location %q: want host[:port][/path] without a scheme", l)
		}
	}
	return r, nil
}

func locations(m []Mirror) []string {
	var all []string
	for _, x := range m {
		all = append(all, x.Location)
	}
	return all
}

// Endpoints returns where to get the repository name ("docker.io/library/x")
// from, mirrors first. byDigest says that the reference has a digest, which some
// mirrors are limited to. A blocked name is Denied. A nil r is empty.
func (r *Registries) Endpoints(name string, byDigest bool) ([]Endpoint, error) {
	reg, ok := r.find(name)
	if !ok {
		return []Endpoint{{Name: name}}, nil
	}
	if reg.Blocked {
		return nil, errs.WithHint(
			errs.New(errs.Denied, fmt.Sprintf("registry %s is blocked in %s", reg.Prefix, strings.Join(r.Files, ", "))),
			"Use another registry, or remove 'blocked' there.")
	}
	rest := strings.TrimPrefix(name, reg.Prefix)
	if strings.HasPrefix(reg.Prefix, "*.") {
		host, p, _ := strings.Cut(name, "/")
		rest = "/" + p
		if reg.Location == "" {
			reg.Location = host
		}
	}
	var all []Endpoint
	for _, m := range reg.Mirrors {
		if byDigest && m.PullFromMirror == "tag-only" ||
			!byDigest && (m.PullFromMirror == "digest-only" || reg.MirrorByDigestOnly) {
			continue
		}
		all = append(all, Endpoint{Name: m.Location + rest, Insecure: m.Insecure, Mirror: true})
	}
	return append(all, Endpoint{Name: reg.Location + rest, Insecure: reg.Insecure}), nil
}

// find returns the entry with the longest prefix of name. A wildcard matches
// any host below its domain and is weaker than every exact prefix.
func (r *Registries) find(name string) (Registry, bool) {
	if r == nil {
		return Registry{}, false
	}
	best, length := Registry{}, -1
	host, _, _ := strings.Cut(name, "/")
	bare, _, _ := strings.Cut(host, ":")
	for _, reg := range r.Entries {
		n := -1
		if domain, ok := strings.CutPrefix(reg.Prefix, "*"); ok {
			if strings.HasSuffix(bare, domain) || strings.HasSuffix(host, domain) {
				n = 0
			}
		} else if name == reg.Prefix || strings.HasPrefix(name, reg.Prefix+"/") {
			n = len(reg.Prefix)
		}
		if n > length || n == 0 && length == 0 && len(reg.Prefix) > len(best.Prefix) {
			best, length = reg, n
		}
	}
	return best, length >= 0
}
