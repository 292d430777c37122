package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"cais.dev/cais/pkg/errs"
)

// readShortNames merges what one file says of names without a registry: lists
// replace earlier ones, aliases are added to them.
func (r *Registries) readShortNames(f registriesFile) error {
	switch f.Mode {
	case "":
	case "enforcing", "permissive", "disabled":
		r.mode = f.Mode
	default:
		return fmt.Errorf("short-name-mode is %q, not enforcing, permissive or disabled", f.Mode)
	}
	if f.Search == nil {
		f.Search = f.Registries.Search.Registries
	}
	if f.Search != nil {
		r.search = f.Search
	}
	return r.alias(f.Aliases)
}

func (r *Registries) alias(aliases map[string]string) error {
	for short, full := range aliases {
		host, rest, _ := strings.Cut(full, "/")
		if full != "" && (rest == "" || !strings.ContainsAny(host, ".:") && host != "localhost") {
			return fmt.Errorf("the alias of %q, %q, does not begin with a registry", short, full)
		}
	}
	if r.aliases == nil {
		r.aliases = map[string]string{}
	}
	maps.Copy(r.aliases, aliases)
	return nil
}

// ReadAliases adds the aliases that Podman noted when it asked the user. They come
// before those of the configuration.
func (r *Registries) ReadAliases(e Env, root fs.FS) error {
	file := "/var/cache/containers/short-name-aliases.conf"
	if e.UID != 0 {
		file = path.Join(e.Home, ".cache/containers/short-name-aliases.conf")
		if dir := e.Getenv("XDG_CACHE_HOME"); path.IsAbs(dir) {
			file = path.Join(dir, "containers/short-name-aliases.conf")
		}
	}
	raw, err := readFile(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.E("read aliases", errs.Denied, err)
	}
	var f registriesFile
	_, err = toml.Decode(string(raw), &f)
	if err == nil {
		err = r.alias(f.Aliases)
	}
	if err != nil {
		return errs.E("read "+file, errs.Invalid, err)
	}
	return nil
}

// Short returns what the short name ("fedora", "ns/app") may stand for, in the
// order in which to try: its alias, else its names in the registries that are
// searched.
func (r *Registries) Short(name string) []string {
	if full := r.aliases[name]; full != "" {
		return []string{full}
	}
	var all []string
	for _, registry := range r.search {
		if full := strings.TrimSuffix(registry, "/") + "/" + name; !slices.Contains(all, full) {
			all = append(all, full)
		}
	}
	return all
}

// Ambiguous refuses a choice that the configuration leaves to the user: cais asks
// nobody.
func (r *Registries) Ambiguous(name string) error {
	all := r.Short(name)
	switch {
	case len(all) == 0:
		return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("short name %q has no alias, and there are no registries to search (%s)", name, strings.Join(r.Files, ", "))),
			"Name its registry, or set unqualified-search-registries there: see containers-registries.conf(5).")
	case len(all) > 1 && r.mode == "enforcing":
		return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("short name %q may be any of %s, and short-name-mode is enforcing (%s)", name, strings.Join(all, ", "), strings.Join(r.Files, ", "))),
			"Type the one that you mean, or make it an alias: see containers-registries.conf(5).")
	}
	return nil
}
