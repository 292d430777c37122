// Package container holds the commands about containers.
package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
)

// wanted is which streams a command connects, and how.
type wanted struct {
	in, out, err bool
	tty          bool
	detachKeys   []byte
	proxy        bool // pass signals on
}

// attach asks for the streams; a terminal gets the size of ours before it gets
// what is typed.
func (w wanted) attach(s ui.Streams) wire.Attach {
	a := wire.Attach{Stdin: w.in, Stdout: w.out, Stderr: w.err}
	if w.tty {
		a.Rows, a.Cols = size(s)
	}
	return a
}

// raw reports whether our terminal becomes the container's.
func (w wanted) raw(s ui.Streams) bool { return w.tty && w.in && s.InTerminal() }

// checkTerminal refuses -it without a terminal: the person would type into
// nothing.
func (w wanted) checkTerminal(s ui.Streams) error {
	if w.tty && w.in && !s.InTerminal() {
		return ui.Exit(ui.CodeFailure, errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal"))
	}
	return nil
}

// size is that of our terminal; 0 without one.
func size(s ui.Streams) (rows, cols uint16) {
	for _, f := range []*os.File{s.OutFile(), s.InFile()} {
		if f == nil {
			continue
		}
		if rows, cols, err := sys.WindowSize(int(f.Fd())); err == nil {
			return rows, cols
		}
	}
	return 0, 0
}

// detachKeys are those of the flag, else of Docker's configuration, else the
// usual ones.
func detachKeys(e *engine.Engine, flag string) ([]byte, error) {
	if flag == "" {
		flag = e.ClientFormat("detachKeys")
	}
	keys, err := session.ParseDetachKeys(flag)
	return keys, ui.Exit(ui.CodeUsage, err)
}

// signals are what a command passes on while it is attached.
type signals struct{ ch chan os.Signal }

// catchSignals takes the signals that would end the program and do not cancel its
// context. Call it before there is a process to pass them on to: whoever ends in
// between leaves that alone.
func catchSignals() signals {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, caught()...) // 0.2 ms: Go switches threads for each
	return signals{ch}
}

// caught are the signals that can be caught and passed on.
func caught() []os.Signal {
	var list []os.Signal
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, // come by way of the context
			syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPIPE, syscall.SIGWINCH,
			syscall.SIGCHLD, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGTSTP, syscall.SIGCONT:
		default:
			list = append(list, n)
		}
	}
	return list
}

// proxied are the signals to pass on: SIGWINCH is the session's, the runtime's
// own and those about children are nobody's.
func (g signals) proxied(ctx context.Context, s ui.Streams, cancel context.CancelCauseFunc, proxy bool) <-chan os.Signal {
	out := make(chan os.Signal, 16)
	go func() {
		var last time.Time
		for sig := range g.ch {
			if ctx.Err() != nil { // the process has ended
				continue
			}
			if !proxy {
				if s, ok := sig.(syscall.Signal); ok && (s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP) {
					cancel(&ui.SignalError{Signal: s})
				}
				continue
			}
			if sig == syscall.SIGINT {
				// Not at once: that is one key press that reached us twice.
				if d := time.Since(last); d > 50*time.Millisecond && d < 2*time.Second {
					fmt.Fprintln(s.Err, "The container's first process seems to ignore SIGINT: 'cais stop' ends it, and --init would have made it listen.")
				}
				last = time.Now()
			}
			select {
			case out <- sig:
			default: // a burst of signals is not worth blocking for
			}
		}
	}()
	return out
}

// stream connects our streams with the session until it ends, and passes on what
// g has caught and catches. It returns the process's exit.
func stream(ctx context.Context, s ui.Streams, g signals, ses *session.Session, w wanted) (session.Exit, error) {
	signal.Ignore(syscall.SIGPIPE) // a closed stdout is an error of write: there may be things left to do
	ui.OwnSignals(ctx, g.ch)
	defer ui.OwnSignals(ctx, nil) // what is left to do then is ours
	if early, ok := errors.AsType[*ui.SignalError](context.Cause(ctx)); ok && w.proxy {
		// It came while the process started, and is the process's like any later one.
		ctx = context.WithoutCancel(ctx)
		g.ch <- early.Signal
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st := session.Streams{DetachKeys: w.detachKeys, Signals: g.proxied(ctx, s, cancel, w.proxy)}
	if w.in {
		st.In = s.In
	}
	if w.out {
		st.Out = s.Out
	}
	if w.err {
		st.Err = s.Err
	}
	if w.raw(s) {
		st.Terminal = s.InFile()
	} else if !w.tty {
		st.DetachKeys = nil
	}
	exit, err := ses.Stream(ctx, st)
	if err != nil && errors.Is(err, context.Canceled) {
		if sig, ok := errors.AsType[*ui.SignalError](context.Cause(ctx)); ok { // --sig-proxy=false
			return exit, &ui.ExitError{Code: 128 + int(sig.Signal)}
		}
	}
	if errors.Is(err, syscall.EPIPE) { // as any program ends whose reader has enough
		return exit, &ui.ExitError{Code: 128 + int(syscall.SIGPIPE)}
	}
	return exit, err
}

// exitError is how a command ends with its process's code.
func exitError(code int) error {
	if code == 0 {
		return nil
	}
	return &ui.ExitError{Code: code}
}

// startFailure gives an error of a start its exit code: the one that says what
// kept the command from being executed, else failure.
func startFailure(err error, failure int) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*ui.ExitError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*ui.UsageError](err); ok {
		return err
	}
	if se, ok := errors.AsType[*session.StartError](err); ok && se.Code != 0 {
		return ui.Exit(startCode(se, err), withAdvice(err, se.Error()))
	}
	return ui.Exit(failure, err)
}

// startCode is Docker's code for what failed before a command: exec's is one, run's
// depends on these words.
func startCode(se *session.StartError, err error) int {
	if se.Code != ui.CodeUsage {
		return se.Code
	}
	if _, exec := errors.AsType[*ui.ExecError](err); exec {
		return 126
	}
	if strings.HasSuffix(se.Error(), syscall.ENOENT.Error()) {
		return 127
	}
	return se.Code
}

// withAdvice gives some refusals of the kernel, which knows no more, their usual
// reason. They are told by their text, which may come from a monitor.
func withAdvice(err error, text string) error {
	switch {
	case strings.HasPrefix(text, `exec "-`):
		return errs.WithHint(err, "Options go before the image, or before the container's name: what follows is the command.")
	case strings.HasPrefix(text, `exec "/`) && strings.HasSuffix(text, syscall.ENOENT.Error()):
		return errs.WithHint(err, "It is not in the container, or what runs it is not: the program after a script's #!, or a program's loader (ldd names it).")
	case strings.HasSuffix(text, syscall.ENOEXEC.Error()):
		return errs.WithHint(err, "It is a script without #!, or for another architecture: qemu-user-static has the kernel run those (binfmt_misc with the flag F).")
	}
	return err
}
