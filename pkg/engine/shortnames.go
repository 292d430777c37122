package engine

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// shortEnv, set to shortConf, has names without a registry mean what
// containers-registries.conf(5) says. Otherwise they are Docker Hub's.
const (
	shortEnv  = "CAIS_SHORT_NAMES"
	shortConf = "registries.conf"
)

// PullNames returns what the user may mean by typed, in the order in which to try.
func (e *Engine) PullNames(typed string) ([]oci.Reference, error) {
	ref, err := oci.Parse(typed)
	name, suffix := splitShort(ref, typed)
	if err != nil || name == "" || e.o.Getenv(shortEnv) == "" {
		return []oci.Reference{ref}, err
	}
	r, err := e.shortConfig()
	if err != nil {
		return nil, err
	}
	if err := r.Ambiguous(name); err != nil {
		return nil, err
	}
	var all []oci.Reference
	for _, full := range r.Short(name) {
		ref, err := oci.Parse(full + suffix)
		if err != nil {
			return nil, fmt.Errorf("short name %q: %w", name, err)
		}
		all = append(all, ref)
	}
	return all, nil
}

// splitShort splits a name without a registry, which ref is, from its tag and digest;
// name is empty if there is a registry.
func splitShort(ref oci.Reference, typed string) (name, suffix string) {
	if first, _, ok := strings.Cut(typed, "/"); ok && (first == ref.Domain || strings.ContainsAny(first, ".:")) {
		return "", ""
	}
	i := strings.IndexAny(typed, ":@")
	if i < 0 {
		i = len(typed)
	}
	return typed[:i], typed[i:]
}

// shortNames is what the store is asked for besides Docker Hub's names; nil: nothing.
func (e *Engine) shortNames() func(typed string) ([]string, error) {
	if e.o.Getenv(shortEnv) == "" {
		return nil
	}
	read := sync.OnceValues(e.shortConfig)
	return func(typed string) ([]string, error) {
		ref, err := oci.Parse(typed)
		name, suffix := splitShort(ref, typed)
		if err != nil || name == "" {
			return nil, nil //nolint:nilerr // an id, or what others refuse
		}
		r, err := read()
		if err != nil {
			return nil, err
		}
		var all []string
		for _, full := range r.Short(name) {
			if ref, err := oci.Parse(full + suffix); err == nil {
				all = append(all, ref.WithDefaultTag().String())
			}
		}
		return all, nil
	}
}

func (e *Engine) shortConfig() (*config.Registries, error) {
	if v := e.o.Getenv(shortEnv); v != shortConf {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("%s=%s: want %s, or nothing for Docker Hub", shortEnv, v, shortConf))
	}
	env, err := e.registryEnv()
	if err != nil {
		return nil, err
	}
	root := os.DirFS("/")
	r, err := config.ReadRegistries(env, root)
	if err != nil {
		return nil, err
	}
	return r, r.ReadAliases(env, root)
}
