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
	"cais.dev/cais/pkg/oci"
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
	image := []string{"name", "compression", "compression-level", "force-compression?", "oci-mediatypes?", "rewrite-timestamp?", "name-canonical?"}
	switch kind {
	case "image":
		return append(image, "push?", "push-by-digest?", "registry.insecure?", "unpack?", "store?")
	case "oci", "docker":
		return append(image, "tar?")
	case "local":
		return []string{"platform-split?", "mode"}
	}
	return []string{"platform-split?"}
}

// without reports whether a key is one of BuildKit's for what is not here, and refuses
// it unless it says no.
// name-canonical and unpack are not among them: an image is found by its name with its
// digest, and its layers are unpacked, in any case.
func without(k, v string) (is bool, err error) {
	next := ""
	switch k {
	case "attestation-inline", "attestation-prefix", "oci-artifact", "buildinfo":
		next = "No attestations are made. Leave it out."
	case "context":
		next = "There is one store. Leave it out."
	case "dangling-name-prefix":
		next = "Give a name with name= or -t, or take the image's id from --iidfile."
	}
	if yes, err := strconv.ParseBool(v); next == "" || err == nil && !yes {
		return next != "", nil
	}
	return true, errs.WithHint(errs.New(errs.Unsupported, k+" of an output is not supported"), next)
}

// Check refuses keys that mean nothing to the type and values that the key does
// not have.
func (s Spec) Check() error {
	attrs := maps.Clone(s.Attrs)
	for k := range s.Attrs {
		if strings.HasPrefix(k, "annotation") && s.Type != "local" && s.Type != "tar" {
			if _, err := parseAnnotationKey(k); err != nil {
				return err
			}
			delete(attrs, k)
		}
	}
	return check("output type "+s.Type, keys(s.Type), attrs)
}

// Check refuses keys that mean nothing to the type and values that the key does
// not have; to says that the cache is written.
func (c CacheSpec) Check(to bool) error {
	known := []string{"mode"} // which says what is kept: a reader takes all that is there
	attrs := maps.Clone(c.Attrs)
	switch {
	case c.Type == "registry":
		known = append(known, "ref", "registry.insecure?")
	case c.Type == "local" && to:
		known = append(known, "dest")
	case c.Type == "local":
		known = append(known, "src", "digest")
	default:
		known = nil
	}
	if to && known != nil {
		known = append(known, "compression", "compression-level", "force-compression?", "ignore-error?", "oci-mediatypes?", "image-manifest?")
	}
	if mode, ok := attrs["mode"]; ok && known != nil {
		if mode != "min" && mode != "max" {
			return errs.New(errs.Invalid, fmt.Sprintf("unsupported mode %q of a cache: it is min or max", mode))
		}
		delete(attrs, "mode")
	}
	if err := check("a cache of type "+c.Type, known, attrs); err != nil {
		return err
	}
	for _, k := range []string{"oci-mediatypes", "image-manifest"} {
		if !flag(attrs, k, true) {
			return errs.WithHint(errs.New(errs.Unsupported, k+"=false of a cache is not supported"), "A cache is an OCI image's manifest. Leave it out.")
		}
	}
	return nil
}

// check checks the keys that what has, of which those that are true or false end in "?".
func check(what string, known []string, attrs map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		v := attrs[k]
		if is, err := without(k, v); err != nil {
			return err
		} else if is {
			continue
		}
		yesNo := slices.Contains(known, k+"?")
		if !yesNo && !slices.Contains(known, k) {
			hint := "Leave it out."
			if len(known) > 0 {
				hint = "It has " + strings.ReplaceAll(strings.Join(known, ", "), "?", "") + "."
			}
			return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("unknown key %q of %s", k, what)), hint)
		}
		if yesNo && v != "" {
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

// checkValue checks the values of outputs and of caches, which share keys.
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
		n, err := strconv.Atoi(v)
		if err != nil {
			return errs.New(errs.Invalid, fmt.Sprintf("non-int value %q specified for compression-level", v))
		}
		if n < 1 || n > 22 {
			return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("compression-level=%d: gzip has 1 to 9, zstd 1 to 22", n)), "For none, use compression=uncompressed.")
		}
	case "mode":
		if v != "copy" && v != "delete" {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid mode %q of a local output: it is copy or delete", v))
		}
	}
	return nil
}

// Flag reports whether a key is set and not false; def if it is not there.
func (s Spec) Flag(key string, def bool) bool { return flag(s.Attrs, key, def) }

// Flag is [Spec.Flag].
func (c CacheSpec) Flag(key string, def bool) bool { return flag(c.Attrs, key, def) }

func flag(attrs map[string]string, key string, def bool) bool {
	v, ok := attrs[key]
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
	Level    string        // manifest, index, manifest-descriptor, index-descriptor
	Platform *oci.Platform // of a manifest: for this one only; nil: for all
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
		platform, err := oci.ParsePlatform(p[:end], oci.HostPlatform())
		if err != nil {
			return a, bad
		}
		platform = platform.Normalize()
		a.Platform, rest = &platform, p[end+1:]
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
