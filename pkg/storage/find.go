package storage

import (
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

func find(imgs []*Image, refs []string) (*Image, error) {
	for _, ref := range refs {
		img, err := match(imgs, ref)
		if img != nil || err != nil {
			return img, err
		}
	}
	name := ""
	if len(refs) > 0 {
		name = familiar(refs[0])
	}
	return nil, errs.New(errs.NotFound, "no such image: "+name)
}

// familiar is how Docker shows a name.
func familiar(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

func match(imgs []*Image, ref string) (*Image, error) {
	for _, img := range imgs {
		if slices.Contains(img.Names, ref) {
			return img, nil
		}
	}
	if name, digest, ok := strings.Cut(ref, "@"); ok {
		return matchDigest(imgs, repository(name), digest), nil
	}
	prefix, full := strings.CutPrefix(ref, "sha256:")
	if prefix == "" || len(prefix) > 64 || !isHex(prefix) {
		return nil, nil
	}
	var found *Image
	for _, img := range imgs {
		if img.ID == prefix {
			return img, nil
		}
		if !strings.HasPrefix(img.ID, prefix) {
			continue
		}
		if found != nil {
			return nil, errs.WithHint(errs.New(errs.Invalid, "multiple IDs found with provided prefix: "+ref), "Give more digits of the id.")
		}
		found = img
	}
	if found == nil && full { // Docker takes a manifest's digest for an id, too
		for _, img := range imgs {
			if slices.Contains(img.Digests, ref) {
				return img, nil
			}
		}
	}
	return found, nil
}

// matchDigest finds the image with a manifest of this digest that came from the
// repository. Images that lost their names count by those they had.
func matchDigest(imgs []*Image, repo, digest string) *Image {
	for _, img := range imgs {
		if !slices.Contains(img.Digests, digest) {
			continue
		}
		for _, name := range slices.Concat(img.Names, img.History) {
			if repository(name) == repo {
				return img
			}
		}
	}
	return nil
}

// repository is a reference without its tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
