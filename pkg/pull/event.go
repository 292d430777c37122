package pull

import (
	"strings"
	"sync"

	"cais.dev/cais/pkg/oci"
)

// EventKind says what happened.
type EventKind uint8

// The events. A layer's are in this order; Retrying may come in between.
const (
	Pulling     EventKind = iota // an image: Ref
	Preparing                    // a layer that is not here
	Exists                       // a layer that is here
	Waiting                      // for another process that pulls it
	Downloading                  // Done of Total bytes
	Retrying                     // the bytes were wrong: Text
	Extracting                   // all bytes are here
	Complete                     // recorded
)

// Event is progress. It is for people: nothing follows from it.
type Event struct {
	Kind        EventKind
	Ref         oci.Reference
	Layer       string // the first 12 digits of the blob's digest
	Done, Total int64
	Text        string
}

// emitter calls one at a time.
type emitter struct {
	mu sync.Mutex
	to func(Event)
}

func newEmitter(to func(Event)) *emitter { return &emitter{to: to} }

func (e *emitter) emit(ev Event) {
	if e == nil || e.to == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.to(ev)
}

// short returns 12 digits of a digest.
func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}
