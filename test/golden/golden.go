// Package golden compares what a test made with a file that is checked in, and
// rewrites the file when the test runs with -update. Review the diff then.
package golden

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// It is a flag and not an environment variable, so that it is part of the test
// cache's key.
var update = flag.Bool("update", false, "rewrite golden files")

// Updating reports whether the test runs with -update.
func Updating() bool { return *update }

// Text compares got with the file at path.
func Text(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run go test with -update to make it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it):\n%s", path, Diff(string(want), got))
	}
}

// JSON compares v, as indented JSON, with the file at path.
func JSON(t *testing.T, path string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	Text(t, path, b.String())
}

// Diff shows the lines of want and got between their common beginning and their
// common end: enough to see what moved, with nothing to install.
func Diff(want, got string) string {
	w, g := strings.SplitAfter(want, "\n"), strings.SplitAfter(got, "\n")
	first := 0
	for first < len(w) && first < len(g) && w[first] == g[first] {
		first++
	}
	lastW, lastG := len(w), len(g)
	for lastW > first && lastG > first && w[lastW-1] == g[lastG-1] {
		lastW--
		lastG--
	}
	var b strings.Builder
	show := func(mark string, lines []string) {
		for _, l := range lines {
			b.WriteString(mark)
			b.WriteString(strings.TrimSuffix(l, "\n"))
			b.WriteByte('\n')
		}
	}
	show("  ", w[max(0, first-2):first])
	show("- ", w[first:lastW])
	show("+ ", g[first:lastG])
	return b.String()
}
