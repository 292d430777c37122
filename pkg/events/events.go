// Package events is what happened to containers, images, networks and volumes:
// one file for each store, to which every command and every monitor appends a
// line, and which `events` reads and follows. Nobody has to run for it.
//
// A line is Docker's JSON without what can be derived:
//
//	{"Type":"container","Action":"start","Actor":{"ID":"…","Attributes":{"name":"web"}},"time":1,"timeNano":1000000000}
//
// It is appended by one write to a file that is opened for appending, so lines of
// several writers do not mix. One that a full disk or a kill tore is passed over.
package events

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/logs/jsonfile"
)

// The kinds of things that events are about: Docker's words.
const (
	Container = "container"
	Image     = "image"
	Network   = "network"
	Volume    = "volume"
	Builder   = "builder"
)

// Event is one thing that happened.
type Event struct {
	Type       string            // container, image, network, volume, builder, daemon
	Action     string            // create, start, die, …
	ID         string            // of what it happened to: a container's full id, an image's name or id, a volume's name
	Attributes map[string]string // name, image, labels and what belongs to the action
	Time       time.Time         // the zero value: when it is appended
}

const (
	// maxSize is where a file is full, maxFiles how many there are with the
	// current one.
	maxSize  = 4 << 20
	maxFiles = 4
)

// Log is the file of one store. The zero value keeps nothing.
type Log struct{ Path string }

// In returns the log of the store at root.
func In(root string) Log { return Log{Path: filepath.Join(root, "events", "events.json")} }

// Append adds events, in this order. What happened has happened: callers go on
// when it fails.
func (l Log) Append(list ...Event) error {
	if l.Path == "" || len(list) == 0 {
		return nil
	}
	var b []byte
	for _, e := range list {
		if e.Time.IsZero() {
			e.Time = time.Now()
		}
		b = appendTime(AppendHead(b, e), e.Time)
	}
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | syscall.O_NOFOLLOW
	fd, err := syscall.Open(l.Path, flags|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(l.Path), 0o700); err == nil {
			fd, err = syscall.Open(l.Path, flags|syscall.O_CLOEXEC, 0o600)
		}
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: l.Path, Err: err}
	}
	n, err := syscall.Write(fd, b)
	if err == nil && n < len(b) {
		err = syscall.ENOSPC
	}
	var st syscall.Stat_t
	full := syscall.Fstat(fd, &st) == nil && st.Size >= maxSize
	if e := syscall.Close(fd); err == nil {
		err = e
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: l.Path, Err: err}
	}
	if full {
		return l.rotate()
	}
	return nil
}

// rotate makes room. Whoever has the old file open still adds to it: readers
// look at a file again before they leave it.
func (l Log) rotate() error {
	k, err := lock.Try(l.Path+".lock", true)
	if errors.Is(err, lock.ErrHeld) {
		return nil // somebody does it
	}
	if err != nil {
		return err
	}
	defer k.Release()
	if fi, err := os.Lstat(l.Path); err != nil || fi.Size() < maxSize {
		return nil //nolint:nilerr // somebody has done it
	}
	for i := maxFiles - 1; i > 0; i-- {
		if err := os.Rename(jsonfile.Rotated(l.Path, i-1), jsonfile.Rotated(l.Path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// AppendHead appends e's line up to its time: what a monitor is given, which
// knows when it happens.
func AppendHead(b []byte, e Event) []byte {
	b = append(b, `{"Type":"`...)
	b = jsonfile.AppendString(b, []byte(e.Type))
	b = append(b, `","Action":"`...)
	b = jsonfile.AppendString(b, []byte(e.Action))
	b = append(b, `","Actor":{"ID":"`...)
	b = jsonfile.AppendString(b, []byte(e.ID))
	b = append(b, `","Attributes":{`...)
	b = AppendAttributes(b, e.Attributes)
	return append(b, "}}"...)
}

// AppendAttributes appends the inside of a JSON object, sorted by name.
func AppendAttributes(b []byte, attrs map[string]string) []byte {
	for i, k := range slices.Sorted(maps.Keys(attrs)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = jsonfile.AppendString(b, []byte(k))
		b = append(b, `":"`...)
		b = jsonfile.AppendString(b, []byte(attrs[k]))
		b = append(b, '"')
	}
	return b
}

// appendTime ends a line that AppendHead began.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, `,"time":`...)
	b = strconv.AppendInt(b, t.Unix(), 10)
	b = append(b, `,"timeNano":`...)
	b = strconv.AppendInt(b, t.UnixNano(), 10)
	return append(b, "}\n"...)
}

// parse reads a line; false if it is none.
func parse(line []byte) (Event, bool) {
	var m Message
	if json.Unmarshal(line, &m) != nil || m.Type == "" {
		// What a torn line left may stand before a whole one: no string holds this.
		i := strings.LastIndex(string(line), `{"Type":"`)
		if i <= 0 || json.Unmarshal(line[i:], &m) != nil {
			return Event{}, false
		}
	}
	return Event{Type: m.Type, Action: m.Action, ID: m.Actor.ID, Attributes: m.Actor.Attributes, Time: time.Unix(0, m.TimeNano)}, true
}

// Message is an event as Docker's API has it, with Docker's names for
// templates.
type Message struct {
	Status   string `json:"status,omitempty"`
	ID       string `json:"id,omitempty"`
	From     string `json:"from,omitempty"`
	Type     string
	Action   string
	Actor    Actor
	Scope    string `json:"scope,omitempty"`
	Time     int64  `json:"time,omitempty"`     // s since 1970
	TimeNano int64  `json:"timeNano,omitempty"` // ns since 1970
}

// Actor is what an event is about.
type Actor struct {
	ID         string
	Attributes map[string]string
}

// Message returns e in Docker's form. The first three fields are for clients of
// its first API: containers and images have them only.
func (e Event) Message() Message {
	m := Message{
		Type: e.Type, Action: e.Action, Actor: Actor{ID: e.ID, Attributes: e.Attributes},
		Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
	switch e.Type {
	case Container:
		m.Status, m.ID, m.From = e.Action, e.ID, e.Attributes["image"]
	case Image:
		m.Status, m.ID = e.Action, e.ID
	}
	return m
}
