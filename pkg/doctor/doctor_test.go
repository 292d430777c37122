package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/test/golden"
)

// Facts recorded on machines that the tests' one is not, judged as there.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var f Facts
			if err := json.Unmarshal(text, &f); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, l := range Judge(f) {
				fmt.Fprintf(&b, "%s %s: %s\n", l.Level, l.Topic, l.Text)
				if l.Fix != "" {
					fmt.Fprintf(&b, "\t%s\n", l.Fix)
				}
			}
			golden.Text(t, strings.TrimSuffix(file, ".json")+".txt", b.String())
		})
	}
}

// Every thing that is not ok says what to do, unless nothing can be done.
func TestFixes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var f Facts
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatal(err)
		}
		for _, l := range Judge(f) {
			if l.Level == Bad && l.Fix == "" {
				t.Errorf("%s: %s: %s: no fix", file, l.Topic, l.Text)
			}
			if l.Text == "" || strings.Contains(l.Text, "%!") || strings.Contains(l.Fix, "%!") {
				t.Errorf("%s: %+v", file, l)
			}
		}
	}
}

func TestProcMasked(t *testing.T) {
	for text, masked := range map[string]bool{
		"22 1 0:5 / /proc rw - proc proc rw\n":                                              false,
		"22 1 0:5 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n":                            false,
		"22 1 0:5 / /proc rw - proc proc rw\n23 22 0:6 /null /proc/kcore rw - tmpfs x rw\n": true,
	} {
		if procMasked(text) != masked {
			t.Error(text)
		}
	}
}
