package monitor

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// TestExitIsContainers: what is written by hand here is read by package
// container, field by field, and nothing is left out.
func TestExitIsContainers(t *testing.T) {
	start, end := time.Date(2026, 11, 21, 7, 5, 25, 979875100, time.UTC), time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		by   exit
		want container.Exit
	}{
		{exit{code: 3, started: start, finished: end}, container.Exit{Version: 1, Code: 3, StartedAt: start, FinishedAt: end}},
		{exit{code: 127, err: "exec \"x\": no\n", finished: end}, container.Exit{Version: 1, Code: 127, Error: "exec \"x\": no\n", FinishedAt: end}},
		{
			exit{code: 137, oom: true, err: "e", started: start, finished: end, restarts: 4},
			container.Exit{Version: 1, Code: 137, OOMKilled: true, Error: "e", StartedAt: start, FinishedAt: end, Restarts: 4},
		},
	} {
		compare(t, tt.by.json(), new(container.Exit), &tt.want)
	}
}

func TestStateIsContainers(t *testing.T) {
	start := time.Date(2026, 11, 21, 7, 5, 25, 979875100, time.UTC)
	by := state{status: "running", pid: 7, pidStart: 1 << 40, monitor: 6, monitor0: 99, boot: "b-1", started: start, restarts: 2}
	compare(t, by.json(), new(container.State), &container.State{
		Version: 1, Status: container.Running, PID: 7, PIDStart: 1 << 40, MonitorPID: 6, MonitorStart: 99,
		BootID: "b-1", StartedAt: start, RestartCount: 2,
	})
	if pid, at := running(string(by.json())); pid != 7 || at != 1<<40 {
		t.Errorf("read back: %d since %d, want 7 since 1<<40", pid, at)
	}
	for _, text := range []string{"", string(state{status: "restarting", pid: 7}.json())} {
		if pid, _ := running(text); pid != -1 {
			t.Errorf("%q: process %d runs, want none", text, pid)
		}
	}
	compare(t, state{status: "running", started: start, execs: []string{"a", "b"}}.json(), new(container.State),
		&container.State{Version: 1, Status: container.Running, StartedAt: start, Execs: []string{"a", "b"}})
	compare(t, state{status: "restarting", started: start}.json(), new(container.State),
		&container.State{Version: 1, Status: container.Restarting, StartedAt: start})
}

func compare(t *testing.T, text []byte, got, want any) {
	t.Helper()
	if err := json.Unmarshal(text, got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s\nis    %+v, %v\nwant  %+v", text, got, err, want)
	}
	if again, err := json.Marshal(want); err != nil || string(again) != string(text) {
		t.Errorf("package container writes %s, %v\nwe write                %s", again, err, text)
	}
}

func TestSettings(t *testing.T) {
	was := wire.Restart{Name: "no"}
	for name, s := range map[string]container.Settings{
		"nothing":  {},
		"stopped":  {Name: "restart", StoppedByUser: true, Restart: plan.RestartPolicy{Name: "always"}},
		"a number": {Name: "stoppedByUser", Restart: plan.RestartPolicy{Name: "on-failure", Max: 12}},
	} {
		for _, write := range []func(any) ([]byte, error){
			json.Marshal, func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "\t") },
		} {
			text, err := write(s)
			if err != nil {
				t.Fatal(err)
			}
			byUser, got := settings(text, was)
			want := wire.Restart{Name: s.Restart.Name, Max: s.Restart.Max}
			if byUser != s.StoppedByUser || got != want {
				t.Errorf("%s: %v, %+v; want %v, %+v\n%s", name, byUser, got, s.StoppedByUser, want, text)
			}
		}
	}
	if byUser, got := settings([]byte("garbage"), was); byUser || got != was {
		t.Errorf("garbage: %v, %+v", byUser, got)
	}
}

// FuzzSettings: whatever the file holds, it is read.
func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"v":1,"name":"a","restart":{"name":"always","max":3},"stoppedByUser":true}`))
	f.Fuzz(func(_ *testing.T, text []byte) { settings(text, wire.Restart{}) })
}

func TestPolicy(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policy   wire.Restart
		code     int
		restarts int
		want     bool
	}{
		{"no", wire.Restart{Name: "no"}, 1, 0, false},
		{"none", wire.Restart{}, 1, 0, false},
		{"always", wire.Restart{Name: "always"}, 0, 100, true},
		{"unless stopped", wire.Restart{Name: "unless-stopped"}, 0, 100, true},
		{"on failure, success", wire.Restart{Name: "on-failure"}, 0, 0, false},
		{"on failure", wire.Restart{Name: "on-failure"}, 1, 100, true},
		{"on failure, within the limit", wire.Restart{Name: "on-failure", Max: 3}, 1, 2, true},
		{"on failure, at the limit", wire.Restart{Name: "on-failure", Max: 3}, 1, 3, false},
	} {
		m := &monitor{job: wire.Job{Dir: t.TempDir(), Restart: tt.policy}, restarts: tt.restarts}
		if got := m.policy(tt.code, false); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPause(t *testing.T) {
	m := &monitor{}
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000} {
		if got := m.pause(time.Second); got != want*time.Millisecond {
			t.Errorf("pause %d: %v, want %v", i, got, want*time.Millisecond)
		}
	}
	if got := m.pause(10 * time.Second); got != firstPause {
		t.Errorf("after a long run: %v, want %v", got, firstPause)
	}
}

// TestClockJumps: the clock of the host may be set while a container runs. What
// decides about restarts and probes are differences of times that carry the
// monotonic clock, which time.Time drops when it is converted.
func TestClockJumps(t *testing.T) {
	m := &monitor{now: time.Now(), job: wire.Job{RunDir: t.TempDir(), Health: wire.Health{Retries: 1, Interval: int64(time.Hour)}}}
	m.startedAt = m.now
	m.beginHealth()
	m.restartAt = m.now.Add(m.pause(m.now.Sub(m.startedAt)))
	for name, at := range map[string]time.Time{"the start": m.startedAt, "the next probe": m.health.nextAt, "the restart": m.restartAt} {
		if at == at.Round(0) {
			t.Errorf("%s is known by the wall clock only: %v", name, at)
		}
	}
}

func TestStartTime(t *testing.T) {
	if got := startTime(1); got == 0 && startTime(2) == 0 {
		t.Errorf("of pid 1: %d", got)
	}
	if got := startTime(1 << 30); got != 0 {
		t.Errorf("of a process that does not exist: %d", got)
	}
}
