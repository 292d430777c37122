package arch

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/test/golden"
)

// The page lists by hand why each module is there, and below these lines what is
// linked; growth shows in review.
const (
	depsPage  = "../../docs/dependencies.md"
	depsBegin = "<!-- made by make deps: begin -->\n"
	depsEnd   = "<!-- made by make deps: end -->\n"
)

func TestDependencies(t *testing.T) {
	packages := load(t, true, nil, "./cmd/...")
	byModule := map[string][]string{}
	for path, p := range packages {
		switch {
		case p.Standard || p.Module == nil || p.Module.Path == module:
		default:
			name := p.Module.Path + " " + p.Module.Version
			byModule[name] = append(byModule[name], path)
		}
	}
	var b strings.Builder
	for _, name := range sortedKeys(byModule) {
		list := byModule[name]
		slices.Sort(list)
		fmt.Fprintf(&b, "\n**%s** (%d)\n\n", name, len(list))
		for _, p := range list {
			fmt.Fprintf(&b, "- %s\n", p)
		}
	}
	b.WriteString("\n")
	page, err := os.ReadFile(depsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), depsBegin)
	_, after, ok2 := strings.Cut(rest, depsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no lines %q and %q", depsPage, depsBegin, depsEnd)
	}
	golden.Text(t, depsPage, before+depsBegin+b.String()+depsEnd+after)

	// What it is there for is written by hand, for each module.
	for name := range byModule {
		mod, _, _ := strings.Cut(name, " ")
		if !strings.Contains(before, "`"+mod+"`") {
			t.Errorf("%s does not say why %s is there", depsPage, mod)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
