package oci

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// DefaultDomain is the registry of names that name none.
const DefaultDomain = "docker.io"

// defaultTag is the tag of references that have neither tag nor digest.
const defaultTag = "latest"

// maxName is the longest Domain/Path that Docker and registries accept.
const maxName = 255

// Reference names an image in a registry, in normal form: Domain and Path are
// never empty. With both a tag and a digest, the digest decides and the tag is
// for display.
type Reference struct {
	Domain string // "docker.io", "localhost:5000", "[::1]:5000"
	Path   string // "library/alpine"
	Tag    string // "3.20" or ""
	Digest string // "sha256:" and 64 hexadecimal digits, or ""
}

// Parse reads what a user typed, by Docker's grammar
// ([domain/]path[:tag][@digest]), into normal form. No tag is added: see
// [Reference.WithDefaultTag]. Errors have Docker's words and are Invalid.
func Parse(s string) (Reference, error) {
	if s == "" {
		return Reference{}, errs.New(errs.Invalid, "invalid reference format: empty name")
	}
	if len(s) == 64 && isLowerHex(s) {
		return Reference{}, invalid("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	r := Reference{Domain: DefaultDomain}
	rest := s
	if first, after, ok := strings.Cut(s, "/"); ok && isDomain(first) {
		r.Domain, rest = first, after
	}
	if r.Domain == "index.docker.io" {
		r.Domain = DefaultDomain
	}
	if r.Domain == DefaultDomain && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}

	var hasTag, hasDigest bool
	r.Path, r.Digest, hasDigest = strings.Cut(rest, "@")
	r.Path, r.Tag, hasTag = strings.Cut(r.Path, ":")
	switch {
	case strings.ToLower(r.Path) != r.Path:
		return Reference{}, invalid("invalid reference format: repository name (%s) must be lowercase", r.Path)
	case strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://"):
		return Reference{}, errs.WithHint(invalid("invalid reference format: %q", s), "Leave out what is before the registry's name: the scheme is found out.")
	case !validDomain(r.Domain) || !validPath(r.Path) || hasTag && !ValidTag(r.Tag):
		return Reference{}, invalid("invalid reference format: %q", s)
	case len(r.Domain)+1+len(r.Path) > maxName:
		return Reference{}, invalid("repository name must not be more than %d characters", maxName)
	}
	if hasDigest {
		if err := ValidateDigest(r.Digest); err != nil {
			return Reference{}, invalid("invalid reference format: %q: %w", s, err)
		}
	}
	return r, nil
}

// Taggable says whether an image here can be given the name.
func (r Reference) Taggable() error {
	switch {
	case r.Digest != "":
		return errs.New(errs.Invalid, "refusing to create a tag with a digest reference")
	case r.FamiliarName() == "sha256": // "sha256:f00" is an image's id
		return errs.New(errs.Invalid, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	return nil
}

// Name returns the repository with its registry: "docker.io/library/alpine".
func (r Reference) Name() string { return r.Domain + "/" + r.Path }

// String returns the normal form: "docker.io/library/alpine:3.20". This is the
// form of names in the store.
func (r Reference) String() string { return r.Name() + r.suffix() }

// Familiar returns the form that Docker shows: "alpine:3.20".
func (r Reference) Familiar() string { return r.FamiliarName() + r.suffix() }

// FamiliarName returns the repository as Docker shows it: "alpine".
func (r Reference) FamiliarName() string {
	if first, _, ok := strings.Cut(r.Path, "/"); r.Domain != DefaultDomain || ok && isDomain(first) {
		return r.Name() // short, it would read back as another name
	}
	// Only one component is short for library/x: library/x/y is its own name.
	if p, ok := strings.CutPrefix(r.Path, "library/"); ok && !strings.Contains(p, "/") {
		return p
	}
	return r.Path
}

// suffix is all behind the name.
func (r Reference) suffix() string {
	var s string
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// WithDefaultTag returns r with the tag "latest" if it has neither tag nor
// digest.
func (r Reference) WithDefaultTag() Reference {
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r
}

// WithTag returns r with the tag alone.
func (r Reference) WithTag(tag string) Reference {
	r.Tag, r.Digest = tag, ""
	return r
}

// WithDigest returns r with the digest alone: the form of the names by which a
// store remembers where an image came from.
func (r Reference) WithDigest(digest string) Reference {
	r.Tag, r.Digest = "", digest
	return r
}

// ValidateDigest returns an Invalid error unless d is "sha256:" and 64
// lower-case hexadecimal digits. Digests become file names and URLs, so every
// one that comes from outside passes here first.
func ValidateDigest(d string) error {
	algorithm, hex, ok := strings.Cut(d, ":")
	switch {
	case !ok:
		return invalid("invalid checksum digest format: %q", d)
	case algorithm != "sha256":
		return invalid("unsupported digest algorithm: %q", d)
	case len(hex) != 64:
		return invalid("invalid checksum digest length: %q", d)
	case !isLowerHex(hex):
		return invalid("invalid checksum digest format: %q", d)
	}
	return nil
}

// ValidTag reports whether t is a tag: a letter, digit or underscore, and up to
// 127 more of these, dots and dashes.
func ValidTag(t string) bool {
	if t == "" || len(t) > 128 || t[0] == '.' || t[0] == '-' {
		return false
	}
	for i := range len(t) {
		if c := t[i]; !isAlnum(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// isDomain reports whether the first component of a name is a registry rather
// than a part of the path: Docker's rule, which asks no name server.
func isDomain(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost" || strings.ToLower(s) != s
}

// validDomain reports whether s is a host name, an IPv4 address or an IPv6
// address in brackets, with or without a port.
func validDomain(s string) bool {
	host, port := s, "0"
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 || !isIPv6(s[1:end]) {
			return false
		}
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return false
			}
			port = rest[1:]
		}
		return isDigits(port)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return isDigits(port)
}

// validPath reports whether each component is letters and digits, joined by one
// dot, one or two underscores, or any number of dashes.
func validPath(s string) bool {
	for c := range strings.SplitSeq(s, "/") {
		if !validComponent(c) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		n := i
		for n < len(s) && !isAlnum(s[n]) {
			n++
		}
		switch sep := s[i:n]; {
		case sep == "": // a letter or digit
			n++
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
		i = n
	}
	return true
}

// isIPv6 checks the characters only, as Docker does: an address that does not
// exist fails when it is dialled.
func isIPv6(s string) bool {
	for i := range len(s) {
		if !isHex(s[i]) && s[i] != ':' {
			return false
		}
	}
	return s != ""
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if !isHex(s[i]) || s[i] >= 'A' && s[i] <= 'F' {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func invalid(format string, args ...any) error {
	return errs.E("", errs.Invalid, fmt.Errorf(format, args...))
}
