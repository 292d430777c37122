package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
)

// filters are the values of each key of --filter.
type filters map[string][]string

// filterKeys are the keys that images knows: Docker's, then Podman's.
var filterKeys = []string{"dangling", "label", "before", "since", "reference", "until", "id", "digest", "readonly", "after"}

func parseFilters(args []string) (filters, error) {
	return flags.Filters("-f, --filter", args, filterKeys...)
}

// choose returns the images that all filters let through. Several values of
// one key: one must match, but all labels must.
func choose(ctx context.Context, r lister, imgs []*storage.Image, f filters, now time.Time) ([]*storage.Image, error) {
	var tests []func(*storage.Image) (bool, error)
	for _, key := range slices.Sorted(maps.Keys(f)) {
		test, err := filterFor(ctx, r, key, f[key], now)
		if err != nil {
			return nil, err
		}
		tests = append(tests, test)
	}
	var chosen []*storage.Image
next:
	for _, img := range imgs {
		for _, test := range tests {
			if ok, err := test(img); err != nil {
				return nil, err
			} else if !ok {
				continue next
			}
		}
		chosen = append(chosen, img)
	}
	return chosen, nil
}

type imageTest = func(*storage.Image) (bool, error)

// plain makes a test that cannot fail.
func plain(is func(*storage.Image) bool) imageTest {
	return func(img *storage.Image) (bool, error) { return is(img), nil }
}

func filterFor(ctx context.Context, r lister, key string, values []string, now time.Time) (imageTest, error) {
	switch key {
	case "dangling", "readonly":
		want, err := parseBool(key, values)
		if err != nil {
			return nil, err
		}
		return plain(func(img *storage.Image) bool {
			if key == "readonly" {
				return img.ReadOnly == want
			}
			return (len(img.Names) == 0) == want
		}), nil
	case "before", "since", "after":
		var moments []time.Time
		for _, v := range values {
			other, err := findImage(ctx, r, v)
			if err != nil {
				return nil, err
			}
			moments = append(moments, other.Created)
		}
		return plain(func(img *storage.Image) bool {
			return slices.ContainsFunc(moments, func(m time.Time) bool {
				if key == "before" {
					return img.Created.Before(m)
				}
				return img.Created.After(m)
			})
		}), nil
	case "until":
		if len(values) > 1 {
			return nil, errors.New("more than one until filter specified")
		}
		t, err := units.ParseTime(values[0], now, time.Local)
		if err != nil {
			return nil, err
		}
		return plain(func(img *storage.Image) bool { return img.Created.Before(t) }), nil
	case "label":
		return func(img *storage.Image) (bool, error) {
			c, err := configOf(ctx, r, img)
			return err == nil && hasLabels(c.Config.Labels, values), err
		}, nil
	case "id":
		return plain(func(img *storage.Image) bool {
			return slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(img.ID, strings.TrimPrefix(v, "sha256:")) })
		}), nil
	case "digest":
		return plain(func(img *storage.Image) bool {
			return slices.ContainsFunc(append([]string{img.Digest}, img.Digests...), func(d string) bool {
				return slices.ContainsFunc(values, func(v string) bool {
					return strings.HasPrefix(strings.TrimPrefix(d, "sha256:"), strings.TrimPrefix(v, "sha256:"))
				})
			})
		}), nil
	}
	// reference: the rows are chosen by it too
	return plain(func(img *storage.Image) bool {
		return slices.ContainsFunc(img.Names, func(n string) bool {
			ref, err := oci.Parse(n)
			return err == nil && matchesAny(ref, values)
		})
	}), nil
}

func parseBool(key string, values []string) (bool, error) {
	want := false
	for i, v := range values {
		b, err := strconv.ParseBool(v)
		if err != nil || i > 0 && b != want {
			return false, fmt.Errorf("invalid filter '%s=%s'", key, v)
		}
		want = b
	}
	return want, nil
}

func hasLabels(labels map[string]string, want []string) bool {
	for _, w := range want {
		k, v, hasValue := strings.Cut(w, "=")
		got, ok := labels[k]
		if !ok || hasValue && got != v {
			return false
		}
	}
	return true
}

// matchesAny reports whether ref is meant by one of the patterns: globs on the
// familiar name, with or without tag, or any spelling of the reference itself.
// No pattern means all.
func matchesAny(ref oci.Reference, patterns []string) bool {
	if len(patterns) == 0 {
		return true
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		for _, name := range []string{ref.Familiar(), ref.FamiliarName(), ref.String(), ref.Name()} {
			if ok, err := path.Match(p, name); ok && err == nil {
				return true
			}
		}
		want, err := oci.Parse(p)
		if err != nil || want.Name() != ref.Name() {
			return false
		}
		return want.Tag == "" && want.Digest == "" || want.String() == ref.String()
	})
}

// findImage finds what the user typed.
func findImage(ctx context.Context, r engine.Finder, typed string) (*storage.Image, error) {
	img, _, err := engine.FindImage(ctx, r, typed)
	return img, err
}
