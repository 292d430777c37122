package container

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/logs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
)

var now = time.Date(2026, 11, 21, 7, 2, 18, 0, time.UTC)

func id(c string) string { return strings.Repeat(c, 64) }

// fleet has one container of each kind, newest first.
func fleet() []*container.Container {
	make := func(c, name string, age time.Duration) *container.Container {
		return &container.Container{
			ID: id(c), Dir: "/nowhere/" + id(c),
			Record: &container.Record{
				ID: id(c), Created: now.Add(-age), ImageRef: "busybox", ImageID: id("9"), Path: "sh", Args: []string{"-c", "echo hello; sleep 1000"},
				Image: oci.Config{Labels: map[string]string{"a": "1", "b": "image"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "9000/udp": {}}},
			},
			Settings: &container.Settings{Name: name, Restart: plan.RestartPolicy{Name: "no"}},
		}
	}
	running := make("a", "web", 4*time.Second)
	running.Alive = true
	running.State = &container.State{Status: container.Running, StartedAt: now.Add(-3 * time.Second), PID: 7}
	running.Record.Request.Labels = map[string]string{"b": "own"}
	running.Record.Request.Mounts = []plan.Mount{{Type: "bind", Source: "/a/long/path/to/data", Target: "/data"}}
	exited := make("b", "job", 3*time.Minute)
	exited.Record.ImageRef = "registry.example:5000/team/app:1"
	exited.Record.Path, exited.Record.Args = "true", nil
	exited.Record.Request.Links = []string{"web:db", "cccccccccccc:other", "c:none"}
	exited.Exit = &container.Exit{Code: 137, StartedAt: now.Add(-3 * time.Minute), FinishedAt: now.Add(-2 * time.Minute)}
	paused := make("c", "still", time.Hour)
	paused.Alive, paused.State = true, &container.State{Status: container.Paused, StartedAt: now.Add(-4 * time.Second)}
	again := make("d", "again", 50*time.Hour)
	again.Alive, again.State = true, &container.State{Status: container.Restarting, StartedAt: now.Add(-9 * time.Second)}
	again.Exit = &container.Exit{Code: 1, StartedAt: now.Add(-9 * time.Second), FinishedAt: now.Add(-5 * time.Second)}
	created := make("e", "new", 90*time.Hour)
	return []*container.Container{running, exited, paused, again, created}
}

type fakeService struct {
	list []*container.Container
	do   func(ref string) error
}

func (f fakeService) List(context.Context) ([]*container.Container, error) { return f.list, nil }
func (f fakeService) Stop(_ context.Context, ref string, _ run.StopOptions) error {
	return f.do(ref)
}
func (fakeService) Dependents(context.Context, string) ([]string, error) { return nil, nil }

func (f fakeService) Remove(_ context.Context, ref string, _ run.RemoveOptions) error {
	return f.do(ref)
}

func psText(t *testing.T, o psOptions) (string, error) {
	t.Helper()
	var out bytes.Buffer
	o.now, o.volumeDir = now, func(n string) string { return "/volumes/" + n }
	if !slices.Contains([]int{0, 1, 2}, o.last) || o.last == 0 {
		o.last = -1
	}
	err := ps(t.Context(), ui.Streams{Out: &out}, fakeService{list: fleet()}, o)
	return out.String(), err
}

func TestPsTable(t *testing.T) {
	got, err := psText(t, psOptions{all: true})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(got, "\n")
	for i, fields := range [][]string{
		{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"},
		{"aaaaaaaaaaaa", "busybox", `"sh -c 'echo hello; …"`, "4 seconds ago", "Up 3 seconds", "80/tcp, 9000/udp", "web"},
		{"bbbbbbbbbbbb", "registry.example:5000/team/app:1", `"true"`, "3 minutes ago", "Exited (137) 2 minutes ago", "", "job"},
		{"cccccccccccc", "busybox", `"sh -c 'echo hello; …"`, "About an hour ago", "Up 4 seconds (Paused)", "80/tcp, 9000/udp", "still"},
		{"dddddddddddd", "busybox", `"sh -c 'echo hello; …"`, "2 days ago", "Restarting (1) 5 seconds ago", "", "again"},
		{"eeeeeeeeeeee", "busybox", `"sh -c 'echo hello; …"`, "3 days ago", "Created", "", "new"},
	} {
		var have []string
		for _, f := range strings.Split(lines[i], "   ") {
			if f = strings.TrimSpace(f); f != "" {
				have = append(have, f)
			}
		}
		fields = slices.DeleteFunc(fields, func(f string) bool { return f == "" })
		if !slices.Equal(have, fields) {
			t.Errorf("line %d: %q, want %q", i, have, fields)
		}
	}
}

func TestPsFormats(t *testing.T) {
	tests := []struct {
		name string
		o    psOptions
		want string
		err  string
	}{
		{name: "running only", o: psOptions{table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\nstill\nagain\n"},
		{name: "quiet", o: psOptions{table: ui.TableOptions{Quiet: true}}, want: "aaaaaaaaaaaa\ncccccccccccc\ndddddddddddd\n"},
		{name: "quiet and full", o: psOptions{last: 1, noTrunc: true, table: ui.TableOptions{Quiet: true}}, want: id("a") + "\n"},
		{name: "links", o: psOptions{noTrunc: true, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web,job/db\nstill,job/other\nagain\n"},
		{name: "last", o: psOptions{last: 2, table: ui.TableOptions{Format: "{{.Names}} {{.State}}"}}, want: "web running\njob exited\n"},
		{name: "latest", o: psOptions{latest: true, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\n"},
		{name: "labels", o: psOptions{last: 1, table: ui.TableOptions{Format: `{{.Labels}} {{.Label "b"}} {{.Label "x"}}`}}, want: "a=1,b=own own \n"},
		{name: "mounts", o: psOptions{last: 1, table: ui.TableOptions{Format: "{{.Mounts}} {{.LocalVolumes}} {{.Networks}}"}}, want: "/a/long/path/t… 0 bridge\n"},
		{name: "status implies all", o: psOptions{filters: []string{"status=exited"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "job\n"},
		{name: "exited does not imply all", o: psOptions{filters: []string{"exited=137"}, table: ui.TableOptions{Format: "{{.Names}}"}}},
		{name: "exited", o: psOptions{all: true, filters: []string{"exited=137"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "job\n"},
		{name: "or within a key", o: psOptions{all: true, filters: []string{"name=we", "name=/job"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\njob\n"},
		{name: "and between keys", o: psOptions{all: true, filters: []string{"name=we", "name=job", "status=running"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\n"},
		{name: "labels and", o: psOptions{all: true, filters: []string{"label=a", "label=b=own"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\n"},
		{name: "ancestor", o: psOptions{all: true, filters: []string{"ancestor=registry.example:5000/team/app:1"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "job\n"},
		{name: "before", o: psOptions{all: true, filters: []string{"before=again"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "new\n"},
		{name: "since", o: psOptions{all: true, filters: []string{"since=still"}, table: ui.TableOptions{Format: "{{.Names}}"}}, want: "web\njob\n"},
		{name: "bad key", o: psOptions{filters: []string{"bogus=1"}}, err: "invalid filter 'bogus'"},
		{name: "bad form", o: psOptions{filters: []string{"bogus"}}, err: "bad format of filter (expected name=value)"},
		{name: "bad status", o: psOptions{filters: []string{"status=up"}}, err: "invalid filter 'status=up'"},
		{name: "bad field", o: psOptions{filters: []string{"name=none"}, table: ui.TableOptions{Format: "{{.Nope}}"}}, err: "can't evaluate field Nope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := psText(t, tt.o)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestEachGoesOnAfterAFailureAndPrintsInOrder(t *testing.T) {
	var out bytes.Buffer
	first := make(chan struct{})
	svc := fakeService{do: func(ref string) error {
		switch ref {
		case "a":
			<-first // the others are done first
		case "b":
			return errs.New(errs.NotFound, "no such container: b")
		case "c":
			close(first)
		}
		return nil
	}}
	err := stop(t.Context(), ui.Streams{Out: &out}, svc, stopOptions{args: []string{"a", "b", "c"}})
	if got, want := out.String(), "a\nc\n"; got != want || err == nil {
		t.Errorf("stdout %q, error %v; want %q and an error", got, err, want)
	}
}

func TestRmForgives(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    rmOptions
		ok   bool
	}{
		{name: "missing", o: rmOptions{args: []string{"x"}}},
		{name: "missing, forced", o: rmOptions{args: []string{"x"}, force: true}, ok: true},
		{name: "missing, ignored", o: rmOptions{args: []string{"x"}, selection: selection{ignore: true}}, ok: true},
	} {
		var out bytes.Buffer
		svc := fakeService{do: func(string) error { return errs.New(errs.NotFound, "no such container: x") }}
		err := rm(t.Context(), ui.Streams{Out: &out}, svc, tt.o)
		if (err == nil) != tt.ok || out.Len() > 0 {
			t.Errorf("%s: %v, stdout %q", tt.name, err, &out)
		}
	}
}

func TestSelection(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cid")
	if err := os.WriteFile(file, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		sel  selection
		args []string
		want []string
	}{
		{name: "as typed", args: []string{"x", "/y"}, want: []string{"x", "/y"}},
		{name: "all", sel: selection{all: true}, want: []string{id("a"), id("c"), id("d")}},
		{name: "latest", sel: selection{latest: true}, want: []string{id("a")}},
		{name: "filter", sel: selection{filters: []string{"name=job"}}, want: []string{id("b")}},
		{name: "cidfile", sel: selection{cidFiles: []string{file}}, want: []string{"abc"}},
		{name: "missing cidfile, ignored", sel: selection{cidFiles: []string{file + "x"}, ignore: true}},
	}
	for _, tt := range tests {
		got, err := tt.sel.refs(t.Context(), fakeService{list: fleet()}, tt.args, alive)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

type fakeLogs struct{}

func (fakeLogs) Logs(_ context.Context, _ string, _ run.LogsOptions, emit func(logs.Entry) error) error {
	return errors.Join(
		emit(logs.Entry{Time: now, Stream: "stdout", Text: []byte("out\n")}),
		emit(logs.Entry{Time: now, Stream: "stderr", Text: []byte("err\n")}),
	)
}

func TestLogsKeepsTheStreamsApart(t *testing.T) {
	var out, errOut bytes.Buffer
	s := ui.Streams{Out: &out, Err: &errOut}
	if err := printLogs(t.Context(), s, fakeLogs{}, []string{"x"}, logsOptions{timestamps: true}); err != nil {
		t.Fatal(err)
	}
	const stamp = "2026-11-21T07:02:18.000000000Z "
	if out.String() != stamp+"out\n" || errOut.String() != stamp+"err\n" {
		t.Errorf("stdout %q, stderr %q", &out, &errOut)
	}
}

func TestTTYWithoutTerminalIsRefused(t *testing.T) {
	s := ui.Streams{In: strings.NewReader("")}
	err := wanted{in: true, tty: true}.checkTerminal(s)
	if exit, ok := errors.AsType[*ui.ExitError](err); !ok || exit.Code != 1 || !strings.Contains(err.Error(), "stdin is not a terminal") {
		t.Errorf("-it: %v", err)
	}
	for _, w := range []wanted{{tty: true}, {in: true}, {}} {
		if err := w.checkTerminal(s); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

func TestPulls(t *testing.T) {
	for _, tt := range []struct {
		policy string
		have   bool
		want   bool
	}{{"missing", true, false}, {"missing", false, true}, {"", false, true}, {"never", false, false}, {"always", true, true}, {"newer", true, true}} {
		if got := pulls(tt.policy, tt.have); got != tt.want {
			t.Errorf("pulls(%q, %v) = %v", tt.policy, tt.have, got)
		}
	}
}
