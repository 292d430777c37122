// Package progress is what a build says while it runs: the events of its steps,
// the [Log] that makes them, and the views that show them, to a person at a
// terminal, to a log file in the lines that BuildKit writes, or as JSON.
package progress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
)

// Kind is what an event tells.
type Kind uint8

// The events of a step, in the order in which they come.
const (
	Start  Kind = iota + 1 // Name is set
	Output                 // Stream and Data are set
	Change                 // Item is set
	Warn                   // Data is the warning's text
	Finish                 // Cached, Err are set
)

// Event is one thing that happened to a step.
type Event struct {
	Kind   Kind
	Step   int // counts from 1, in the order in which steps begin
	Time   time.Time
	Name   string // "[build 2/4] RUN make"
	Cached bool   // nothing was done
	Err    error  // why it failed; [context.Canceled] if it was not its own fault
	Stream int    // 1 or 2, as the step's command wrote it
	Data   []byte // complete lines, each with its newline but perhaps the last
	Item   Item
}

// Item is a part of a step: a layer that is fetched, a file that is written.
type Item struct {
	Name        string // "sha256:…", "exporting layers"
	Done, Total int64  // bytes; Total 0: unknown, or not counted in bytes
	Finished    bool
	Started     time.Time
}

// View shows events. Its methods are called one at a time; Close ends the
// picture.
type View interface {
	Event(Event)
	Close()
}

// ticker is a view that changes by itself as time passes.
type ticker interface {
	Tick(now time.Time)
	Every() time.Duration
}

// Log makes events of what the parts of a build report. All methods, and those
// of the steps, may be called by several goroutines; a nil Log says nothing.
type Log struct {
	mu     sync.Mutex
	view   View
	now    func() time.Time
	last   int
	closed bool
	hidden []string
	stop   chan struct{} // closed with the log
}

// New returns a log that view shows; the caller closes it. A nil view shows
// nothing.
func New(view View) *Log {
	l := &Log{view: view, now: time.Now, stop: make(chan struct{})}
	if t, ok := view.(ticker); ok {
		go l.tick(t)
	}
	return l
}

func (l *Log) tick(t ticker) {
	every := time.NewTicker(t.Every())
	defer every.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-every.C:
			l.mu.Lock()
			if !l.closed {
				t.Tick(l.now())
			}
			l.mu.Unlock()
		}
	}
}

// Hide has values that must not be shown replaced by asterisks in what commands
// write: secrets given in the environment. Only what is written later is looked
// at, and only values of four bytes or more, for shorter ones would be anywhere.
func (l *Log) Hide(values ...string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range values {
		for part := range strings.SplitSeq(v, "\n") { // lines are looked at one by one
			if part = strings.TrimSuffix(part, "\r"); len(part) >= 4 {
				l.hidden = append(l.hidden, part)
			}
		}
	}
}

// withoutPasswords writes xxxxx in the place of PASSWORD wherever s has
// ://USER:PASSWORD@.
func withoutPasswords(s string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		end := strings.IndexAny(rest, "/?# \t\n\"'")
		if end < 0 {
			end = len(rest)
		}
		if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
			if user, password, _ := strings.Cut(rest[:at], ":"); password != "" {
				b.WriteString(user + ":xxxxx")
				rest = rest[at:]
			}
		}
		s = rest
	}
}

// Step begins a step. The caller ends it by [Step.Done]. Passwords in the addresses
// that its name has are not shown.
func (l *Log) Step(name string) *Step {
	if l == nil || l.view == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	s := &Step{log: l, id: l.last}
	s.out.s, s.out.stream, s.err.s, s.err.stream = s, 1, s, 2
	l.send(Event{Kind: Start, Step: s.id, Name: withoutPasswords(name)})
	return s
}

// Close ends the picture; what is reported later is dropped.
func (l *Log) Close() {
	if l == nil || l.view == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.stop)
		l.view.Close()
	}
}

// send is called with mu held.
func (l *Log) send(e Event) {
	if l.closed {
		return
	}
	e.Time = l.now()
	l.view.Event(e)
}

// Step is a step of a build that has begun. A nil Step says nothing.
type Step struct {
	log      *Log
	id       int
	ended    bool
	items    map[string]Item
	out, err stream
}

// Stdout takes what the step's command writes to its standard output.
func (s *Step) Stdout() io.Writer {
	if s == nil {
		return io.Discard
	}
	return &s.out
}

// Stderr takes what the step's command writes to its standard error.
func (s *Step) Stderr() io.Writer {
	if s == nil {
		return io.Discard
	}
	return &s.err
}

// Item reports how far a part of the step is, in bytes; total 0 is unknown.
func (s *Step) Item(name string, done, total int64) {
	s.item(Item{Name: name, Done: done, Total: total})
}

// ItemDone reports that a part of the step is complete; size is what it came to
// in bytes, 0 if that is not counted.
func (s *Step) ItemDone(name string, size int64) {
	s.item(Item{Name: name, Done: size, Finished: true})
}

func (s *Step) item(i Item) {
	if s == nil {
		return
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.ended {
		return
	}
	if s.items == nil {
		s.items = map[string]Item{}
	}
	if before, ok := s.items[i.Name]; ok {
		i.Started, i.Total = before.Started, max(i.Total, before.Total)
	} else {
		i.Started = s.log.now()
	}
	s.items[i.Name] = i
	s.log.send(Event{Kind: Change, Step: s.id, Item: i})
}

// Warn reports what the user should know and what stops nothing.
func (s *Step) Warn(text string) {
	if s == nil {
		return
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.send(Event{Kind: Warn, Step: s.id, Data: []byte(text)})
}

// Cached ends the step: nothing had to be done.
func (s *Step) Cached() { s.end(Event{Kind: Finish, Cached: true}) }

// Done ends the step; err is why it failed, nil if it did not. Only the first
// end of a step counts.
func (s *Step) Done(err error) { s.end(Event{Kind: Finish, Err: err}) }

func (s *Step) end(e Event) {
	if s == nil {
		return
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.ended {
		return
	}
	s.out.flush()
	s.err.flush()
	s.ended = true
	e.Step = s.id
	s.log.send(e)
}

// maxLine is how much of a line without an end is kept back.
const maxLine = 16 << 10

// stream cuts what a command writes into lines, so that lines of two commands
// do not mix and secrets are found that came in pieces.
type stream struct {
	s      *Step
	stream int
	buf    []byte
}

// Write takes the next bytes. It never fails.
func (w *stream) Write(p []byte) (int, error) {
	w.s.log.mu.Lock()
	defer w.s.log.mu.Unlock()
	if w.s.ended {
		return len(p), nil
	}
	w.buf = append(w.buf, p...)
	if i := bytes.LastIndexByte(w.buf, '\n'); i >= 0 {
		w.send(w.buf[:i+1])
		w.buf = append(w.buf[:0], w.buf[i+1:]...)
	}
	if len(w.buf) > maxLine {
		w.flush()
	}
	return len(p), nil
}

func (w *stream) flush() {
	if len(w.buf) > 0 {
		w.send(w.buf)
		w.buf = w.buf[:0]
	}
}

func (w *stream) send(data []byte) {
	data = bytes.Clone(data)
	for _, h := range w.s.log.hidden {
		data = bytes.ReplaceAll(data, []byte(h), []byte("****"))
	}
	w.s.log.send(Event{Kind: Output, Step: w.s.id, Stream: w.stream, Data: data})
}

// canceled reports whether a step ended because the build did.
func canceled(err error) bool { return errors.Is(err, context.Canceled) }
