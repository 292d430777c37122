package compat

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// TestFlagsAreTested: each flag that a command on containers has in common with
// Docker's is used in some script or parity file.
func TestFlagsAreTested(t *testing.T) {
	root := cli.NewRoot("cais", engine.New(engine.Options{}), ui.Streams{})
	_, flags := readLines(t, "docker.txt")
	lines := scriptLines(t)
	for _, name := range []string{
		"attach", "commit", "cp", "create", "diff", "events", "exec", "export", "inspect", "kill", "logs", "pause", "port", "ps", "rename", "restart", "rm",
		"run", "start", "stats", "stop", "top", "unpause", "update", "wait", "container prune", "volume create", "volume inspect", "volume ls", "volume prune", "volume rm",
	} {
		cmd := find(root, name)
		if cmd == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		words := strings.Fields(name)
		last := words[len(words)-1:]
		if name == "create" || name == "run" { // the flags are one list
			last = []string{"create", "run"}
		}
		for _, f := range strings.Fields(flags[name]) {
			long, _, _ := strings.Cut(f, ",")
			flag := cmd.Flags().Lookup(long)
			if flag == nil || later(flag) || flag.Deprecated != "" {
				continue
			}
			if !slices.ContainsFunc(lines, func(line []string) bool { return uses(line, last, flag) }) {
				t.Errorf("%s --%s is used in no script", name, long)
			}
		}
	}
}

// uses reports whether the words of a line have flag behind one of the commands.
func uses(line, commands []string, flag *pflag.Flag) bool {
	at := slices.IndexFunc(line, func(w string) bool { return slices.Contains(commands, w) })
	return at >= 0 && slices.ContainsFunc(line[at:], func(w string) bool {
		w, _, _ = strings.Cut(w, "=")
		short := len(w) > 1 && w[0] == '-' && w[1] != '-' && flag.Shorthand != "" && strings.Contains(w, flag.Shorthand)
		return short || w == "--"+flag.Name
	})
}

// scriptLines are the lines of all scripts, as words.
func scriptLines(t *testing.T) (lines [][]string) {
	t.Helper()
	tree := os.DirFS("../../test/e2e/testdata")
	err := fs.WalkDir(tree, ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".txtar" && path.Ext(name) != ".parity" {
			return err
		}
		text, err := fs.ReadFile(tree, name)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "cais ") || strings.Contains(line, "docker ") {
				lines = append(lines, strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(" \t\n'\"`$();", c) }))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
