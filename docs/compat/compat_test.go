// Package compat keeps docs/compat.md: what Docker has, held against the tree of
// commands. It is only a test, which rewrites the page with -update.
package compat

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/test/golden"
)

const (
	page  = "../compat.md"
	begin = "<!-- made by go test ./docs/compat -update: begin -->\n"
	end   = "<!-- made by go test ./docs/compat -update: end -->\n"
)

// readLines reads "key: value" lines; # starts a comment.
func readLines(t *testing.T, path string) (keys []string, values map[string]string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]string{}
	for i, l := range strings.Split(string(data), "\n") {
		if l == "" || l[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(l, ":")
		if !ok {
			t.Fatalf("%s:%d: no colon", path, i+1)
		}
		if _, twice := values[k]; twice {
			t.Errorf("%s:%d: %s is there twice", path, i+1, k)
		}
		keys, values[k] = append(keys, k), strings.TrimSpace(v)
	}
	return keys, values
}

// find looks a command up; nil if it is not there or only says that it is not
// there yet.
func find(root *cobra.Command, path string) *cobra.Command {
	cmd, rest, err := root.Find(strings.Fields(path))
	if err != nil || len(rest) > 0 || cmd == root || cmd.Hidden || cmd.DisableFlagParsing && cmd.Name() != "completion" {
		return nil
	}
	return cmd
}

func TestPage(t *testing.T) {
	root := cli.NewRoot("cais", engine.New(engine.Options{}), ui.Streams{})
	commands, flags := readLines(t, "docker.txt")
	_, notes := readLines(t, "notes.txt")
	used := map[string]bool{}
	note := func(key string) string {
		if n, ok := notes[key]; ok {
			used[key] = true
			return n
		}
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n| command | state | flags that differ or are missing |\n|---|---|---|\n")
	for _, name := range commands {
		cmd := find(root, name)
		state, text := "same", ""
		if cmd == nil {
			state = "missing"
		} else {
			cmd.InitDefaultHelpFlag()
			var differs []string
			for _, f := range strings.Fields(flags[name]) {
				long, short, _ := strings.Cut(f, ",")
				has := cmd.Flags().Lookup(long)
				why := note(name + " --" + long)
				switch {
				case has == nil:
					differs = append(differs, "`--"+long+"` missing"+join(why))
				case later(has):
					differs = append(differs, "`--"+long+"` not yet"+join(why))
				case short != has.Shorthand && short != "":
					t.Errorf("%s --%s: short form %q, Docker's is %q", name, long, has.Shorthand, short)
				case why != "":
					differs = append(differs, "`--"+long+"`: "+why)
				}
			}
			if text = strings.Join(differs, "; "); strings.HasSuffix(name, "run") || strings.HasSuffix(name, "create") {
				text = "see below"
			}
		}
		if n := note(name); n != "" {
			if state == "same" {
				state = "differs"
			}
			text = strings.TrimPrefix(text+"; "+n, "; ")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, state, text)
	}
	fmt.Fprintf(&b, "\n### run and create, flag by flag\n\n| flag | state |\n|---|---|\n")
	run := find(root, "run")
	if run == nil {
		t.Fatal("there is no run")
	}
	for _, f := range strings.Fields(flags["run"]) {
		long, short, _ := strings.Cut(f, ",")
		name := "`--" + long + "`"
		if short != "" {
			name = "`-" + short + "`, " + name
		}
		has := run.Flags().Lookup(long)
		state := "same"
		switch text := notes["run --"+long]; {
		case has == nil:
			state = "missing" + join(text)
		case later(has):
			state = "not yet: fails by name" + join(text)
		case text != "":
			state = "differs: " + text
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, state)
	}
	fmt.Fprintf(&b, "\nBeyond Docker's: %s.\n\n", strings.Join(beyond(run, flags["run"]), ", "))

	builds(t, &b)

	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has lost its marks", page)
	}
	golden.Text(t, page, before+begin+b.String()+end+after)
	for k := range notes {
		if !used[k] {
			t.Errorf("notes.txt: nothing of Docker's is called %q", k)
		}
	}
}

func join(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// later reports whether a flag is only there to fail by its name.
func later(f *pflag.Flag) bool { return strings.HasPrefix(f.Usage, "Not supported yet: ") }

// beyond lists the flags that Docker does not have.
func beyond(cmd *cobra.Command, dockers string) []string {
	var known, more []string
	for _, f := range strings.Fields(dockers) {
		long, _, _ := strings.Cut(f, ",")
		known = append(known, long)
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(known, f.Name) && !f.Hidden && f.Name != "help" {
			more = append(more, "`--"+f.Name+"`")
		}
	})
	return more
}
