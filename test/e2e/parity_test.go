package e2e

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"cais.dev/cais/test/golden"
)

// A parity file holds lines for a shell that use docker, and what Docker
// answered when they were recorded (testdata/parity/README.md says how). The same
// lines are given to cais, called docker.
//
//	$ docker run busybox echo hi     the line
//	1 hi                             what came on stdout
//	2 text                           on stderr
//	? 0                              the exit code, if it is not 0
//	>note why cais answers otherwise; below is what it answers instead:
//	>1 text    >2 text    >? 0       a stream that begins with ~ must contain the text,
//	                                 one that is * must not be empty
//	>ids                             the line names a second user id: a user with one
//	                                 only is refused, and told how to get more
//
// Files that the lines use follow in txtar's form. Ids, times and the like are
// replaced by names on both sides.
type exchange struct {
	comment  []string // lines before it, kept when recording again
	line     string
	out, err string
	code     int

	note             string
	wantOut, wantErr *string
	wantCode         *int
	needsIDs         bool
}

// fileNeedsIDs is the comment of a file that has no use for a user with one id.
const fileNeedsIDs = "# Needs more than one user id."

func parseParity(text string) ([]exchange, error) {
	var all []exchange
	var comment []string
	add := func(p **string, text string) {
		if *p == nil {
			*p = new(string)
		}
		if text != "" || **p != "" {
			**p += text + "\n"
		}
	}
	for i, l := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.HasPrefix(l, "$ ") {
			all = append(all, exchange{comment: comment, line: l[2:]})
			comment = nil
			continue
		}
		if l == "" || l[0] == '#' {
			comment = append(comment, l)
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("line %d: before the first $", i+1)
		}
		e := &all[len(all)-1]
		key, rest, _ := strings.Cut(l, " ")
		var err error
		switch key {
		case "1":
			e.out += rest + "\n"
		case "2":
			e.err += rest + "\n"
		case "?":
			e.code, err = strconv.Atoi(rest)
		case ">ids":
			e.needsIDs = true
		case ">note":
			e.note += rest + "\n"
		case ">1":
			add(&e.wantOut, rest)
		case ">2":
			add(&e.wantErr, rest)
		case ">?":
			var n int
			n, err = strconv.Atoi(rest)
			e.wantCode = &n
		default:
			err = fmt.Errorf("unknown mark %q", key)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return all, nil
}

func formatParity(all []exchange) string {
	var b strings.Builder
	lines := func(mark, text string) {
		for l := range strings.Lines(text) {
			fmt.Fprintln(&b, strings.TrimRight(mark+" "+strings.TrimSuffix(l, "\n"), " "))
		}
	}
	for _, e := range all {
		for _, c := range e.comment {
			fmt.Fprintln(&b, c)
		}
		fmt.Fprintf(&b, "$ %s\n", e.line)
		lines("1", e.out)
		lines("2", e.err)
		if e.code != 0 {
			fmt.Fprintf(&b, "? %d\n", e.code)
		}
		if e.needsIDs {
			fmt.Fprintln(&b, ">ids")
		}
		lines(">note", e.note)
		for _, w := range []struct {
			mark string
			text *string
		}{{">1", e.wantOut}, {">2", e.wantErr}} {
			if w.text != nil {
				lines(w.mark, *w.text)
				if *w.text == "" {
					fmt.Fprintln(&b, w.mark)
				}
			}
		}
		if e.wantCode != nil {
			fmt.Fprintf(&b, ">? %d\n", *e.wantCode)
		}
	}
	return b.String()
}

// normaliser replaces what differs from run to run, with one memory for a file.
type normaliser struct{ ids []string }

var (
	longID   = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	shortID  = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	isoTime  = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| [+-]\d{4} [A-Z]+)`)
	duration = regexp.MustCompile(`Less than a second|About an? (second|minute|hour)|\d+ (second|minute|hour|day|week|month|year)s?\b`)
	size     = regexp.MustCompile(`\b\d+(\.\d+)?[kMG]?B\b`)
	spaces   = regexp.MustCompile(` {2,}`)
)

func (n *normaliser) text(s string) string {
	s = longID.ReplaceAllStringFunc(s, n.id)
	s = shortID.ReplaceAllStringFunc(s, n.id)
	s = isoTime.ReplaceAllString(s, "<time>")
	s = duration.ReplaceAllString(s, "<duration>")
	s = size.ReplaceAllString(s, "<size>")
	s = spaces.ReplaceAllString(s, "  ")
	var b strings.Builder
	for l := range strings.Lines(s) {
		if strings.HasPrefix(l, "WARNING: IPv4 forwarding is disabled") {
			continue // the recording host's own matter
		}
		l = strings.TrimSuffix(l, "\n")
		for _, r := range l {
			if r < ' ' && r != '\t' {
				fmt.Fprintf(&b, `\x%02x`, r)
			} else {
				b.WriteRune(r)
			}
		}
		trimmed := strings.TrimRight(b.String(), " ")
		b.Reset()
		b.WriteString(trimmed + "\n")
	}
	return b.String()
}

func (n *normaliser) id(s string) string {
	for i, known := range n.ids {
		if strings.HasPrefix(known, s) || strings.HasPrefix(s, known) {
			if len(s) > len(known) {
				n.ids[i] = s
			}
			return fmt.Sprintf("<%s%d>", map[bool]string{true: "ID", false: "id"}[len(s) == 64], i+1)
		}
	}
	n.ids = append(n.ids, s)
	return n.id(s)
}

// play gives a file's lines to the docker of env's PATH.
func play(t *testing.T, all []exchange, dir string, env []string, done func(i int, out, err string, code int)) {
	t.Helper()
	var n normaliser
	for i, e := range all {
		cmd := exec.Command("sh", "-c", e.line)
		cmd.Dir, cmd.Env = dir, env
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &stderr
		timer := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		timer.Stop()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("%s: %v", e.line, err)
		}
		done(i, n.text(out.String()), n.text(stderr.String()), cmd.ProcessState.ExitCode())
	}
}

// TestParity gives cais the lines that were recorded with Docker.
func TestParity(t *testing.T) {
	which := os.Getenv("CAIS_RECORD_DOCKER")
	files, err := filepath.Glob("testdata/parity/" + cmp.Or(which, "*") + ".parity")
	if err != nil {
		t.Fatal(err)
	}
	if which != "" {
		record(t, files)
		return
	}
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".parity"), func(t *testing.T) {
			t.Parallel()
			b.replay(t, file)
		})
	}
}

func (b *bench) replay(t *testing.T, file string) {
	all, dir := readParity(t, file)
	if b.person == noSubs && slices.Contains(all[0].comment, fileNeedsIDs) {
		t.Skip("needs more than one user id")
	}
	s, err := b.newStore(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.finish(); err != nil {
			t.Error("left behind: ", err)
		}
	})
	if out, err := s.cmd("load", "-q", "-i", filepath.Join(b.images, "busybox.tar")).CombinedOutput(); err != nil {
		t.Fatalf("load: %v: %s", err, out)
	}
	play(t, all, dir, s.environ(), func(i int, out, stderr string, code int) {
		e := all[i]
		if e.needsIDs && b.person == noSubs {
			if code == 0 || !strings.Contains(stderr, "You have no subordinate ids: 'cais doctor'") {
				t.Errorf("$ %s\n-- code %d, stderr, want what to do about subordinate ids, got:\n%s", e.line, code, stderr)
			}
			return
		}
		wantOut, wantErr, wantCode := e.out, e.err, e.code
		if e.wantOut != nil {
			wantOut = *e.wantOut
		}
		if e.wantErr != nil {
			wantErr = *e.wantErr
		}
		if e.wantCode != nil {
			wantCode = *e.wantCode
		}
		if e.wantErr == nil && wantCode != 0 && stderr != "" && wantErr != "" {
			// Docker's words for errors change from version to version; ours are
			// held by scripts and by tests of their own.
			wantErr = stderr
		}
		if !alike(out, wantOut) || !alike(stderr, wantErr) || code != wantCode {
			t.Errorf("$ %s\n-- stdout, want:\n%s-- got:\n%s-- stderr, want:\n%s-- got:\n%s-- code %d, want %d",
				e.line, wantOut, out, wantErr, stderr, code, wantCode)
		}
	})
}

// alike compares a stream with what a parity file wants.
func alike(got, want string) bool {
	switch {
	case want == "*\n":
		return got != ""
	case strings.HasPrefix(want, "~"):
		for l := range strings.Lines(want) {
			if !strings.Contains(strings.ToLower(got), strings.ToLower(strings.TrimSpace(strings.TrimPrefix(l, "~")))) {
				return false
			}
		}
		return true
	}
	return got == want
}

func readParity(t *testing.T, file string) ([]exchange, string) {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseParity(string(a.Comment))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	dir := t.TempDir()
	for _, f := range a.Files {
		p := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, f.Data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return all, dir
}

// record asks a real Docker, by DOCKER_HOST, and writes its answers into the
// files. It removes every container of that daemon: give it one of its own.
func record(t *testing.T, files []string) {
	b := setUp(t)
	env := append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C")
	docker := func(args ...string) string {
		cmd := exec.Command("docker", args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	docker("load", "-q", "-i", filepath.Join(b.images, "busybox.tar"))
	version := docker("version", "-f", "client {{.Client.Version}}, server {{.Server.Version}}")
	for _, file := range files {
		if ids := docker("ps", "-aq"); ids != "" {
			docker(append([]string{"rm", "-f", "-v"}, strings.Fields(ids)...)...)
		}
		all, dir := readParity(t, file)
		play(t, all, dir, env, func(i int, out, stderr string, code int) {
			all[i].out, all[i].err, all[i].code = out, stderr, code
		})
		const mark = "# Recorded with Docker, "
		kept := all[0].comment[:0]
		for _, c := range all[0].comment {
			if !strings.HasPrefix(c, mark) {
				kept = append(kept, c)
			}
		}
		all[0].comment = append([]string{mark + version + "."}, kept...)
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		a.Comment = []byte(formatParity(all))
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if ids := docker("ps", "-aq"); ids != "" {
		docker(append([]string{"rm", "-f", "-v"}, strings.Fields(ids)...)...)
	}
}

func TestParityFormat(t *testing.T) {
	text := "# about\n$ docker x\n1 out\n1\n1 more\n2 err\n? 3\n>note because\n>1\n>2 ~part\n>? 4\n\n$ docker y\n"
	all, err := parseParity(text)
	if err != nil {
		t.Fatal(err)
	}
	if got := formatParity(all); got != text {
		t.Errorf("%s", golden.Diff(text, got))
	}
	var n normaliser
	id := strings.Repeat("0123456789abcdef", 4)
	if got := n.text(id[:12] + "   Up 3 seconds\n" + id + " " + id[:12] + "\r\n"); got != "<id1>  Up <duration>\n<ID1> <id1>\\x0d\n" {
		t.Errorf("normalised: %q", got)
	}
}
