package ui

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

type signalsKey struct{}

// signals cancels a context at the first signal; the second one ends the
// process in the kernel's way.
type signals struct {
	ch   chan os.Signal
	once sync.Once
}

func (s *signals) stop() {
	s.once.Do(func() {
		signal.Stop(s.ch)
		close(s.ch)
	})
}

// WithSignals returns a context that SIGINT, SIGTERM and SIGHUP cancel, with a
// [SignalError] as the cause. After the first one, signals have their default
// effect again. stop gives up the handling.
func WithSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &signals{ch: make(chan os.Signal, 1)}
	signal.Notify(s.ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if sig, ok := (<-s.ch).(syscall.Signal); ok {
			cancel(&SignalError{sig})
			s.stop()
		}
	}()
	return context.WithValue(ctx, signalsKey{}, s), s.stop
}

// OwnSignals ends what [WithSignals] began, for a command that handles signals
// by itself, such as one that forwards them to a container: call it after
// signal.Notify, so that no signal finds its default effect between. A signal
// that has cancelled ctx already stays one.
func OwnSignals(ctx context.Context) {
	if s, ok := ctx.Value(signalsKey{}).(*signals); ok {
		s.stop()
	}
}
