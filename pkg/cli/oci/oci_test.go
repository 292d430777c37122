package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	e := engine.New(engine.Options{Getenv: func(string) string { return "" }})
	cmd := New(e, ui.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	cmd.SetArgs(append([]string{"--root", t.TempDir()}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.Execute()
	return out.String(), err
}

func TestFlagsOfCrunAndRunc(t *testing.T) {
	for _, args := range []string{
		"--log-format json --systemd-cgroup --rootless auto --debug --criu /x list -q",
		"--cgroup-manager=disabled list -f json", "list --format table", "--version", "features",
		"delete -f nothing", "delete --force nothing",
	} {
		if out, err := run(t, strings.Fields(args)...); err != nil {
			t.Errorf("%s: %v %s", args, err, out)
		}
	}
	for _, args := range []string{
		"--cgroup-manager=x list", "--log-format x list", "state nothing", "start nothing", "kill nothing", "delete nothing", "exec nothing true",
		"checkpoint x", "list x", "create", "create -b /nonexistent x", "kill x NOSIGNAL", "events --interval 0 x", "list -f x",
	} {
		if out, err := run(t, strings.Fields(args)...); err == nil {
			t.Errorf("%s: no error: %s", args, out)
		}
	}
}

func TestErrorsAreLogged(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if _, err := run(t, "--log", log, "--log-format", "json", "state", "nothing"); err == nil {
		t.Fatal("no error")
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || !strings.Contains(line.Msg, "does not exist") || line.Time == "" {
		t.Errorf("%s: %v", text, err)
	}
}
