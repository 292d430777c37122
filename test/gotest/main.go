// Gotest runs `go test` with the arguments that it is given, shows what go test
// shows, and then holds every skipped test against skips.txt: a skip that is not
// expected on this kind of host is a failure, so that a test cannot fall silent.
package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// module is what names in skips.txt are without.
const module = "cais.dev/cais/"

//go:embed skips.txt
var expected string

func main() {
	code, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		code = 1
	}
	os.Exit(code)
}

// event is one line of `go test -json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
}

func run(args []string, out io.Writer) (int, error) {
	rules, err := parseRules(expected)
	if err != nil {
		return 1, err
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	skips, err := show(stdout, out)
	waitErr := cmd.Wait()
	if err != nil {
		return 1, err
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return 1, waitErr
	}
	bad := report(out, skips, rules, hostKind())
	switch {
	case exit != nil:
		return exit.ExitCode(), nil
	case bad > 0:
		return 1, fmt.Errorf("%d tests skipped without being expected to (test/gotest/skips.txt)", bad)
	}
	return 0, nil
}

// skip is a test that did not run, and why.
type skip struct{ name, reason string }

// show prints the stream as go test without -v would, and returns the skips.
func show(in io.Reader, out io.Writer) ([]skip, error) {
	var skips []skip
	output := map[string][]string{} // of the tests that have not ended
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 1<<16), 1<<24)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(out, sc.Text()) // a build failure, in plain text
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if e.Test == "" {
				if e.Output != "PASS\n" {
					io.WriteString(out, e.Output)
				}
				continue
			}
			output[key] = append(output[key], e.Output)
		case "pass":
			delete(output, key)
		case "fail":
			if e.Test != "" {
				io.WriteString(out, strings.Join(output[key], ""))
			}
			delete(output, key)
		case "skip":
			if e.Test != "" { // without one: a package that has no tests
				skips = append(skips, skip{strings.TrimPrefix(e.Package, module) + "." + e.Test, reason(output[key])})
			}
			delete(output, key)
		}
	}
	for _, lines := range output { // of tests that were cut off
		io.WriteString(out, strings.Join(lines, ""))
	}
	return skips, sc.Err()
}

// reason finds what t.Skip was given among a test's lines of output.
func reason(lines []string) string {
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "===") || strings.HasPrefix(l, "---") {
			continue
		}
		if _, text, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
		if _, text, ok := strings.Cut(l, "] skip '"); ok { // a script's own line
			return strings.TrimSuffix(text, "'")
		}
		return l
	}
	return "no reason given"
}

// report lists the skips and returns how many of them no rule expects.
func report(out io.Writer, skips []skip, rules []rule, kind string) int {
	bad := 0
	for _, s := range skips {
		mark := "skipped"
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.matches(kind, s) }) {
			mark = "SKIPPED, NOT EXPECTED on a host of kind " + kind
			bad++
		}
		fmt.Fprintf(out, "%s: %s: %s\n", mark, s.name, s.reason)
	}
	return bad
}
