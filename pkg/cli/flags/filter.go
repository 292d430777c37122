package flags

import (
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/errs"
)

// Filters reads what was typed with --filter, KEY=VALUE each, into the values of
// each key. A key that is not one of keys is refused. flag is how the command spells
// the flag in errors.
func Filters(flag string, args []string, keys ...string) (map[string][]string, error) {
	values := map[string][]string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return nil, ui.Exit(ui.CodeUsage, fmt.Errorf("invalid argument %q for %q flag: bad format of filter (expected name=value)", a, flag))
		}
		k = strings.ToLower(strings.TrimSpace(k))
		if !slices.Contains(keys, k) {
			return nil, errs.New(errs.Invalid, "invalid filter '"+k+"'")
		}
		values[k] = append(values[k], strings.TrimSpace(v))
	}
	return values, nil
}
