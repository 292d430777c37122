// Package export is what becomes of a build's result: an image in the store or
// in a registry, an archive, files in a directory; and what is kept of the build
// for others, as a cache in BuildKit's format.
package export

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Spec is one --output.
type Spec struct {
	Type string // image, local, tar, oci, docker
	// Dest is a file or a directory; "-" is stdout. image has none, and docker none
	// if the image is to go into the store.
	Dest string
	// Attrs are the other keys, checked by [Spec.Check].
	Attrs map[string]string
}

// CacheSpec is one --cache-from or --cache-to.
type CacheSpec struct {
	Type  string // registry, local, inline
	Attrs map[string]string
}

// keys are what Attrs may have, by type; with "?" those that are true or false.
func keys(kind string) []string {
	image := []string{
		"name", "compression", "compression-level", "force-compression?", "oci-mediatypes?", "oci-artifact?", "rewrite-timestamp?",
		"name-canonical?", "dangling-name-prefix", "buildinfo?", "attestation-inline?",
	}
	switch kind {
	case "image":
		return append(image, "push?", "push-by-digest?", "registry.insecure?", "unpack?", "store?")
	case "oci", "docker":
		return append(image, "tar?", "context")
	case "local":
		return []string{"platform-split?", "mode", "attestation-prefix"}
	}
	return []string{"platform-split?", "attestation-prefix"}
}

// Check refuses keys that mean nothing to the type and values that the key does
// not have.
func (s Spec) Check() error {
	known := keys(s.Type)
	for _, k := range slices.Sorted(maps.Keys(s.Attrs)) {
		v := s.Attrs[k]
		if strings.HasPrefix(k, "annotation") && s.Type != "local" && s.Type != "tar" {
			if _, err := parseAnnotationKey(k); err != nil {
				return err
			}
			continue
		}
		flag := slices.Contains(known, k+"?")
		if !flag && !slices.Contains(known, k) {
			names := strings.ReplaceAll(strings.Join(known, ", "), "?", "")
			return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("unknown key %q of output type %s", k, s.Type)), "It has "+names+".")
		}
		if flag && v != "" {
			if _, err := strconv.ParseBool(v); err != nil {
				return errs.New(errs.Invalid, fmt.Sprintf("non-bool value %q specified for %s", v, k))
			}
		}
		if err := checkValue(k, v); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(k, v string) error {
	switch k {
	case "compression":
		switch v {
		case "gzip", "zstd", "uncompressed":
		case "estargz":
			return errs.WithHint(errs.New(errs.Unsupported, "compression=estargz is not supported"), "Use gzip or zstd.")
		default:
			return errs.New(errs.Invalid, fmt.Sprintf("unsupported layer compression type %q: it is gzip, zstd or uncompressed", v))
		}
	case "compression-level":
		if _, err := strconv.Atoi(v); err != nil {
			return errs.New(errs.Invalid, fmt.Sprintf("non-int value %q specified for compression-level", v))
		}
	case "mode":
		if v != "copy" && v != "delete" {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid mode %q of a local output: it is copy or delete", v))
		}
	}
	return nil
}

// Flag reports whether a key is set and not false; def if it is not there.
func (s Spec) Flag(key string, def bool) bool {
	v, ok := s.Attrs[key]
	if !ok {
		return def
	}
	b, err := strconv.ParseBool(v)
	return err != nil || b // "push" alone is "push=true"
}

// Names are the image's names that the output has of its own.
func (s Spec) Names() []string {
	var out []string
	for n := range strings.SplitSeq(s.Attrs["name"], ",") {
		if n = strings.TrimSpace(n); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// AnnotationKey says where an annotation goes.
type AnnotationKey struct {
	Level    string // manifest, index, manifest-descriptor, index-descriptor
	Platform string // of a manifest: for this one only; empty: for all
	Key      string
}

// parseAnnotationKey reads "annotation.KEY", "annotation-LEVEL.KEY" and
// "annotation-LEVEL[PLATFORM].KEY".
func parseAnnotationKey(s string) (AnnotationKey, error) {
	a := AnnotationKey{Level: "manifest"}
	rest := strings.TrimPrefix(s, "annotation")
	bad := errs.New(errs.Invalid, fmt.Sprintf("invalid annotation key %q: expected annotation[-LEVEL[[PLATFORM]]].KEY", s))
	if level, ok := strings.CutPrefix(rest, "-"); ok {
		end := strings.IndexAny(level, ".[")
		if end < 0 {
			return a, bad
		}
		a.Level, rest = level[:end], level[end:]
		switch a.Level {
		case "manifest", "index", "manifest-descriptor", "index-descriptor":
		default:
			return a, bad
		}
	}
	if p, ok := strings.CutPrefix(rest, "["); ok {
		end := strings.IndexByte(p, ']')
		if end < 0 {
			return a, bad
		}
		a.Platform, rest = p[:end], p[end+1:]
	}
	key, ok := strings.CutPrefix(rest, ".")
	if !ok || key == "" {
		return a, bad
	}
	a.Key = key
	return a, nil
}

// Annotation is one that an output brings.
type Annotation struct {
	AnnotationKey
	Value string
}

// Annotations are those among the keys, sorted.
func (s Spec) Annotations() []Annotation {
	var out []Annotation
	for _, k := range slices.Sorted(maps.Keys(s.Attrs)) {
		if !strings.HasPrefix(k, "annotation") {
			continue
		}
		if a, err := parseAnnotationKey(k); err == nil {
			out = append(out, Annotation{a, s.Attrs[k]})
		}
	}
	return out
}
