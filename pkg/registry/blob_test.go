package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/faultproxy"
)

func TestBlobFaults(t *testing.T) {
	const mb = 1 << 20
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("f", 8*mb, 1)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	type fault = faultproxy.Fault
	tests := []struct {
		name     string
		faults   []fault
		kind     errs.Kind
		text     string
		wrong    bool // all bytes come, but not the right ones
		requests int
		moved    int64 // bytes at most, in blobs
	}{
		{name: "nothing", requests: 1, moved: 1},
		{name: "cut by FIN", faults: []fault{{CutAt: 3 * mb}}, requests: 3, moved: 1},
		{name: "cut by RST", faults: []fault{{CutAt: 3 * mb, Reset: true, Times: 2}}, requests: 3, moved: 2}, // what is on the way is lost
		{name: "cut often, always with progress", faults: []fault{{CutAt: mb + 1}}, requests: 9, moved: 1},
		{name: "cut with little progress", faults: []fault{{CutAt: 1000, Times: 5}}, requests: 6, moved: 1},
		{name: "cut with too little progress", faults: []fault{{CutAt: 1000}}, kind: errs.Unavailable, text: "broke 6 times at byte 6000", requests: 6, moved: 1},
		{name: "ranges ignored", faults: []fault{{CutAt: 3 * mb, Times: 1}, {IgnoreRange: true}}, requests: 2, moved: 2},
		{name: "truncated with the right length", faults: []fault{{EndAt: 3 * mb, Length: int64(len(l.Data)), Times: 1}}, requests: 2, moved: 1},
		{name: "truncated with a wrong length", faults: []fault{{EndAt: 3 * mb}}, kind: errs.Invalid, text: "sends for " + l.Digest + " 3145728 bytes, the manifest says", requests: 1, moved: 1},
		{name: "announced too long", faults: []fault{{Length: 9 * mb}}, kind: errs.Invalid, text: "9437184 bytes, the manifest says", requests: 1, moved: 1},
		{name: "flipped", faults: []fault{{FlipAt: 5 * mb}}, wrong: true, requests: 1, moved: 1},
		{name: "stalled", faults: []fault{{StallAt: 2 * mb, Times: 1}}, requests: 2, moved: 1},
		{name: "stalled for ever", faults: []fault{{StallAt: 100}}, kind: errs.Unavailable, text: "no data for too long", requests: 6, moved: 1},
		{name: "429 in the middle", faults: []fault{{CutAt: 3 * mb, Times: 1}, {Status: 429, Times: 2}}, requests: 4, moved: 1},
		{name: "500 in the middle", faults: []fault{{CutAt: 3 * mb, Times: 1}, {Status: 500, Times: 3}}, requests: 5, moved: 1},
		{name: "404 in the middle", faults: []fault{{CutAt: 3 * mb, Times: 1}, {Status: 404}}, kind: errs.NotFound, text: "blob unknown", requests: 2, moved: 1},
		{name: "wrong range", faults: []fault{{CutAt: 3 * mb, Times: 1}, {Status: 206, Header: map[string]string{"Content-Range": "bytes 0-9/10"}}},
			kind: errs.Invalid, text: `the range "bytes 0-9/10"`, requests: 2, moved: 1},
		{name: "403 in the middle", faults: []fault{{CutAt: 3 * mb, Times: 1}, {Status: 403}}, kind: errs.Denied, text: "pull access denied", requests: 2, moved: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := faultproxy.New(reg)
			for _, f := range tt.faults {
				f.Path = "/blobs/"
				p.Add(f)
			}
			c, _ := client(t, Options{})
			if c.stall = 10 * time.Second; strings.Contains(tt.name, "stall") {
				c.stall = 50 * time.Millisecond
			}
			var data []byte
			body, err := c.Blob(t.Context(), parse(t, serve(t, p)+"/app:1"), l.Descriptor, 0)
			if err == nil {
				data, err = io.ReadAll(body)
				body.Close()
			}
			if errs.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v (kind %v); want kind %v, %q", err, errs.KindOf(err), tt.kind, tt.text)
			}
			if err == nil && bytes.Equal(data, l.Data) == tt.wrong {
				t.Errorf("%d bytes of %d, right: %v", len(data), len(l.Data), !tt.wrong)
			}
			requests := p.Requests("/blobs/")
			if len(requests) != tt.requests {
				t.Errorf("%d requests, want %d: %+v", len(requests), tt.requests, requests)
			}
			var moved int64
			for _, r := range requests {
				moved += r.Bytes
			}
			if limit := tt.moved * (l.Size + mb/2); moved > limit {
				t.Errorf("%d bytes moved, want at most %d", moved, limit)
			}
		})
	}
}

// An expired token in the middle of a download is replaced.
func TestBlobTokenExpires(t *testing.T) {
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("f", 4<<20, 2)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	p := faultproxy.New(reg)
	p.Add(faultproxy.Fault{Path: "/blobs/", CutAt: 1<<20 + 1})
	a := &faultproxy.Auth{Next: p, Uses: 1}
	c, _ := client(t, Options{})
	body, err := c.Blob(t.Context(), parse(t, serve(t, a)+"/app:1"), l.Descriptor, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, l.Data) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if a.Issued() < 4 {
		t.Errorf("%d tokens, want one for each request", a.Issued())
	}
}

func TestBlobBackoff(t *testing.T) {
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("f", 1<<20, 3)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	p := faultproxy.New(reg)
	p.Add(faultproxy.Fault{Path: "/blobs/", CutAt: 10})
	c, k := client(t, Options{})
	body, err := c.Blob(t.Context(), parse(t, serve(t, p)+"/app:1"), l.Descriptor, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadAll(body); err == nil {
		t.Fatal("it worked")
	}
	ms := time.Millisecond
	if want := []time.Duration{200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms}; !equal(k.slept, want) {
		t.Errorf("slept %v, want %v", k.slept, want)
	}
}

func TestBlobForeignLayer(t *testing.T) {
	elsewhere := faultproxy.New(faultproxy.Registry())
	url := "http://" + serve(t, elsewhere) + "/layer\x1b"
	c, _ := client(t, Options{})
	d := faultproxy.NewLayer("a", "b").Descriptor
	d.URLs = []string{url}
	_, err := c.Blob(t.Context(), parse(t, serve(t, faultproxy.Registry())+"/app:1"), d, 0)
	if errs.KindOf(err) != errs.Unsupported || !strings.Contains(err.Error(), strconv.Quote(url)) || errs.HintOf(err) == "" {
		t.Errorf("got %v, want Unsupported naming %q, and a hint", err, url)
	}
	if n := len(elsewhere.Requests("")); n != 0 {
		t.Errorf("%d requests to where the image said", n)
	}
}

func TestBlobCancel(t *testing.T) {
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("f", 1<<20, 4)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	p := faultproxy.New(reg)
	p.Add(faultproxy.Fault{Path: "/blobs/", StallAt: 1000})
	c, _ := client(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	body, err := c.Blob(ctx, parse(t, serve(t, p)+"/app:1"), l.Descriptor, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := body.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if n := len(p.Requests("/blobs/")); n != 1 {
		t.Errorf("%d requests: resumed after the end", n)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 5-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes -1-2/3", "octets 0-1/2", "bytes 0-1/18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, end, size, ok := parseContentRange(s)
		if ok && (start < 0 || size != -1 && (end <= start || size < end)) {
			t.Errorf("%q: from %d to %d of %d", s, start, end, size)
		}
	})
}

// A part is exactly that, resumed like all of a blob; who sends another one, or
// everything, is not read.
func TestPart(t *testing.T) {
	const mb = 1 << 20
	reg := faultproxy.Registry()
	l := faultproxy.RandomLayer("f", 8*mb, 1)
	faultproxy.Push(reg, "app", "1", faultproxy.NewImage("linux/amd64", nil, l))
	ranged := func(s string) []faultproxy.Fault {
		return []faultproxy.Fault{{Status: http.StatusPartialContent, Header: map[string]string{"Content-Range": s}}}
	}
	tests := []struct {
		name     string
		from, to int64
		faults   []faultproxy.Fault
		kind     errs.Kind
		text     string
		requests int
	}{
		{name: "in the middle", from: 3 * mb, to: 5 * mb, requests: 1},
		{name: "from the start", from: 0, to: 10, requests: 1},
		{name: "to the end", from: 8 * mb, to: l.Size, requests: 1},
		{name: "cut", from: 2 * mb, to: 7 * mb, faults: []faultproxy.Fault{{CutAt: 2 * mb, Times: 2}}, requests: 3},
		{name: "all of it", from: 2 * mb, to: 7 * mb, faults: []faultproxy.Fault{{IgnoreRange: true}}, kind: errs.Unsupported, text: "does not send parts", requests: 1},
		{name: "cut, then all of it", from: 2 * mb, to: 7 * mb, faults: []faultproxy.Fault{{CutAt: 2 * mb, Times: 1}, {IgnoreRange: true}}, kind: errs.Unsupported, text: "does not send parts", requests: 2},
		{name: "another part", from: 1, to: 5, faults: ranged("bytes 0-3/" + strconv.FormatInt(l.Size, 10)), kind: errs.Invalid, text: "asked for the bytes 1-4", requests: 1},
		{name: "a longer part", from: 1, to: 5, faults: ranged("bytes 1-5/" + strconv.FormatInt(l.Size, 10)), kind: errs.Invalid, text: "asked for the bytes 1-4", requests: 1},
		{name: "of another blob", from: 1, to: 5, faults: ranged("bytes 1-4/9"), kind: errs.Invalid, text: "9 bytes, the manifest says", requests: 1},
		{name: "416", from: 1, to: 5, faults: []faultproxy.Fault{{Status: http.StatusRequestedRangeNotSatisfiable}}, kind: errs.Internal, requests: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := faultproxy.New(reg)
			for _, f := range tt.faults {
				f.Path = "/blobs/"
				p.Add(f)
			}
			c, _ := client(t, Options{})
			var data []byte
			body, err := c.Part(t.Context(), parse(t, serve(t, p)+"/app:1"), l.Descriptor, tt.from, tt.to)
			if err == nil {
				data, err = io.ReadAll(body)
				body.Close()
			}
			if (err != nil) != (tt.kind != errs.None) || tt.kind != errs.Internal && errs.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v (kind %v); want kind %v, %q", err, errs.KindOf(err), tt.kind, tt.text)
			}
			if err == nil && !bytes.Equal(data, l.Data[tt.from:tt.to]) {
				t.Errorf("%d bytes, want those from %d to %d", len(data), tt.from, tt.to)
			}
			if n := len(p.Requests("/blobs/")); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string][3]int64{
		"bytes 5-9/10": {5, 10, 10}, "bytes 5-9/*": {5, 10, -1}, "bytes 0-0/1": {0, 1, 1}, "bytes 5-8/10": {5, 9, 10},
		"bytes 6-5/10": {}, "bytes 5-10/10": {}, "bytes */10": {}, "5-9/10": {}, "": {}, "bytes 5-9": {}, "bytes +5-9/10": {}, "bytes 5-/10": {},
	} {
		start, end, size, ok := parseContentRange(s)
		if ok != (want[1] != 0) || ok && want != [3]int64{start, end, size} {
			t.Errorf("%q: got %d, %d, %d, %v; want %v", s, start, end, size, ok, want)
		}
	}
}

// Reading a blob costs no more than the copy out of the kernel.
func BenchmarkBlob(b *testing.B) {
	data := make([]byte, 64<<20)
	d := oci.Descriptor{Digest: faultproxy.Digest(nil), Size: int64(len(data))}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Header().Set("Content-Length", "67108864")
			w.Write(data)
		}
	})
	srv := serve(b, h)
	c := New(Options{})
	ref, err := oci.Parse(srv + "/app:1")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 512<<10)
	b.SetBytes(d.Size)
	for b.Loop() {
		body, err := c.Blob(b.Context(), ref, d, 0)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, buf); err != nil || n != d.Size {
			b.Fatal(n, err)
		}
		body.Close()
	}
}
