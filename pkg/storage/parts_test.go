package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/chunked"
	"cais.dev/cais/pkg/oci"
)

const note = "io.github.containers.zstd-chunked."

// random is content that does not get smaller.
func random(seed byte, size int) string {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return string(b)
}

// parted is a layer in a registry that has parts to give.
type parted struct {
	tar, blob []byte
	d         oci.Descriptor
	moved     int
	requests  int
}

func newParted(t *testing.T, entries ...entry) *parted {
	t.Helper()
	p := &parted{tar: tarOf(t, entries...)}
	blob, notes := chunkedBlob(t, p.tar)
	p.blob, p.d = blob, oci.Descriptor{Digest: oci.Digest(blob), Size: int64(len(blob)), Annotations: notes}
	return p
}

func (p *parted) get(_ context.Context, from, to int64) (io.ReadCloser, error) {
	p.requests++
	p.moved += int(to - from)
	if from < 0 || to > int64(len(p.blob)) || from >= to {
		return nil, fmt.Errorf("asked for %d to %d of %d", from, to, len(p.blob))
	}
	return io.NopCloser(bytes.NewReader(p.blob[from:to])), nil
}

func (p *parted) stage(t *testing.T, s *Store) (*Staged, error) {
	t.Helper()
	return s.StageParts(t.Context(), LayerSource{DiffID: string(sha(p.tar))}, p.d, p.get)
}

// What is in files of other layers, by the same paths, is not downloaded; what
// comes of both is the very layer.
func TestParts(t *testing.T) {
	s := openStore(t)
	big, old, small := random(1, 1<<20), random(2, 400<<10), []entry{{Name: "etc/"}, {Name: "etc/empty"}}
	for i := range 200 {
		small = append(small, entry{Name: fmt.Sprintf("etc/%03d", i), Body: random(byte(i), 3000)})
	}
	rest := []entry{{Name: "bin/", Mode: 0o1777}, {Name: "bin/big", Body: big, Mode: 0o4755, UID: 3}, {Name: "hard", Link: "bin/big", Type: '1'}}
	put(t, s, "docker.io/library/old:1", gzLayer(t, append(rest, entry{Name: "bin/app", Body: old})...), gzLayer(t, small...))

	changed := append(small[:len(small):len(small)], entry{Name: "bin/app", Body: random(3, 400<<10)}, entry{Name: "new name", Body: big[:300<<10]},
		entry{Name: "zeros", Body: strings.Repeat("\x00", 1<<20)}, entry{Name: "bin/link", Link: "app", Type: '2'})
	l := newParted(t, append(rest, changed...)...)
	st, err := l.stage(t, s)
	if err != nil || st == nil {
		t.Fatal(st, err)
	}
	if need := 700 << 10; l.moved < need || l.moved > need+100<<10 || l.requests != 2 {
		t.Errorf("%d bytes of %d in %d requests, want about %d in 2: the table, and what is new", l.moved, len(l.blob), l.requests, need)
	}
	id, err := s.CommitLayers(t.Context(), "", st)
	if err != nil {
		t.Fatal(err)
	}
	clean(t, s)
	layers, err := s.reader.layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.verify(t.Context(), s.reader.noImage(), layers[id]); err != nil {
		t.Errorf("its tar: %v", err)
	}
	var got unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.reader.LayerDir(id), "bin/big"), &got); err != nil || got.Nlink != 2 || got.Uid != 3 || got.Mode&0o7777 != 0o4755 {
		t.Errorf("bin/big: %+v, %v; want a file of its own, with the names that it has here", got, err)
	}

	// Not worth it: too small, too little of it is here, not of this form.
	if st, err := newParted(t, entry{Name: "bin/big", Body: big[:500<<10]}).stage(t, s); st != nil || err != nil {
		t.Errorf("a small one: %v, %v", st, err)
	}
	if st, err := newParted(t, entry{Name: "other", Body: big}, entry{Name: "etc/000", Body: random(0, 3000)}).stage(t, s); st != nil || err != nil {
		t.Errorf("one with little of what is here: %v, %v", st, err)
	}
	l.d.Annotations = map[string]string{"org.example": "1"}
	if st, err := l.stage(t, s); st != nil || err != nil {
		t.Errorf("one that does not say what is in it: %v, %v", st, err)
	}
}

// rewrite replaces a layer's table of contents, and keeps its digest right.
func (p *parted) rewrite(t *testing.T, change func(table map[string]any)) {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var from, length, plain, split, splitLength int64
	if _, err := fmt.Sscanf(p.d.Annotations[note+"manifest-position"]+" "+p.d.Annotations[note+"tarsplit-position"], "%d:%d:%d:1 %d:%d", &from, &length, &plain, &split, &splitLength); err != nil {
		t.Fatal(err)
	}
	raw, err := d.DecodeAll(p.blob[from:from+length], nil)
	if err != nil {
		t.Fatal(err)
	}
	var table map[string]any
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	change(table)
	if raw, err = json.Marshal(table); err != nil {
		t.Fatal(err)
	}
	p.retail(t, from, raw, p.blob[split:split+splitLength])
}

// retail gives a layer a table and a (compressed) tar-split.
func (p *parted) retail(t *testing.T, from int64, table, split []byte) {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	table = e.EncodeAll(table, nil)
	p.blob = append(append(p.blob[:from:from], table...), split...)
	p.d.Size = int64(len(p.blob))
	p.d.Annotations[note+"manifest-position"] = fmt.Sprintf("%d:%d:1:1", from, len(table))
	p.d.Annotations[note+"manifest-checksum"] = oci.Digest(table)
	p.d.Annotations[note+"tarsplit-position"] = fmt.Sprintf("%d:%d:1", from+int64(len(table)), len(split))
}

func packed(t *testing.T, s string) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll([]byte(s), nil)
}

// Whatever a layer says of itself, nothing is staged but what has its digest.
func TestHostileParts(t *testing.T) {
	s := openStore(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(random(9, 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := random(1, 1<<20), random(2, 1<<20)
	put(t, s, "docker.io/library/old:1", gzLayer(t, entry{Name: "a", Body: a}, entry{Name: "dir", Link: filepath.Dir(secret), Type: '2'}, entry{Name: "link", Link: secret, Type: '2'}))
	of := func(table map[string]any, name string) map[string]any {
		for _, e := range table["entries"].([]any) {
			if m := e.(map[string]any); m["name"] == name {
				return m
			}
		}
		t.Fatalf("no %s", name)
		return nil
	}
	set := func(name, key string, v any) func(*parted) {
		return func(p *parted) { p.rewrite(t, func(table map[string]any) { of(table, name)[key] = v }) }
	}
	annotate := func(key, v string) func(*parted) { return func(p *parted) { p.d.Annotations[note+key] = v } }
	tests := map[string]struct {
		change func(*parted)
		want   string
	}{
		"a file that is not in the tar": {set("b", "name", "b2"), "has no"},
		"parts in another order": {func(p *parted) {
			*p = *newParted(t, entry{Name: "a", Body: a}, entry{Name: "b", Body: b[:9000]}, entry{Name: "c", Body: b[9000:18000]})
			p.rewrite(t, func(x map[string]any) { swap(of(x, "b"), of(x, "c")) })
		}, "out of the tar's order"},
		"what is here is not what is in it": {func(p *parted) { // the tar has b where the table says that it is a
			*p = *newParted(t, entry{Name: "a", Body: b}, entry{Name: "b", Body: b})
			p.rewrite(t, func(x map[string]any) { of(x, "a")["digest"] = oci.Digest([]byte(a)) })
		}, "uncompressed layer"},
		"a part that is another's":      {func(p *parted) { p.rewrite(t, func(x map[string]any) { of(x, "c")["offset"] = of(x, "b")["offset"] }) }, "of the blob"},
		"a part that is behind its end": {set("b", "endOffset", 1), "of the blob"},
		"a part before the blob":        {set("b", "offset", -1), "of the blob"},
		"a part behind the files":       {func(p *parted) { p.rewrite(t, func(x map[string]any) { of(x, "c")["endOffset"] = p.d.Size }) }, "of the blob"},
		"a part that is too short": {func(p *parted) {
			p.rewrite(t, func(x map[string]any) { of(x, "b")["endOffset"] = of(x, "b")["offset"].(float64) + 9 })
		}, "unexpected EOF"},
		"a negative size":          {set("b", "size", -1), "-1 bytes"},
		"a size that is no number": {set("b", "size", "1"), "cannot unmarshal"},
		"a file twice":             {set("b", "name", "a"), `entry "a"`},
		"no entries":               {func(p *parted) { p.rewrite(t, func(x map[string]any) { delete(x, "entries") }) }, "no entries"},
		"entries that are none":    {func(p *parted) { p.rewrite(t, func(x map[string]any) { x["entries"] = 1 }) }, "where [ should be"},
		"a later version":          {func(p *parted) { p.rewrite(t, func(x map[string]any) { x["version"] = 2; delete(x, "entries") }) }, "version is 2"},
		"no table":                 {func(p *parted) { p.retail(t, 2<<20, []byte("["), packed(t, "")) }, "where { should be"},
		"a table that is too long": {func(p *parted) {
			p.retail(t, 2<<20, []byte(`{"entries":[`+strings.Repeat(" ", 64<<20)+"]}"), packed(t, ""))
		}, "larger than"},
		"a table that is not compressed": {func(p *parted) {
			p.d.Annotations[note+"manifest-position"] = "0:9:1:1"
			p.d.Annotations[note+"manifest-checksum"] = oci.Digest(p.blob[:9])
		}, "table of contents"},
		"a table of another digest":    {annotate("manifest-checksum", oci.Digest(nil)), "does not have its digest"},
		"a table behind the end":       {annotate("manifest-position", "99999999:1:1:1"), "manifest-position"},
		"a table of impossible length": {annotate("manifest-position", "9:9223372036854775807:1:1"), "manifest-position"},
		"a table before the blob":      {annotate("manifest-position", "-1:2:1:1"), "manifest-position"},
		"a table that is nowhere":      {annotate("manifest-position", "x"), "manifest-position"},
		"tar-split before the table":   {annotate("tarsplit-position", "1:1:1"), "at "},
		"tar-split that is none":       {func(p *parted) { p.resplit(t, "nothing") }, "tar-split"},
		"tar-split that ends too soon": {func(p *parted) { p.resplit(t, `{"type":2,"payload":"AAAA","position":0}`+"\n") }, "unexpected EOF"},
		"tar-split of an endless file": {func(p *parted) {
			p.resplit(t, `{"type":1,"name":"a","size":9000000000000000000,"payload":"","position":0}`+"\n")
		}, "shorter than it was"},
		"tar-split of files that are not": {func(p *parted) {
			p.resplit(t, `{"type":1,"name":"../../../../../../etc/passwd","size":9,"payload":"","position":0}`+"\n")
		}, "has no"},
		"tar-split that fills the disk with copies of what is here": {func(p *parted) {
			p.resplit(t, strings.Repeat(`{"type":1,"name":"a","size":1048576,"payload":"","position":0}`+"\n", 2))
		}, "out of the tar's order"},
		"a file that would be read again for each of its names": {set("b", "name", "./a"), "the same file"},
		"a blob that ends too soon":                             {func(p *parted) { p.blob = p.blob[:1<<20] }, "asked for"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newParted(t, entry{Name: "a", Body: a}, entry{Name: "b", Body: b}, entry{Name: "c", Body: b[:9]})
			tt.change(p)
			st, err := p.stage(t, s)
			if st != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, %v; want an error with %q", st, err, tt.want)
			}
			clean(t, s)
		})
	}
	// A link in a layer does not lead to what is outside of it.
	p := newParted(t, entry{Name: "link", Body: random(9, 1<<20)}, entry{Name: "dir/secret", Body: random(9, 1<<20)}, entry{Name: "../" + strings.Repeat("../", 20) + secret, Body: random(9, 1<<20)})
	if st, err := p.stage(t, s); st != nil || err != nil {
		t.Errorf("files behind links: %v, %v; want none found", st, err)
	}
	clean(t, s)
}

func swap(a, b map[string]any) {
	for _, k := range []string{"offset", "endOffset", "digest"} {
		a[k], b[k] = b[k], a[k]
	}
}

// resplit gives a layer a tar-split.
func (p *parted) resplit(t *testing.T, split string) {
	t.Helper()
	var keep []byte
	p.rewrite(t, func(table map[string]any) { keep, _ = json.Marshal(table) })
	var from int64
	if _, err := fmt.Sscanf(p.d.Annotations[note+"manifest-position"], "%d:", &from); err != nil {
		t.Fatal(err)
	}
	p.retail(t, from, keep, packed(t, split))
}

// Files that were changed are not taken.
func TestPartsOfChangedFiles(t *testing.T) {
	s := openStore(t)
	a := random(1, 1<<20)
	img := put(t, s, "docker.io/library/old:1", gzLayer(t, entry{Name: "a", Body: a}))
	p := newParted(t, entry{Name: "a", Body: a}, entry{Name: "b", Body: random(2, 300<<10)})
	dir := s.reader.LayerDir(img.TopLayer)
	st, err := p.stage(t, s)
	if st == nil || err != nil {
		t.Fatal(st, err)
	}
	if err := s.Discard(st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte(random(4, 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := p.stage(t, s); st != nil || err != nil {
		t.Errorf("of a file that was changed: %v, %v; want too little of it here", st, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st, err := s.StageParts(ctx, LayerSource{DiffID: string(sha(p.tar))}, p.d, p.get); st != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", st, err)
	}
	clean(t, s)
}

// What unpacks to absurd sizes is refused as in any other layer: by what came of the
// blob, whose size is only claimed, and of files that are here.
func TestPartsAreLimited(t *testing.T) {
	d := &differ{src: LayerSource{most: new(atomic.Int64)}}
	for _, factor := range []int64{1, limitFactor} {
		if _, err := io.Copy(io.Discard, allow(io.NopCloser(strings.NewReader("12345")), d.src.most, factor)); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.src.most.Load(); got != 5+5*limitFactor {
		t.Errorf("may unpack to %d bytes", got)
	}
	if err := d.limit(limitSize+1, limitSize+1); errs.KindOf(err) != errs.Invalid {
		t.Errorf("%d bytes, of which 10 are explained: %v", limitSize+1, err)
	}
}

// A tar-split that unpacks to hundreds of gigabytes of nothing can be interrupted.
func TestEndlessTarSplit(t *testing.T) {
	s := openStore(t)
	a := random(1, 1<<20)
	put(t, s, "docker.io/library/old:1", gzLayer(t, entry{Name: "a", Body: a}))
	p := newParted(t, entry{Name: "a", Body: a}, entry{Name: "b", Body: random(2, 300<<10)})
	at := strings.Split(p.d.Annotations[note+"tarsplit-position"], ":")
	from, err1 := strconv.Atoi(at[0])
	length, err2 := strconv.Atoi(at[1])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	nothing := packed(t, strings.Repeat(`{"type":2,"payload":""}`+"\n", 4<<20))
	p.blob = slices.Concat(p.blob[:from+length], bytes.Repeat(nothing, 48<<20/len(nothing)))
	p.d.Size = int64(len(p.blob))
	p.d.Annotations[note+"tarsplit-position"] = fmt.Sprintf("%d:%d:1", from, len(p.blob)-from)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	src := LayerSource{DiffID: string(sha(p.tar)), Progress: func(int64) { cancel() }}
	if st, err := s.StageParts(ctx, src, p.d, p.get); st != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", st, err)
	}
	clean(t, s)
}

// Looking for files that are here ends when nobody waits for it.
func TestHoldsEnds(t *testing.T) {
	s := openStore(t)
	img := put(t, s, "docker.io/library/old:1", gzLayer(t, entry{Name: "a", Body: "text"}))
	dir, err := unix.Open(s.reader.LayerDir(img.TopLayer), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, want := range []bool{true, false} {
		if got := holds(ctx, dir, chunked.File{Name: "a", Size: 4, Digest: oci.Digest([]byte("text"))}); got != want {
			t.Errorf("%v, want %v", got, want)
		}
		cancel()
	}
}
