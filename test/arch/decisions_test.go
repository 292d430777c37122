package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDecisions: a decision's number is that of its file, and no other's.
func TestDecisions(t *testing.T) {
	files, err := filepath.Glob("../../docs/decisions/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal("no decisions found", err)
	}
	seen := map[string]string{}
	name := regexp.MustCompile(`^(\d{4})-[a-z0-9-]+\.md$`)
	title := regexp.MustCompile(`^# 0*(\d+)[.:] \S`)
	for _, f := range files {
		base := filepath.Base(f)
		m := name.FindStringSubmatch(base)
		if m == nil {
			t.Errorf("%s: not NNNN-title.md", base)
			continue
		}
		if other := seen[m[1]]; other != "" {
			t.Errorf("%s and %s have one number: give the newer one the next that is free", other, base)
		}
		seen[m[1]] = base
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		h := title.FindSubmatch(text)
		if h == nil || len(h[1]) > 4 || "0000"[len(h[1]):]+string(h[1]) != m[1] {
			t.Errorf("%s: its title has to begin with '# %s. '", base, m[1])
		}
	}
}
