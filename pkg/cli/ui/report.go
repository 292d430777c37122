package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/errs"
)

// The exit codes that are not a container's own.
const (
	CodeFailure  = 1   // an ordinary failure, a wrong number of arguments, an unknown command
	CodeTemplate = 64  // info, version, events, inspect: --format does not parse
	CodeUsage    = 125 // an unknown flag or a flag's bad value; run: failure before the process starts
)

// ExitError ends the command with exit code Code. Err, if there is one, is
// printed; without it the command has had its say.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the cause's text.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return "exit status " + strconv.Itoa(e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Exit returns an error that prints err and ends the command with code; nil if
// err is nil.
func Exit(code int, err error) error {
	if err == nil {
		return nil
	}
	return &ExitError{Code: code, Err: err}
}

// ExecError is why a command did not start in a container that runs. Docker has
// other words for it than for a container's own command.
type ExecError struct{ Err error }

// Error returns the cause's text.
func (e *ExecError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ExecError) Unwrap() error { return e.Err }

// UsageError is a command line that does not make sense.
type UsageError struct {
	Command string // "cais stop"
	Usage   string // its use line; empty if it would not help
	Code    int
	Err     error
}

// Error returns the cause's text.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// SignalError is the cause of a context that a signal cancelled.
type SignalError struct{ Signal syscall.Signal }

// Error names the signal.
func (e *SignalError) Error() string { return e.Signal.String() }

// Is makes it a cancellation to those who only ask for that.
func (e *SignalError) Is(target error) bool { return target == context.Canceled }

// Reporting says how errors are printed.
type Reporting struct {
	// Failure is the exit code of an error that does not bring its own.
	Failure int
	// Docker prints Docker's own strings, for scripts that compare them. It is
	// chosen by calling the program "docker", or by CAIS_DOCKER_ERRORS=1.
	Docker bool
}

// Report prints err once and returns the exit code.
func (r Reporting) Report(ctx context.Context, w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var exit *ExitError
	code := r.Failure
	if errors.As(err, &exit) {
		if exit.Err == nil {
			return exit.Code
		}
		code = exit.Code
	}
	if u, ok := errors.AsType[*UsageError](err); ok {
		r.usage(w, u)
		return u.Code
	}
	if sig, ok := errors.AsType[*SignalError](err); ok { // the context's cause
		return 128 + int(sig.Signal) // the user pressed it and knows
	}
	if sig, ok := errors.AsType[*SignalError](context.Cause(ctx)); ok && errors.Is(err, context.Canceled) {
		return 128 + int(sig.Signal)
	}
	if errors.Is(err, context.Canceled) {
		return 128 + int(syscall.SIGINT)
	}
	for _, e := range flatten(err) {
		var said interface{ Reported() bool }
		if errors.As(e, &said) && said.Reported() {
			continue // a child of ours has printed it
		}
		fmt.Fprintln(w, harmless(r.line(e)))
		if hint := hint(e); hint != "" {
			fmt.Fprintln(w, "Hint:", harmless(hint))
		}
	}
	return code
}

// hint is what an error says of what to do next, or what everybody can say of its
// end. That is compared as a text, for it may come from a monitor.
func hint(err error) string {
	text := err.Error()
	switch said := errs.HintOf(err); {
	case said != "":
		return said
	case strings.HasSuffix(text, syscall.EMFILE.Error()):
		return "The limit of open files is too low: raise it with ulimit -n."
	case strings.HasSuffix(text, syscall.ENOSPC.Error()), strings.HasSuffix(text, syscall.EDQUOT.Error()):
		return "Make room there: 'cais system df' shows what cais holds; 'cais rm', which needs no room, removes containers."
	}
	return ""
}

func (r Reporting) usage(w io.Writer, u *UsageError) {
	if r.Docker {
		fmt.Fprintf(w, "docker: %s\n", u.Err)
	} else {
		fmt.Fprintf(w, "Error: %s\n", u.Err)
	}
	if hint := errs.HintOf(u.Err); hint != "" {
		fmt.Fprintln(w, "Hint:", hint)
	}
	if u.Usage != "" {
		fmt.Fprintf(w, "\nUsage:  %s\n", u.Usage)
	}
	fmt.Fprintf(w, "\nRun '%s --help' for more information\n", u.Command)
}

// flatten takes apart what errors.Join put together, so that each failure of a
// command with several arguments has a line of its own.
func flatten(err error) []error {
	if e, ok := err.(*ExitError); ok && e.Err != nil {
		err = e.Err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || !strings.Contains(err.Error(), "\n") { // fmt.Errorf with several %w is one sentence
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// harmless is text of ours, of one or more lines, with the control characters of
// others in it spelled out.
func harmless(text string) string { return spell(text, "\n\t") }

// OneLine is text, of an image, a registry, a file's name, with its control
// characters spelled out: it is not to steer the terminal, or begin another line.
func OneLine(text string) string { return spell(text, "") }

func spell(text, but string) string {
	bad := func(c rune) bool { return (c < ' ' || c >= 0x7f && c < 0xa0) && !strings.ContainsRune(but, c) }
	if !strings.ContainsFunc(text, bad) {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if bad(c) {
			fmt.Fprintf(&b, `\x%02x`, c)
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// line is an error's line.
func (r Reporting) line(err error) string {
	text := err.Error()
	var whole interface{ Line() string } // the words of a tool of its own
	if errors.As(err, &whole) {
		return whole.Line()
	}
	if r.Docker {
		var own interface{ DockerText() string }
		if errors.As(err, &own) {
			return "Error response from daemon: " + own.DockerText()
		}
		_, inside := errors.AsType[*ExecError](err)
		return dockerText(text, errs.KindOf(err), inside)
	}
	return "Error: " + text
}

// dockerText gives the errors that scripts look for in Docker's words. Errors
// of the engine carry its prefix, others do not. inside says that the error is
// exec's.
func dockerText(text string, kind errs.Kind, inside bool) string {
	const engine = "Error response from daemon: "
	if name, ok := strings.CutPrefix(text, "no such object: "); ok {
		return "Error: No such object: " + name
	}
	for _, noun := range []string{"container", "image"} {
		if name, ok := strings.CutPrefix(text, "no such "+noun+": "); ok {
			return engine + "No such " + noun + ": " + name
		}
	}
	if name, ok := strings.CutPrefix(text, "no such volume: "); ok {
		return engine + "get " + name + ": no such volume"
	}
	if rest, ok := strings.CutPrefix(text, "container "); ok && strings.HasSuffix(text, " is not running") {
		return engine + "Container " + rest
	}
	if rest, ok := strings.CutPrefix(text, "the container name "); ok {
		if name, id, ok := cutConflict(rest); ok {
			return engine + `Conflict. The container name "/` + name + `" is already in use by container "` + id +
				`". You have to remove (or rename) that container to be able to reuse that name.`
		}
	}
	if rest, ok := strings.CutPrefix(text, "container "); ok {
		if name, ok := strings.CutSuffix(rest, " is running: stop it first or use -f"); ok {
			return engine + "You cannot remove a running container " + name +
				". Stop the container before attempting removal or force remove"
		}
	}
	if rest, ok := strings.CutPrefix(text, `exec "`); ok {
		failed := engine + "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed"
		if inside {
			failed = "OCI runtime exec failed: exec failed"
		}
		return failed + ": unable to start container process: exec: \"" + rest + ": unknown"
	}
	switch kind {
	case errs.NotFound, errs.Conflict, errs.Denied, errs.Unavailable:
		return engine + text
	}
	return "Error: " + text
}

// cutConflict takes `"web" is already in use by container "<id>"; …` apart.
func cutConflict(s string) (name, id string, ok bool) {
	part := strings.SplitN(s, `"`, 5)
	if len(part) < 5 || part[2] != " is already in use by container " {
		return "", "", false
	}
	return part[1], part[3], true
}
