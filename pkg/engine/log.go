package engine

import (
	"context"
	"io"
	"log/slog"
	"strings"
)

// Log returns the logger: warnings as lines on stderr, with --debug everything,
// with --log-level error or fatal nothing.
func (e *Engine) Log() *slog.Logger { return e.s.log() }

func (e *Engine) newLog() *slog.Logger {
	level := e.o.LogLevel
	switch {
	case e.o.Stderr == nil || (level == "error" || level == "fatal") && !e.o.Debug:
		return slog.New(slog.DiscardHandler)
	case e.o.Debug || level == "debug":
		return slog.New(slog.NewTextHandler(e.o.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(warnings{e.o.Stderr})
}

// warnings prints what people should know, as commands print their own warnings.
type warnings struct{ w io.Writer }

func (warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h warnings) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString("WARNING: " + r.Message)
	sep := " ("
	r.Attrs(func(a slog.Attr) bool {
		line.WriteString(sep + a.Key + ": " + a.Value.String())
		sep = ", "
		return true
	})
	if sep == ", " {
		line.WriteByte(')')
	}
	line.WriteByte('\n')
	_, err := io.WriteString(h.w, line.String())
	return err
}

// WithAttrs and WithGroup are of no use here: no logger with some is made.
func (h warnings) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h warnings) WithGroup(string) slog.Handler      { return h }
