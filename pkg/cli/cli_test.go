package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// call runs a command line as main does.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	env := map[string]string{"CAIS_ROOT": t.TempDir()}
	code = Main(t.Context(), Process{
		Args:    args,
		Getenv:  func(k string) string { return env[k] },
		Streams: ui.Streams{In: strings.NewReader(""), Out: &out, Err: &err},
		Build:   engine.Build{Version: "1.2.3", Commit: "abcdef0"},
	})
	return code, out.String(), err.String()
}

func TestMainReports(t *testing.T) {
	tests := []struct {
		args           string
		code           int
		stdout, stderr string // a prefix; "" is nothing
	}{
		{"cais", 0, "", "Usage:  cais [OPTIONS] COMMAND"},
		{"cais --help", 0, "Usage:  cais [OPTIONS] COMMAND", ""},
		{"cais -v", 0, "cais version 1.2.3, build abcdef0\n", ""},
		{"/usr/bin/docker --version", 0, "Docker version 28.5.2, build abcdef0 (cais 1.2.3)\n", ""},
		{"/usr/bin/podman --version", 0, "podman version 5.4.2\n", ""},
		{"cais bogus", 1, "", "Error: unknown command: cais bogus\n\nRun 'cais --help' for more information\n"},
		{"cais bogus --help", 0, "Usage:  cais [OPTIONS] COMMAND", ""},
		{"cais volume bogus --help", 0, "Usage:  cais volume COMMAND", ""},
		{"docker bogus", 1, "", "docker: unknown command: docker bogus\n\nRun 'docker --help' for more information\n"},
		{"cais version --bogus", 125, "", "Error: unknown flag: --bogus\n\nRun 'cais version --help' for more information\n"},
		{"cais version x", 1, "", "Error: 'cais version' accepts no arguments\n\nUsage:  cais version [OPTIONS]\n\nRun 'cais version --help' for more information\n"},
		{"cais --bogus version", 125, "", "Error: unknown flag: --bogus\n\nRun 'cais --help' for more information\n"},
		{"cais version --help", 0, "Usage:  cais version [OPTIONS]\n\nShow version information\n", ""},
		{"cais swarm init", 1, "", "Error: \"docker swarm\" is not supported by cais\nHint: "},
		{"cais compose up -d --bogus", 1, "", "Error: cais compose (several containers from one file) is not in this version of cais yet\nHint: "},
		{"cais -H tcp://x:1 version", 125, "", "Error: --host tcp://x:1: cais has no daemon"},
		{"cais -H unix:///a/docker.sock -H unix:///b/docker.sock version", 125, "", `Error: invalid argument "unix:///b/docker.sock" for "-H, --host" flag: specify only one -H`},
		{"cais -H unix:///x/y version", 125, "", "Error: --host unix:///x/y: cais has no daemon"},
		{"cais -c other version", 1, "", "Error: context \"other\" does not exist\nHint: "},
		{"cais -l Trace --tmpdir /t --events-backend file --cgroup-manager systemd --conmon c --network-config-dir /n --network-backend n --db-backend sqlite -v", 0, "cais version 1.2.3, build abcdef0\n", ""},
		{"cais --noout -v", 0, "", ""},
		{"cais --out /nowhere/at/all -v", 125, "", "Error: open what --out names: open /nowhere/at/all: no such file or directory\n"},
		{"cais -l loud version", 1, "", "Error: unable to parse logging level: loud\n"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			code, stdout, stderr := call(t, strings.Fields(tt.args)...)
			same := func(got, want string) bool { return strings.HasPrefix(got, want) && (want != "" || got == "") }
			if code != tt.code || !same(stdout, tt.stdout) || !same(stderr, tt.stderr) {
				t.Errorf("code %d, stdout %q, stderr %q; want %d, %q, %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}

// Every command can be built, alone and in the tree, and keeps to the rules
// that hold for all of them.
func TestTree(t *testing.T) {
	seen := map[string]bool{}
	walk(tree, nil, func(path []string, n node) {
		name := strings.Join(path, " ")
		for _, alias := range append([]string{n.name}, n.aliases...) {
			key := strings.Join(append(append([]string{}, path[:len(path)-1]...), alias), " ")
			if seen[key] {
				t.Errorf("%s is there twice", key)
			}
			seen[key] = true
		}
		ways := 0
		for _, is := range []bool{n.new != nil, n.children != nil, n.later != ""} {
			if is {
				ways++
			}
		}
		if n.later != "" && n.instead == "" {
			t.Errorf("%s: what to do instead?", name)
		}
		if ways != 1 || n.new != nil && n.of == "" || n.children != nil && n.short == "" {
			t.Errorf("%s: incomplete node %+v", name, n)
		}
		code, stdout, stderr := call(t, append(append([]string{"cais"}, path...), "--help")...)
		if n.later == "" && (code != 0 || !strings.HasPrefix(stdout, "Usage:  cais "+name) || stderr != "") {
			t.Errorf("%s --help: %d, %q, %q", name, code, stdout, stderr)
		}
		if n.later != "" && (code != 1 || stdout != "" || !strings.HasPrefix(stderr, "Error: ")) {
			t.Errorf("%s: %d, %q, %q", name, code, stdout, stderr)
		}
		code, stdout, stderr = call(t, append(append([]string{"cais"}, path...), "--no-such-flag")...)
		if n.later == "" && (code != 125 || stdout != "" || !strings.HasPrefix(stderr, "Error: unknown flag: --no-such-flag\n\nRun 'cais "+name+" --help' for more information\n")) {
			t.Errorf("%s --no-such-flag: %d, %q, %q", name, code, stdout, stderr)
		}
	})
}

func TestOnlyTheNamedBranchIsBuilt(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"image", "ls"}} {
		root, err := makeRoot("cais", engine.New(engine.Options{}), ui.Streams{}, &globals{}, args)
		if err != nil {
			t.Fatal(err)
		}
		for range args {
			if n := len(root.Commands()); n != 1 {
				t.Errorf("%q: %d commands below %s, want 1", args, n, root.CommandPath())
			}
			root = root.Commands()[0]
		}
	}
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{
		"cais __complete im":               "image\tManage images\nimages\tList images\n",
		"cais __complete image ls":         "ls\tList images\n",
		"cais __complete completion z":     "zsh\n",
		"cais __complete version --format": "--format\tPrint in a form: json, or a Go template\n",
	} {
		code, stdout, _ := call(t, strings.Fields(args)...)
		if code != 0 || !strings.HasPrefix(stdout, want) {
			t.Errorf("%s: %d, %q; want %q", args, code, stdout, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		code, stdout, stderr := call(t, "cais", "completion", shell)
		if code != 0 || !strings.Contains(stdout, "__complete") || stderr != "" {
			t.Errorf("%s: %d, %d bytes, %q", shell, code, len(stdout), stderr)
		}
	}
}

func TestInspectOfNothing(t *testing.T) {
	code, stdout, stderr := call(t, "cais", "inspect", "nope")
	if code != 1 || stdout != "[]\n" || stderr != "Error: no such object: nope\n" {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	code, stdout, stderr = call(t, "cais", "inspect", "-f", "{{", "nope")
	if code != 64 || stdout != "" || !strings.HasPrefix(stderr, "Error: template parsing error: ") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
}

func TestCleanupIsChosenByNameAlone(t *testing.T) {
	for name, want := range map[string]bool{"cais-cleanup": true, "cais": false, "/usr/bin/cais-cleanup": false} {
		if got := IsCleanup(Process{Args: []string{name}}); got != want {
			t.Errorf("IsCleanup(%q) = %t", name, got)
		}
	}
}

func TestCompletionLooksWhereTheFlagsSay(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "overlay-images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	doc := `[{"id":"abc","names":["docker.io/library/box:1"]}]`
	if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := call(t, "cais", "__complete", "--root", root, "run", ""); !strings.HasPrefix(out, "box:1\n") {
		t.Errorf("got %q", out)
	}
}

func TestHomeOfAnother(t *testing.T) {
	me, home := os.Geteuid(), t.TempDir()
	denied := fmt.Errorf("read %w", &fs.PathError{Op: "open", Path: home + "/.config/x", Err: fs.ErrPermission})
	tests := []struct {
		name string
		err  error
		home string
		uid  int
		want bool
	}{
		{"another's", denied, home, me + 1, true},
		{"with a slash", denied, home + "/", me + 1, true},
		{"by kind", errs.New(errs.Denied, "open "+home+"/x"), home, me + 1, true},
		{"one's own", denied, home, me, false},
		{"elsewhere", denied, t.TempDir(), me + 1, false},
		{"none", denied, "", me + 1, false},
		{"another error", errors.New("open " + home + "/x"), home, me + 1, false},
	}
	for _, tt := range tests {
		err := ofHome(tt.err, tt.home, tt.uid)
		if got := strings.Contains(errs.HintOf(err), "another user's"); got != tt.want || err.Error() != tt.err.Error() {
			t.Errorf("%s: %v, hint %q", tt.name, err, errs.HintOf(err))
		}
	}
}
