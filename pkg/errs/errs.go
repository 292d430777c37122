// Package errs gives an error a kind, which programs act on, and a hint, which
// tells a person what to do next.
package errs

import "errors"

// Kind decides the exit code of a command and, later, the API socket's status.
type Kind uint8

// The kinds. Their order carries no meaning.
const (
	None        Kind = iota // no error
	Internal                // a bug, or a failure nobody has classified yet
	Invalid                 // the request is wrong; retrying cannot help
	NotFound                // the named thing does not exist
	Conflict                // it exists, or its state forbids this
	Denied                  // the kernel or a registry said no
	Unsupported             // this host lacks what the request needs
	Unavailable             // worth retrying: network, lock, busy
)

// Error is one failure.
type Error struct {
	Op   string // what was tried, and on what: "pull docker.io/library/alpine:3.20"; empty when Err says it all
	Kind Kind
	Hint string // a whole sentence saying what to do; may be empty
	Err  error  // why it failed; never nil
}

// Error returns "op: cause". The hint is not part of it: the report at the top
// prints it on a line of its own.
func (e *Error) Error() string {
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// E returns an error of kind k: op failed because of err.
func E(op string, k Kind, err error) error { return &Error{Op: op, Kind: k, Err: err} }

// New returns an error of kind k whose whole text is text.
func New(k Kind, text string) error { return &Error{Kind: k, Err: errors.New(text)} }

// WithHint returns err with a sentence for the person who reads it. The kind
// stays what it was.
func WithHint(err error, hint string) error {
	return &Error{Kind: KindOf(err), Hint: hint, Err: err}
}

// KindOf returns the kind of the outermost error in err's tree that has one;
// Internal if none has, None if err is nil.
func KindOf(err error) Kind {
	if err == nil {
		return None
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// HintOf returns the outermost hint in err's tree that is not empty, or "".
func HintOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
