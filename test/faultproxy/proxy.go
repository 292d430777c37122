// Package faultproxy stands between a client and a registry in tests and makes
// things go wrong: connections that break, bytes that change, answers that say
// come later. It also makes images and a registry to serve them.
package faultproxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is what goes wrong with the requests that it matches. The fields after
// Times may be combined; zero values do nothing.
type Fault struct {
	Method string // "": any
	Path   string // a part of the URL's path; "": any
	Skip   int    // let this many matching requests pass first
	Times  int    // then apply to this many; 0: to all

	CutAt       int64             // break the connection once this many bytes of body are out
	Reset       bool              // …by RST instead of FIN
	EndAt       int64             // end the body here, and announce this length: a proxy that truncates
	FlipAt      int64             // change the body's byte number FlipAt (from 1)
	StallAt     int64             // send nothing more once this many bytes are out, until the client goes
	Status      int               // answer so, without asking the registry
	Body        string            // …and with this
	Header      map[string]string // headers to add to any answer
	Length      int64             // announce this Content-Length
	IgnoreRange bool              // answer 200 with everything
	PerSecond   int64             // bytes per second

	// Of what the client sends; nothing of it comes to the registry.
	TakeCutAt   int64 // break the connection once this many bytes of body are in
	TakeStallAt int64 // take no more of it, and keep the connection
}

// Request is one that came.
type Request struct {
	Method, Path, Range, Authorization string
	Host                               string
	Bytes                              int64 // of the body that went out
}

// Proxy is an http.Handler around another.
type Proxy struct {
	next http.Handler

	mu       sync.Mutex
	faults   []*counted
	requests []*Request
}

type counted struct {
	Fault
	seen int
}

// New returns a proxy without faults in front of next.
func New(next http.Handler) *Proxy { return &Proxy{next: next} }

// Add adds a fault. The first one that matches a request is applied.
func (p *Proxy) Add(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &counted{Fault: f})
}

// Requests returns those whose path contains part, in the order of coming.
func (p *Proxy) Requests(part string) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Request
	for _, r := range p.requests {
		if strings.Contains(r.Path, part) {
			all = append(all, *r)
		}
	}
	return all
}

// Reset forgets the faults and the requests.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.requests = nil, nil
}

// arrive takes note of a request and returns its fault.
func (p *Proxy) arrive(r *http.Request) (*Request, Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	req := &Request{Method: r.Method, Path: r.URL.Path, Host: r.Host,
		Range: r.Header.Get("Range"), Authorization: r.Header.Get("Authorization")}
	p.requests = append(p.requests, req)
	for _, f := range p.faults {
		if f.Method != "" && f.Method != r.Method || !strings.Contains(r.URL.Path, f.Path) {
			continue
		}
		f.seen++
		if f.seen > f.Skip && (f.Times == 0 || f.seen <= f.Skip+f.Times) {
			return req, f.Fault
		}
	}
	return req, Fault{}
}

// ServeHTTP passes the request on, through its fault.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, f := p.arrive(r)
	for k, v := range f.Header {
		w.Header().Set(k, v)
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	if f.IgnoreRange {
		r.Header.Del("Range")
	}
	fw := &faulty{ResponseWriter: w, f: f, r: r}
	if at := max(f.TakeCutAt, f.TakeStallAt); at > 0 {
		io.CopyN(io.Discard, r.Body, at)
		if f.TakeStallAt > 0 {
			fw.hold()
			return
		}
		fw.cut()
	}
	defer func() {
		p.mu.Lock()
		req.Bytes = fw.out
		p.mu.Unlock()
	}()
	p.next.ServeHTTP(fw, r)
}

// faulty is a response on its way out.
type faulty struct {
	http.ResponseWriter
	f   Fault
	r   *http.Request
	out int64
}

func (w *faulty) WriteHeader(code int) {
	switch {
	case w.f.Length > 0:
		w.Header().Set("Content-Length", strconv.FormatInt(w.f.Length, 10))
	case w.f.EndAt > 0:
		w.Header().Set("Content-Length", strconv.FormatInt(w.f.EndAt, 10))
	}
	w.ResponseWriter.WriteHeader(code)
}

var errOver = errors.New("faultproxy: the rest is not sent")

func (w *faulty) Write(b []byte) (int, error) {
	n := len(b)
	stop := func(at int64) bool { // cuts b at the body's byte at
		if at > 0 && w.out+int64(len(b)) >= at {
			b = b[:at-w.out]
			return true
		}
		return false
	}
	if i := w.f.FlipAt - 1 - w.out; w.f.FlipAt > 0 && i >= 0 && i < int64(len(b)) {
		b = append([]byte(nil), b...)
		b[i] ^= 1
	}
	switch {
	case stop(w.f.CutAt):
		if err := w.send(b); err != nil {
			return 0, err
		}
		w.cut()
	case stop(w.f.StallAt):
		if err := w.send(b); err != nil {
			return 0, err
		}
		<-w.r.Context().Done()
		return 0, errOver
	case stop(w.f.EndAt):
		if err := w.send(b); err != nil {
			return 0, err
		}
		return 0, errOver
	}
	if err := w.send(b); err != nil {
		return 0, err
	}
	return n, nil
}

// send writes b at the pace that is set.
func (w *faulty) send(b []byte) error {
	const slice = 20 // a second has this many
	for len(b) > 0 {
		n := len(b)
		if w.f.PerSecond > 0 {
			n = min(n, int(max(1, w.f.PerSecond/slice)))
			t := time.NewTimer(time.Second / slice)
			select {
			case <-t.C:
			case <-w.r.Context().Done():
				t.Stop()
				return errOver
			}
		}
		if _, err := w.ResponseWriter.Write(b[:n]); err != nil {
			return err
		}
		w.out += int64(n)
		b = b[n:]
		if w.f.PerSecond > 0 || w.f.StallAt > 0 {
			http.NewResponseController(w.ResponseWriter).Flush()
		}
	}
	return nil
}

// hold takes the connection from the server, which would read on, and keeps it for
// longer than a test waits.
func (w *faulty) hold() {
	if conn, _, err := http.NewResponseController(w.ResponseWriter).Hijack(); err == nil {
		time.AfterFunc(time.Minute, func() { conn.Close() })
	}
}

// cut breaks the connection and ends the handler.
func (w *faulty) cut() {
	rc := http.NewResponseController(w.ResponseWriter)
	if w.out > 0 {
		rc.Flush()
	}
	if conn, _, err := rc.Hijack(); err == nil {
		if tcp, ok := conn.(*net.TCPConn); ok && w.f.Reset {
			tcp.SetLinger(0) // close sends RST: socket(7)
		}
		conn.Close()
	}
	panic(http.ErrAbortHandler)
}
