package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/plan"
	_ "cais.dev/cais/pkg/run/role" // this binary is the monitor, too
	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Args[0] == "cais-cleanup" { // what a monitor becomes when nobody else removes its container
		if err := os.WriteFile(os.Args[1], []byte(os.Getenv("MARK")), 0o600); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// box is a container without namespaces: a directory and a job.
type box struct {
	t   *testing.T
	dir string
	job *wire.Job
}

// newBox returns a container that runs sh with script.
func newBox(t *testing.T, script string) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir()}
	run := filepath.Join(b.dir, "rundir")
	if err := errors.Join(os.Mkdir(run, 0o700), os.Symlink(run, filepath.Join(b.dir, "run"))); err != nil {
		t.Fatal(err)
	}
	b.job = &wire.Job{
		ID: "c", Dir: b.dir, RunDir: run, Plan: shell(t, script),
		Log: wire.Log{Driver: "json-file", Path: filepath.Join(b.dir, "c-json.log")},
	}
	return b
}

// shell returns a plan that runs sh with script.
func shell(t *testing.T, script string) []byte {
	t.Helper()
	var b wire.Builder
	for fd, slot := range []int{wire.SlotStdin, wire.SlotStdout, wire.SlotStderr} {
		b.Call("stdio", syscall.SYS_DUP3, wire.InSlot(slot), fd, 0)
	}
	b.Call("die with the monitor", syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, int(syscall.SIGKILL))
	b.Call("gate", syscall.SYS_WRITE, wire.InSlot(wire.SlotSync), b.Bytes([]byte{wire.MsgGate}), 1)
	b.Call("gate", syscall.SYS_READ, wire.InSlot(wire.SlotSync), b.Bytes([]byte{0}), 1)
	b.Call("exec sh", syscall.SYS_EXECVE, "/bin/sh", b.Texts([]string{"sh", "-c", script}), b.Texts([]string{"PATH=/usr/bin:/bin"})).Final = true
	p, err := b.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p.Marshal()
}

var everything = wire.Attach{Stdin: true, Stdout: true, Stderr: true}

// start starts the container.
func (b *box) start(a wire.Attach) *Session {
	b.t.Helper()
	s, err := Spawn(b.t.Context(), SpawnOptions{RunDir: b.dir, Job: b.job, Attach: a})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close(); b.wait() })
	if err := s.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// wait waits until no monitor lives.
func (b *box) wait() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l, err := lock.Acquire(ctx, filepath.Join(b.dir, "alive"), false)
	if err != nil {
		b.t.Fatalf("the monitor still lives: %v", err)
	}
	_ = l.Release()
}

func (b *box) text(name string) string {
	p, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		return ""
	}
	return string(p)
}

func TestRunForeground(t *testing.T) {
	b := newBox(t, "echo out; echo err >&2; exit 3")
	s := b.start(everything)
	var out, err bytes.Buffer
	x, e := s.Stream(t.Context(), Streams{Out: &out, Err: &err})
	if e != nil || x.Code != 3 || out.String() != "out\n" || err.String() != "err\n" {
		t.Errorf("exit %+v, %v; out %q err %q", x, e, &out, &err)
	}
	if held, err := lock.Held(filepath.Join(b.dir, "alive")); held || err != nil {
		t.Errorf("alive is held (%v) after the exit was announced", err)
	}
	if log := b.text("c-json.log"); !strings.Contains(log, `{"log":"out\n","stream":"stdout"`) || !strings.Contains(log, `{"log":"err\n","stream":"stderr"`) {
		t.Errorf("log %q", log)
	}
	if exit := b.text("exit.json"); !strings.Contains(exit, `"code":3`) {
		t.Errorf("exit.json %q", exit)
	}
	for _, gone := range []string{"run/state.json", "run/attach", "monitor.log"} {
		if _, err := os.Lstat(filepath.Join(b.dir, gone)); err == nil {
			t.Errorf("%s is left: %s", gone, b.text(gone))
		}
	}
}

// finish follows s to the end.
func finish(t *testing.T, s *Session, st Streams) (Exit, string) {
	t.Helper()
	var out bytes.Buffer
	if st.Out == nil {
		st.Out, st.Err = &out, &out
	}
	x, err := s.Stream(t.Context(), st)
	if err != nil {
		t.Errorf("stream: %v", err)
	}
	return x, out.String()
}

func (b *box) state() container.State {
	b.t.Helper()
	var st container.State
	if err := json.Unmarshal([]byte(b.text("run/state.json")), &st); err != nil {
		b.t.Fatalf("state.json: %v", err)
	}
	return st
}

func (b *box) exit() container.Exit {
	b.t.Helper()
	var x container.Exit
	if err := json.Unmarshal([]byte(b.text("exit.json")), &x); err != nil {
		b.t.Fatalf("exit.json: %v", err)
	}
	return x
}

func (b *box) settings(v container.Settings) {
	b.t.Helper()
	p, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "settings.json"), p, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// eventually waits for what no descriptor tells.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	end := time.After(10 * time.Second)
	for !f() {
		select {
		case <-end:
			t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestNothingIsLost: whatever a short command wrote is there.
func TestNothingIsLost(t *testing.T) {
	for i := range 30 {
		b := newBox(t, "echo "+strconv.Itoa(i))
		x, out := finish(t, b.start(everything), Streams{})
		if x.Code != 0 || out != strconv.Itoa(i)+"\n" {
			t.Fatalf("run %d: exit %d, output %q", i, x.Code, out)
		}
	}
}

// slow reads a little at a time.
type slow struct {
	n     int
	block <-chan time.Time
}

func (w *slow) Write(p []byte) (int, error) {
	if w.n == 0 {
		<-w.block
	}
	w.n += len(p)
	return len(p), nil
}

// TestForegroundGetsEverything: the container waits for the one who started it.
func TestForegroundGetsEverything(t *testing.T) {
	b := newBox(t, "head -c 3000000 /dev/zero")
	b.job.Log.Driver = "none"
	s := b.start(everything)
	w := &slow{block: time.After(300 * time.Millisecond)}
	if x, _ := finish(t, s, Streams{Out: w, Err: io.Discard}); x.Code != 0 || w.n != 3000000 {
		t.Errorf("exit %d after %d bytes, want 3000000", x.Code, w.n)
	}
}

func TestStdin(t *testing.T) {
	b := newBox(t, "cat; echo end")
	b.job.OpenStdin, b.job.StdinOnce = true, true
	text := strings.Repeat("0123456789abcde\n", 20000) // more than a pipe holds
	if _, out := finish(t, b.start(everything), Streams{In: strings.NewReader(text)}); out != text+"end\n" {
		t.Errorf("got %d bytes, want %d", len(out), len(text)+4)
	}
}

// TestStdinOfADeadClient: it ends when the client that started the container is
// killed, and what it had sent is delivered before.
func TestStdinOfADeadClient(t *testing.T) {
	b := newBox(t, "cat; echo end")
	b.job.OpenStdin, b.job.StdinOnce = true, true
	s := b.start(everything)
	if err := s.send([]byte{byte(wire.Stdin), 'x', '\n'}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if log := b.text("c-json.log"); !strings.Contains(log, `"x\n"`) || !strings.Contains(log, `"end\n"`) {
		t.Errorf("log %s", log)
	}
}

func TestAttachDetach(t *testing.T) {
	b := newBox(t, `while read x; do echo "got $x"; test "$x" = bye && exit 5; done`)
	b.job.OpenStdin = true // as with -di: stdin outlives its clients
	if err := b.start(wire.Attach{}).Close(); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		s, err := Attach(t.Context(), b.dir, everything)
		if err != nil {
			t.Fatal(err)
		}
		if s.TTY() || !s.OpenStdin() || s.PID() != b.state().PID {
			t.Errorf("attached to %d, tty %v, stdin %v", s.PID(), s.TTY(), s.OpenStdin())
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := writerFunc(func(p []byte) (int, error) {
			if string(p) != "got "+word+"\n" {
				t.Errorf("got %q", p)
			}
			cancel()
			return len(p), nil
		})
		if _, err := s.Stream(ctx, Streams{In: strings.NewReader(word + "\n"), Out: got}); !errors.Is(err, context.Canceled) {
			t.Errorf("stream: %v", err)
		}
		_ = s.Close()
	}
	s, err := Attach(t.Context(), b.dir, everything)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if x, out := finish(t, s, Streams{In: strings.NewReader("bye\n")}); x.Code != 5 || out != "got bye\n" {
		t.Errorf("exit %d, output %q", x.Code, out)
	}
	if _, err := Attach(t.Context(), b.dir, everything); errs.KindOf(err) != errs.Conflict {
		t.Errorf("attach to an ended one: %v, want Conflict", err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestStuckClient: a second client that does not read is dropped, and the
// container goes on.
func TestStuckClient(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	t.Parallel()
	b := newBox(t, "read x; head -c 3000000 /dev/zero; echo end")
	b.job.OpenStdin, b.job.Log.Driver = true, "none"
	first := b.start(everything)
	second, err := Attach(t.Context(), b.dir, everything)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	n := 0
	w := writerFunc(func(p []byte) (int, error) { n += len(p); return len(p), nil })
	if x, _ := finish(t, first, Streams{In: strings.NewReader("go\n"), Out: w}); x.Code != 0 || n != 3000004 {
		t.Errorf("exit %d after %d bytes", x.Code, n)
	}
	if note := b.text("monitor.log"); !strings.Contains(note, "a client was dropped") {
		t.Errorf("monitor.log %q", note)
	}
}

// TestPatientExec: `exec … | less` may take its time.
func TestPatientExec(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 6 s")
	}
	t.Parallel()
	b := newBox(t, "sleep 1000")
	first := b.start(wire.Attach{})
	defer func() { _ = first.Signal(syscall.SIGKILL) }()
	s, err := Exec(t.Context(), b.dir, ExecOptions{Plan: shell(t, "head -c 3000000 /dev/zero"), Attach: everything})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &slow{block: time.After(6 * time.Second)}
	if x, _ := finish(t, s, Streams{Out: w, Err: io.Discard}); x.Code != 0 || w.n != 3000000 {
		t.Errorf("exit %+v after %d bytes, want 3000000", x, w.n)
	}
}

func TestExec(t *testing.T) {
	b := newBox(t, "sleep 1000")
	if err := b.start(wire.Attach{}).Close(); err != nil {
		t.Fatal(err)
	}
	run := func(script, stdin string) (Exit, string) {
		t.Helper()
		s, err := Exec(t.Context(), b.dir, ExecOptions{Plan: shell(t, script), Attach: everything})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return finish(t, s, Streams{In: strings.NewReader(stdin)})
	}
	if x, out := run("cat; exit 7", "hello"); x.Code != 7 || out != "hello" {
		t.Errorf("exit %d, output %q", x.Code, out)
	}
	if x, _ := run("kill -9 $$", ""); x.Code != 137 {
		t.Errorf("exit %d, want 137", x.Code)
	}
	if x, out := run("sleep 1000 & echo out", ""); x.Code != 0 || out != "out\n" { // it holds the pipe open
		t.Errorf("exit %d, output %q", x.Code, out)
	}
	mark := filepath.Join(b.dir, "mark")
	s, err := Exec(t.Context(), b.dir, ExecOptions{Plan: shell(t, "sleep 0.1; echo x > "+mark), Detach: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	eventually(t, "the detached exec", func() bool { return b.text("mark") == "x\n" })

	// The container's end is the end of what runs in it.
	s, err = Exec(t.Context(), b.dir, ExecOptions{Plan: shell(t, "sleep 1000"), Attach: everything})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := syscall.Kill(b.state().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if x, _ := finish(t, s, Streams{}); x.Code != 137 {
		t.Errorf("exit %d, want 137", x.Code)
	}
	b.wait()
	if x := b.exit(); x.Code != 137 {
		t.Errorf("the container's exit: %+v", x)
	}
	if note := b.text("monitor.log"); note != "" {
		t.Errorf("monitor.log: %s", note)
	}
}

func TestStartFails(t *testing.T) {
	for name, want := range map[string]struct {
		path string
		code int
		kind errs.Kind
	}{
		"missing":        {"/no/such/program", 127, errs.NotFound},
		"not executable": {"/etc/passwd", 126, errs.Denied},
		"a directory":    {"/etc", 126, errs.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "")
			var pb wire.Builder
			pb.Call("exec it", syscall.SYS_EXECVE, want.path, pb.Texts([]string{"x"}), pb.Texts(nil)).Final = true
			p, err := pb.Plan()
			if err != nil {
				t.Fatal(err)
			}
			b.job.Plan = p.Marshal()
			s, err := Spawn(t.Context(), SpawnOptions{RunDir: b.dir, Job: b.job})
			if err == nil {
				err = s.Start(t.Context())
				_ = s.Close()
			}
			var start *StartError
			if !errors.As(err, &start) || start.Code != want.code || errs.KindOf(err) != want.kind {
				t.Errorf("%v (%+v), want code %d, kind %v", err, start, want.code, want.kind)
			}
			b.wait()
			if x := b.exit(); x.Code != want.code || !x.StartedAt.IsZero() || x.Error == "" {
				t.Errorf("exit.json %+v", x)
			}
		})
	}
}

// TestClientDiesBeforeStart: nothing has run, and nothing is left.
func TestClientDiesBeforeStart(t *testing.T) {
	b := newBox(t, "echo ran > "+filepath.Join(t.TempDir(), "mark"))
	s, err := Spawn(t.Context(), SpawnOptions{RunDir: b.dir, Job: b.job})
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	_ = s.Close()
	b.wait()
	if _, err := os.Lstat(filepath.Join(b.dir, "exit.json")); err == nil {
		t.Errorf("exit.json: %s", b.text("exit.json"))
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child: %v, want ESRCH", err)
	}
}

// TestMonitorKilled: its container dies with it, and the client says so.
func TestMonitorKilled(t *testing.T) {
	b := newBox(t, "exec sleep 1000")
	s := b.start(everything)
	if err := syscall.Kill(b.state().MonitorPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	x, err := s.Stream(t.Context(), Streams{})
	if x.Code != 137 || errs.KindOf(err) != errs.Internal {
		t.Errorf("exit %+v, %v", x, err)
	}
	eventually(t, "the container's end", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody may reap it here
	})
}

// TestMonitorIgnores the signals that a shutdown or a mistaken kill sends.
func TestMonitorIgnores(t *testing.T) {
	b := newBox(t, "read x; trap 'exit 9' TERM; kill $$")
	b.job.OpenStdin = true
	s := b.start(everything)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1} {
		if err := syscall.Kill(b.state().MonitorPID, sig); err != nil {
			t.Fatal(err)
		}
	}
	if x, _ := finish(t, s, Streams{In: strings.NewReader("go\n")}); x.Code != 9 { // and the container does not
		t.Errorf("exit %+v", x)
	}
}

func TestRestart(t *testing.T) {
	b := newBox(t, "echo run; exit 4")
	b.job.Restart = wire.Restart{Name: "on-failure", Max: 2}
	x, _ := finish(t, b.start(everything), Streams{})
	if x.Code != 4 || !x.Restarts {
		t.Errorf("the first exit: %+v", x)
	}
	eventually(t, "the third run", func() bool { return strings.Count(b.text("c-json.log"), `"run\n"`) == 3 })
	b.wait()
	if x := b.exit(); x.Code != 4 || x.Restarts != 2 {
		t.Errorf("exit.json %+v", x)
	}
}

func TestRestartEnds(t *testing.T) {
	for name, end := range map[string]func(b *box){
		"stopped by the user": func(b *box) {
			b.settings(container.Settings{Restart: plan.RestartPolicy{Name: "always"}, StoppedByUser: true})
		},
		"stopped on a full disk": func(*box) {}, // settings.json is as it was
		"policy changed":         func(b *box) { b.settings(container.Settings{Restart: plan.RestartPolicy{Name: "no"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "exit 0")
			b.job.Restart = wire.Restart{Name: "unless-stopped"}
			b.settings(container.Settings{Name: "max", Restart: plan.RestartPolicy{Name: "always"}})
			_ = b.start(wire.Attach{}).Close()
			// The pauses grow, so that this is met well within one.
			eventually(t, "a long pause", func() bool {
				return strings.Contains(b.text("run/state.json"), `"restarting"`) && b.state().RestartCount >= 3
			})
			if _, err := Attach(t.Context(), b.dir, everything); errs.KindOf(err) != errs.Conflict {
				t.Errorf("attach while it restarts: %v", err)
			}
			end(b)
			if err := Reload(t.Context(), b.dir, name == "stopped on a full disk"); err != nil {
				t.Error(err)
			}
			b.wait()
			if err := Reload(t.Context(), b.dir, name == "stopped on a full disk"); err != nil {
				t.Errorf("reload of nothing: %v", err)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep 1000")
	b.job.Timeout = 1
	if x, _ := finish(t, b.start(everything), Streams{}); x.Code != 137 {
		t.Errorf("exit %+v, want 137", x)
	}
}

// TestLeftOvers: a container without a pid namespace leaves nothing either.
func TestLeftOvers(t *testing.T) {
	b := newBox(t, "(sleep 1000 & echo $!; setsid sleep 1000 & echo $!); exit 0")
	x, out := finish(t, b.start(everything), Streams{})
	pids := strings.Fields(out)
	if x.Code != 0 || len(pids) != 2 {
		t.Fatalf("exit %+v, output %q", x, out)
	}
	for _, p := range pids {
		pid, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d: %v, want ESRCH", pid, err)
		}
	}
}

func TestCleanup(t *testing.T) {
	for name, tt := range map[string]struct {
		detached, remove bool
		mine             bool   // the client is told to clean up
		mark             string // the program did
	}{
		"run --rm":    {detached: false, remove: true, mine: true},
		"run -d --rm": {detached: true, remove: true, mark: "yes"},
		"run -d":      {detached: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "read x")
			b.job.AutoRemove, b.job.OpenStdin, b.job.StdinOnce = tt.remove, true, true
			b.job.Cleanup = []string{"cais-cleanup", filepath.Join(b.dir, "mark")}
			b.job.CleanupEnv = []string{"MARK=yes"}
			s := b.start(everything)
			if tt.detached {
				_ = s.Close()
				b.wait()
			} else if x, _ := finish(t, s, Streams{In: strings.NewReader("")}); x.Cleanup != tt.mine {
				t.Errorf("exit %+v", x)
			}
			if tt.mark != "" {
				eventually(t, "the cleanup", func() bool { return b.text("mark") == tt.mark })
			} else if b.text("mark") != "" {
				t.Error("the program cleaned up, too")
			}
		})
	}
}

// A command that waits for no end may still be there when it comes.
func TestCleanupOfDetached(t *testing.T) {
	b := newBox(t, "exit 0")
	b.job.AutoRemove, b.job.CleanupEnv = true, []string{"MARK=yes"}
	b.job.Cleanup = []string{"cais-cleanup", filepath.Join(b.dir, "mark")}
	b.start(wire.Attach{})
	eventually(t, "the cleanup", func() bool { return b.text("mark") == "yes" })
}

func TestSignal(t *testing.T) {
	b := newBox(t, "trap 'exit 11' HUP; echo ready; while :; do sleep 0.05; done")
	s := b.start(everything)
	signals := make(chan os.Signal, 1)
	w := writerFunc(func(p []byte) (int, error) { signals <- syscall.SIGHUP; return len(p), nil })
	if x, _ := finish(t, s, Streams{Out: w, Signals: signals}); x.Code != 11 {
		t.Errorf("exit %+v, want 11", x)
	}
}

// TestHostileClient: nonsense on the socket harms nobody.
func TestHostileClient(t *testing.T) {
	b := newBox(t, "read x; echo alive")
	b.job.OpenStdin = true
	first := b.start(everything)
	for _, packet := range [][]byte{
		{0}, {255, 255}, {byte(wire.KindExec), wire.Version, 1, 1}, {byte(wire.KindAttach), 99}, {byte(wire.KindCreate), wire.Version},
		{byte(wire.Stdin), 'x'}, {byte(wire.StdinEOF)}, {byte(wire.KindSignal), wire.Version, 9, 0, 0, 0, 0, 0, 0, 0},
		bytes.Repeat([]byte{byte(wire.Stdin)}, 100000), // larger than a packet may be
	} {
		s, err := dial(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.send(packet, nil) // refused, perhaps
		_ = s.Close()
	}
	if x, out := finish(t, first, Streams{In: strings.NewReader("\n")}); x.Code != 0 || out != "alive\n" {
		t.Errorf("exit %+v, output %q", x, out)
	}
}

// TestNoMoreDescriptors: clients that cannot be let in cost no processor time.
func TestNoMoreDescriptors(t *testing.T) {
	b := newBox(t, "sleep 1000")
	s := b.start(wire.Attach{})
	defer func() { _ = errors.Join(s.Signal(syscall.SIGKILL), s.Close()) }() // it has ended if they fail
	c := container.Container{Dir: b.dir}
	pid, _, err := c.Monitor()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(len(fds)), Max: was.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	var waiting []*Session
	for range 30 {
		w, err := dial(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, w)
	}
	before := ticks(t, pid)
	time.Sleep(500 * time.Millisecond)
	if used := ticks(t, pid) - before; used > 20 {
		t.Errorf("%d ticks of processor time in half a second", used)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	for _, w := range waiting {
		_ = w.Close()
	}
}

// TestManyWait: a hundred commands at once are heard one after another.
func TestManyWait(t *testing.T) {
	b := newBox(t, "sleep 1000")
	s := b.start(wire.Attach{})
	defer func() { _ = errors.Join(s.Signal(syscall.SIGKILL), s.Close()) }() // it has ended if they fail
	c := container.Container{Dir: b.dir}
	pid, _, err := c.Monitor()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil { // busy
		t.Fatal(err)
	}
	for i := range 100 {
		w, err := dial(b.dir)
		if err != nil {
			t.Errorf("client %d: %v", i, err)
			break
		}
		defer w.Close()
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// ticks is the processor time that pid has had.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return user + system
}

// TestLongPath: a socket's path may have 107 bytes, a container's directory more.
func TestLongPath(t *testing.T) {
	b := newBox(t, "sleep 1000")
	long := filepath.Join(b.dir, strings.Repeat("d", 120), strings.Repeat("e", 120))
	if err := errors.Join(os.MkdirAll(long, 0o700), os.Remove(filepath.Join(b.dir, "run")), os.Symlink(long, filepath.Join(b.dir, "run"))); err != nil {
		t.Fatal(err)
	}
	b.job.RunDir = long
	_ = b.start(wire.Attach{}).Close()
	s, err := Attach(t.Context(), b.dir, everything)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if x, _ := finish(t, s, Streams{}); x.Code != 137 {
		t.Errorf("exit %+v", x)
	}
}
