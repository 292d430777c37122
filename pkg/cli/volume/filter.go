package volume

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/volume"
)

// filters are the values of each --filter key.
type filters struct {
	values map[string][]string
	names  []*regexp.Regexp
	at     map[string]time.Time // since, until
	used   func(name string) bool
}

// listKeys are Docker's, then Podman's.
var listKeys = [...]string{"dangling", "driver", "label", "name", "anonymous", "opt", "scope", "since", "until", "after", "label!"}

func pruneFilters(args []string) (*filters, error) {
	return parseFilters("--filter", args, "label", "label!", "until", "all")
}

func parseFilters(flag string, args []string, keys ...string) (*filters, error) {
	values, err := flags.Filters(flag, args, keys...)
	if err != nil {
		return nil, err
	}
	f := &filters{values: values, at: map[string]time.Time{}}
	return f, f.check()
}

func (f *filters) check() error {
	for _, key := range []string{"dangling", "anonymous", "all"} {
		for _, v := range f.values[key] {
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("invalid filter '%s=%s'", key, v)
			}
		}
	}
	for _, v := range f.values["name"] {
		re, err := regexp.Compile(v)
		if err != nil {
			re = regexp.MustCompile(regexp.QuoteMeta(v))
		}
		f.names = append(f.names, re)
	}
	if len(f.values["until"]) > 1 {
		return errors.New("more than one until filter specified")
	}
	for _, key := range []string{"since", "after", "until"} {
		for _, v := range f.values[key] {
			t, err := units.ParseTime(v, time.Now(), time.Local)
			if err != nil {
				return err
			}
			f.at[key] = t
		}
	}
	return nil
}

// match reports whether v passes every key. Of several values of one key one must
// match, but of labels all.
func (f *filters) match(v *volume.Volume) bool {
	for key, values := range f.values {
		ok := false
		switch key {
		case "label":
			ok = !slices.ContainsFunc(values, func(want string) bool { return !hasPair(v.Labels, want) })
		case "label!":
			ok = !slices.ContainsFunc(values, func(want string) bool { return hasPair(v.Labels, want) })
		case "name":
			ok = slices.ContainsFunc(f.names, func(re *regexp.Regexp) bool { return re.MatchString(v.Name) })
		case "since", "after":
			ok = v.Created.After(f.at[key])
		case "until":
			ok = v.Created.Before(f.at[key])
		default:
			ok = slices.ContainsFunc(values, func(want string) bool { return f.one(v, key, want) })
		}
		if !ok {
			return false
		}
	}
	return true
}

func (f *filters) one(v *volume.Volume, key, want string) bool {
	yes, _ := strconv.ParseBool(want) // checked
	switch key {
	case "dangling":
		return f.used(v.Name) != yes
	case "anonymous":
		return v.Anonymous == yes
	case "driver":
		return v.Driver == want
	case "scope":
		return want == "local"
	case "opt":
		return hasPair(v.Options, want)
	}
	return key == "all"
}

func hasPair(m map[string]string, want string) bool {
	k, value, valued := strings.Cut(want, "=")
	have, ok := m[k]
	return ok && (!valued || have == value)
}
