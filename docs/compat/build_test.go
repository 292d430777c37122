package compat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// builds writes the table of build.txt, and looks that each test it names is there.
func builds(t *testing.T, b *strings.Builder) {
	t.Helper()
	data, err := os.ReadFile("build.txt")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "### Dockerfiles and build, row by row\n\n"+
		"Each row has tests. A name alone is a Dockerfile of `test/corpus`: its plan, config, messages and\n"+
		"lint findings are compared with those of BuildKit 0.33.1's converter (`make fidelity`), and, where it can be\n"+
		"built, the files and the config of the image with what `buildkitd` 0.33.1 made. What differs is in [builds](builds.md).\n")
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if section, ok := strings.CutPrefix(line, "= "); ok {
			fmt.Fprintf(b, "\n| %s | tests | differs |\n|---|---|---|\n", section)
			continue
		}
		cells := strings.Split(strings.ReplaceAll(line, "\\|", "\x00"), "|")
		if len(cells) != 3 {
			t.Fatalf("build.txt:%d: want three cells: %s", i+1, line)
		}
		var names []string
		for _, f := range strings.Fields(cells[1]) {
			kind, name, _ := strings.Cut(f, ":")
			if err := thereIs(kind, name); err != nil {
				t.Errorf("build.txt:%d: %v", i+1, err)
			}
			switch kind {
			case "s":
				name = "script " + name
			case "g":
				name = "`" + name + "`"
			}
			names = append(names, name)
		}
		if len(names) == 0 {
			t.Errorf("build.txt:%d: no test: %s", i+1, line)
		}
		what := strings.ReplaceAll(strings.TrimSpace(cells[0]), "\x00", "\\|")
		fmt.Fprintf(b, "| %s | %s | %s |\n", what, strings.Join(names, ", "), strings.TrimSpace(cells[2]))
	}
	fmt.Fprintln(b)
}

// thereIs looks for a test that build.txt names.
func thereIs(kind, name string) error {
	switch kind {
	case "c":
		_, err := os.Stat(filepath.Join("../../test/corpus", name+".txtar"))
		return err
	case "s":
		for _, dir := range []string{"script", "root"} {
			if _, err := os.Stat(filepath.Join("../../test/e2e/testdata", dir, name+".txtar")); err == nil {
				return nil
			}
		}
		return fmt.Errorf("no script %s", name)
	case "g":
		dir, test, _ := strings.Cut(name, ".")
		files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
		if err != nil {
			return err
		}
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), "func "+test+"(") {
				return nil
			}
		}
		return fmt.Errorf("no test %s", name)
	}
	return fmt.Errorf("what is %s:%s", kind, name)
}
