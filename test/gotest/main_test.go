package main

import (
	"slices"
	"strings"
	"testing"
)

func TestShow(t *testing.T) {
	in := `{"Action":"run","Package":"cais.dev/cais/p","Test":"TestA"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestA","Output":"    a_test.go:7: needs root\n"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"cais.dev/cais/p","Test":"TestA"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestS","Output":"    testscript.go:609: WORK=$WORK\n"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestS","Output":"        > [!exec:jq] skip 'jq is not installed'\n"}
{"Action":"skip","Package":"cais.dev/cais/p","Test":"TestS"}
{"Action":"output","Package":"cais.dev/cais/p","Test":"TestB","Output":"    b_test.go:7: wrong\n"}
{"Action":"fail","Package":"cais.dev/cais/p","Test":"TestB"}
{"Action":"output","Package":"cais.dev/cais/p","Output":"FAIL\tcais.dev/cais/p\t0.1s\n"}
{"Action":"skip","Package":"cais.dev/cais/q"}
`
	var out strings.Builder
	got, err := show(strings.NewReader(in), &out)
	if err != nil {
		t.Fatal(err)
	}
	if want := []skip{{"p.TestA", "needs root"}, {"p.TestS", "jq is not installed"}}; !slices.Equal(got, want) {
		t.Errorf("skips %v, want %v", got, want)
	}
	if want := "    b_test.go:7: wrong\nFAIL\tcais.dev/cais/p\t0.1s\n"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
}

func TestReport(t *testing.T) {
	rules, err := parseRules("root | p\\.TestA | ^needs a disk\n# comment\nany | q.* | x")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind string
		skip skip
		bad  int
	}{
		{"root", skip{"p.TestA", "needs a disk of its own"}, 0},
		{"user", skip{"p.TestA", "needs a disk of its own"}, 1},
		{"root", skip{"p.TestA", "was lazy"}, 1},
		{"user", skip{"q.TestZ/sub", "x"}, 0},
	} {
		if got := report(&strings.Builder{}, []skip{tt.skip}, rules, tt.kind); got != tt.bad {
			t.Errorf("%s %v: %d unexpected, want %d", tt.kind, tt.skip, got, tt.bad)
		}
	}
	if _, err := parseRules("nowhere | a | b"); err == nil {
		t.Error("an unknown kind is accepted")
	}
}

func TestSkipsFileParses(t *testing.T) {
	if _, err := parseRules(expected); err != nil {
		t.Fatal(err)
	}
}
