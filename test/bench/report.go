package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// row is a line of the table.
type row struct {
	what, value, target string
	verdict             string // "", "met" or "missed"
	detail              string // what the ratio is of
}

// ratio adds the figure a/b, which must be at most (or, with atLeast, at least)
// the target.
func (b *bench) ratio(what string, num, den sample, byCPU bool, target float64, atLeast bool, detail string) {
	n, d := num.wall, den.wall
	if byCPU {
		n, d = num.cpu, den.cpu
	}
	if n == 0 || d == 0 {
		return
	}
	r := row{what: what, detail: fmt.Sprintf("%s: %s / %s", detail, ms(n), ms(d))}
	v := float64(n) / float64(d)
	sign := "≤"
	ok := v <= target
	if atLeast {
		v = 1 / v
		sign, ok = "≥", v >= target
	}
	r.value, r.target = fmt.Sprintf("%.2fx", v), fmt.Sprintf("%s %gx", sign, target)
	if atLeast {
		r.value += " faster"
	}
	r.verdict = verdict(ok)
	b.rows = append(b.rows, r)
}

func verdict(ok bool) string {
	if ok {
		return "met"
	}
	return "**missed**"
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// absent notes the contenders that could not take part.
func (b *bench) absent(what string, contenders []contender) {
	for _, c := range contenders {
		if c.err != nil {
			b.missing = append(b.missing, fmt.Sprintf("%s: %s: %s", what, c.name, firstLine(c.err)))
		}
	}
}

func (b *bench) report(path string) error {
	var s strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	p("# Benchmarks\n")
	p("Made by `make bench`; ratios of one interleaved run, medians, storage on tmpfs.")
	p("A ratio compares equal work on this machine at the same time; the absolute times")
	p("beside it are only good for that. podman and buildah build once, others push and save once.\n")
	p("%s, %s.\n", time.Now().UTC().Format("2006-01-02"), machine())
	p("| figure | measured | target | | what is compared |")
	p("|---|---|---|---|---|")
	for _, r := range b.rows {
		p("| %s | %s | %s | %s | %s |", r.what, r.value, r.target, r.verdict, r.detail)
	}
	p("\n## Versions\n")
	for _, v := range [][]string{{b.cais, "--version"}, {"crun", "--version"}, {"runc", "--version"}, {"podman", "--version"}, {"pasta", "--version"}, {"slirp4netns", "--version"}, {"/usr/sbin/dockerd", "--version"}} {
		name, ok := lookPath(v[0])
		if strings.HasPrefix(v[0], "/") {
			name, ok = v[0], true
		}
		if !ok {
			continue
		}
		if out, err := exec.Command(name, v[1:]...).Output(); err == nil {
			l, _, _ := strings.Cut(string(out), "\n")
			p("- %s", l)
		}
	}
	if len(b.missing) > 0 {
		p("\n## Not measured\n")
		for _, m := range b.missing {
			p("- %s", strings.ReplaceAll(m, b.dir, "DIR"))
		}
	}
	if notes, err := os.ReadFile("test/bench/notes.md"); err == nil {
		p("\n## Notes\n\n%s", strings.TrimSpace(string(notes)))
	}
	fmt.Print(s.String())
	if path == "" {
		return nil
	}
	return os.WriteFile(path, []byte(s.String()), 0o644)
}
