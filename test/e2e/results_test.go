package e2e

import (
	"slices"
	"strings"
	"testing"
)

// result is a script's, as another process of this test has printed it.
type result struct{ name, verdict, output string }

// parseResults reads what a verbose test prints. The scripts run side by side,
// so each line of output follows a mark that says whose it is.
func parseResults(text string) []result {
	out := map[string]*strings.Builder{}
	var results []result
	current := ""
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 3 && f[0] == "===":
			current = f[2]
			if f[1] == "RUN" {
				out[current] = &strings.Builder{}
			}
		case len(f) >= 3 && f[0] == "---":
			current = "" // verbose tests print as they go, so nothing of it follows
			// Only a script's, TestScripts/<dir>/<script>, or a Dockerfile's, TestCorpus/<case>.
			verdict := strings.TrimSuffix(f[1], ":")
			if parts := strings.Split(f[2], "/"); len(parts) == 3 {
				results = append(results, result{name: parts[1] + "/" + parts[2], verdict: verdict})
			} else if len(parts) == 2 && parts[0] == "TestCorpus" {
				results = append(results, result{name: "corpus/" + parts[1], verdict: verdict})
			}
		default:
			if b := out[current]; b != nil {
				b.WriteString(line)
			}
		}
	}
	for i, r := range results {
		from := "TestScripts/" + r.name
		if c, ok := strings.CutPrefix(r.name, "corpus/"); ok {
			from = "TestCorpus/" + c
		}
		if b := out[from]; b != nil {
			results[i].output = b.String()
		}
	}
	return results
}

// reason is what a skipped script said.
func (r result) reason() string {
	for _, l := range slices.Backward(strings.Split(r.output, "\n")) {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		if _, text, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

func TestParseResults(t *testing.T) {
	got := parseResults(`=== RUN   TestScripts
=== RUN   TestScripts/script
=== RUN   TestScripts/script/a
=== PAUSE TestScripts/script/a
=== RUN   TestScripts/script/b
=== CONT  TestScripts/script/a
    testscript.go:1: a failed
=== NAME  TestScripts/script/b
    testscript.go:1: needs root
--- FAIL: TestScripts (0.1s)
    --- FAIL: TestScripts/script (0.1s)
        --- FAIL: TestScripts/script/a (0.1s)
        --- SKIP: TestScripts/script/b (0.1s)
=== RUN   TestCorpus
=== RUN   TestCorpus/c
    corpus_test.go:1: c failed
--- FAIL: TestCorpus (0.1s)
    --- FAIL: TestCorpus/c (0.1s)
FAIL
`)
	want := []result{
		{"script/a", "FAIL", "    testscript.go:1: a failed\n"},
		{"script/b", "SKIP", "    testscript.go:1: needs root\n"},
		{"corpus/c", "FAIL", "    corpus_test.go:1: c failed\n"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r := got[1].reason(); r != "needs root" {
		t.Errorf("reason %q", r)
	}
}
