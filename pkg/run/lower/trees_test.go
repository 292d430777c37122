package lower

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTreesAndMemory(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, `cat /tree/sub/low /tree/sub/top; touch /tree/x 2>/dev/null || echo tree read-only
		cat /one; ls /up; echo new > /up/new && echo up written
		cat /etc/deep/secret; stat -c '%a %u' /etc/deep/secret; (echo x > /etc/deep/secret) 2>/dev/null || echo secret read-only
		/scripts/run`)
	dir := func(name string, files ...string) string {
		t.Helper()
		d := filepath.Join(c.dir, name)
		for _, f := range files {
			p := filepath.Join(d, f)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(filepath.Base(f)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	low, top := dir("low", "d/sub/low", "d/sub/both"), dir("top", "d/sub/top", "one")
	// A link of the tree's leads nowhere but below its root.
	if err := os.Symlink("/../../../../d", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	xattr := c.o.Overlay.UserXattr
	c.o.Trees = []Tree{
		{Target: "/tree", Path: "/link", Layers: Overlay{Lower: []string{top, low}, UserXattr: xattr}},
		{Target: "/one", Path: "/one", Layers: Overlay{Lower: []string{top}}},
		{Target: "/up", Path: "/d/sub", Layers: Overlay{Lower: []string{low}, Upper: dir("tree-upper"), Work: dir("tree-work"), UserXattr: xattr}},
	}
	c.o.Memory = []Memory{
		{Target: "/etc/deep/secret", ReadOnly: true, Files: []MemoryFile{{Data: []byte("hidden\n"), Mode: 0o400}}},
		{Target: "/scripts", ReadOnly: true, Files: []MemoryFile{{Name: "run", Data: []byte("#!/bin/sh\necho script runs\n"), Mode: 0o755}}},
	}
	out := mustRun(t, c)
	want := "low\ntop\ntree read-only\none\nboth\nlow\nup written\nhidden\n400 0\nsecret read-only\nscript runs\n"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "tree-upper", "new")); err != nil {
		if _, err := os.Stat(filepath.Join(c.dir, "tree-upper", "d/sub/new")); err != nil {
			t.Error("what was written is not in the upper directory: ", err)
		}
	}
	c.o.Trees[0].Path = "/nosuch"
	if _, _, err := c.run(t); err == nil || !strings.Contains(err.Error(), "/tree") {
		t.Errorf("a part that is not there: %v", err)
	}
}
