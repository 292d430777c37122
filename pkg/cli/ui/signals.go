package ui

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

type signalsKey struct{}

// twice is how soon a signal after the first is taken for the same: timeout(1)
// sends one to the command and one to its group, and people press a key twice.
const twice = time.Second

// signals cancels a context at the first signal, unless it has an owner.
type signals struct {
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	owner chan<- os.Signal // who gets the signals instead; nil: nobody
	first time.Time        // when the first came
}

// WithSignals returns a context that SIGINT, SIGTERM and SIGHUP cancel, with a
// [SignalError] as the cause. One that comes more than a second after the first
// has its default effect. stop gives up the handling.
func WithSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &signals{cancel: cancel}
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for sig := range ch {
			s.take(sig.(syscall.Signal), time.Now())
		}
	}()
	return context.WithValue(ctx, signalsKey{}, s), func() {
		signal.Stop(ch)
		close(ch)
	}
}

func (s *signals) take(sig syscall.Signal, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.owner != nil:
		select {
		case s.owner <- sig:
		default: // a burst of signals is not worth blocking for
		}
	case s.first.IsZero():
		s.first = now
		s.cancel(&SignalError{sig})
	case now.Sub(s.first) > twice:
		signal.Reset(sig)
		_ = syscall.Kill(os.Getpid(), sig) // ourselves: it cannot fail
	}
}

// OwnSignals sends the signals of [WithSignals] to ch from here on, for a command
// that passes them on to a container; with nil they cancel ctx again. Each signal
// goes one of the two ways: when it returns, ctx tells whether one came before.
func OwnSignals(ctx context.Context, ch chan<- os.Signal) {
	if s, ok := ctx.Value(signalsKey{}).(*signals); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.owner, s.first = ch, time.Time{}
	}
}
