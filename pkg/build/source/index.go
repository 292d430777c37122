package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/atomicfile"
)

// index is what an earlier build learned of the files in a directory: if a file's
// size, times, inode and mode are what they were, so are its contents. git's rule
// keeps it honest: a file that changed so shortly before it was looked at that a
// second change would not show in its times is not believed.
//
// The file has a head, then for each entry numbers of fixed size, its path and
// its link target. It is only a cache: one that does not make sense counts as
// empty.
type index struct {
	file    string // "": nothing is kept
	known   map[string]*record
	dirty   bool
	started time.Time // before anything was looked at
	under   []string  // directories that were walked whole, "." the root
}

type record struct {
	size         int64
	mtime, ctime int64 // ns
	ino          uint64
	mode         uint32
	fresh        bool // too young to be believed
	sum          [32]byte
	link         string
	seen         bool
}

const (
	indexMagic = "cais context 1\n"
	// granularity is how coarse the times of a file system may be (FAT, NFS).
	granularity = 2 * time.Second
	recordSize  = 8*4 + 4 + 1 + 32 + 2 + 4
	// maxIndex is the longest index that is read, a million files or so.
	maxIndex = 256 << 20
)

// openIndex returns what dir has about the directory root.
func openIndex(root *os.File, dir string) *index {
	x := &index{known: map[string]*record{}, started: time.Now()}
	if dir == "" {
		return x
	}
	var st unix.Stat_t
	if unix.Fstat(int(root.Fd()), &st) != nil {
		return x
	}
	abs, err := filepath.Abs(root.Name())
	if err != nil {
		return x
	}
	id := sha256.Sum256(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte(abs+"\x00"), st.Dev), st.Ino))
	x.file = filepath.Join(dir, hex.EncodeToString(id[:16]))
	if fi, err := os.Stat(x.file); err != nil || fi.Size() > maxIndex {
		return x
	}
	data, err := os.ReadFile(x.file)
	if err != nil {
		return x
	}
	if known, ok := parseIndex(data); ok {
		x.known = known
	}
	return x
}

func parseIndex(data []byte) (map[string]*record, bool) {
	if len(data) < len(indexMagic)+32 || string(data[:len(indexMagic)]) != indexMagic {
		return nil, false
	}
	body := data[len(indexMagic) : len(data)-8]
	// A torn file cannot be, for it is replaced whole; a damaged disk can.
	if checksum(body) != binary.LittleEndian.Uint64(data[len(data)-8:]) {
		return nil, false
	}
	text := unsafe.String(unsafe.SliceData(body), len(body)) // all the paths; nobody writes to body
	n := binary.LittleEndian.Uint64(body)
	if n > uint64(len(body)/recordSize) {
		return nil, false
	}
	known := make(map[string]*record, n)
	all := make([]record, n)
	at := 8
	for i := range all {
		if at+recordSize > len(body) {
			return nil, false
		}
		b, r := body[at:], &all[i]
		r.size, r.mtime, r.ctime = int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))
		r.ino, r.mode, r.fresh = binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint32(b[32:]), b[36] == 1
		copy(r.sum[:], b[37:])
		link, name := int(binary.LittleEndian.Uint16(b[69:])), int(binary.LittleEndian.Uint32(b[71:]))
		at += recordSize
		if name < 0 || at+name+link > len(body) {
			return nil, false
		}
		r.link = text[at+name : at+name+link]
		known[text[at:at+name]] = r
		at += name + link
	}
	return known, true
}

func checksum(b []byte) uint64 { // FNV-1a over words
	h := uint64(14695981039346656037)
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * 1099511628211
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func nanos(t unix.Timespec) int64 { return t.Nano() }

// find returns what is known of e; nil if it must be read.
func (x *index) find(name string, e *Entry) *record {
	r := x.known[name]
	if r == nil {
		return nil
	}
	r.seen = true
	// A directory's size and times are its list's, which is read anyway; its
	// attributes change its ctime.
	if r.fresh || r.size != e.Size || r.mtime != nanos(e.Mtime) || r.ctime != nanos(e.Ctime) || r.ino != e.Ino || r.mode != e.Mode {
		return nil
	}
	return r
}

func (x *index) put(name string, e *Entry) {
	limit := x.started.Add(-granularity).UnixNano()
	fresh := nanos(e.Mtime) >= limit || nanos(e.Ctime) >= limit
	if old := x.known[name]; fresh && old != nil && old.fresh && old.sum == e.sum {
		old.seen = true
		return // still too young: nothing to write down
	}
	x.known[name] = &record{
		size: e.Size, mtime: nanos(e.Mtime), ctime: nanos(e.Ctime), ino: e.Ino, mode: e.Mode,
		fresh: fresh, sum: e.sum, link: e.Link, seen: true,
	}
	x.dirty = true
}

// walked notes that all that is below dir was looked at.
func (x *index) walked(dir string) { x.under = append(x.under, dir) }

// save writes the index if it has news. A failure only makes the next build
// slower.
func (x *index) save() {
	if x.file == "" || !x.dirty {
		return
	}
	gone := func(name string) bool {
		for _, d := range x.under {
			if d == "." || name == d || strings.HasPrefix(name, d+"/") {
				return true
			}
		}
		return false
	}
	n := 0
	body := make([]byte, 8, 8+len(x.known)*(recordSize+48))
	for name, r := range x.known {
		if !r.seen && gone(name) || len(r.link) > 1<<16-1 {
			continue
		}
		n++
		for _, v := range []uint64{uint64(r.size), uint64(r.mtime), uint64(r.ctime), r.ino} {
			body = binary.LittleEndian.AppendUint64(body, v)
		}
		body = binary.LittleEndian.AppendUint32(body, r.mode)
		fresh := byte(0)
		if r.fresh {
			fresh = 1
		}
		body = append(body, fresh)
		body = append(body, r.sum[:]...)
		body = binary.LittleEndian.AppendUint16(body, uint16(len(r.link)))
		body = binary.LittleEndian.AppendUint32(body, uint32(len(name)))
		body = append(append(body, name...), r.link...)
	}
	binary.LittleEndian.PutUint64(body, uint64(n))
	out := append([]byte(indexMagic), body...)
	out = binary.LittleEndian.AppendUint64(out, checksum(body))
	if os.MkdirAll(filepath.Dir(x.file), 0o700) == nil {
		_ = atomicfile.Write(x.file, out, 0o600, false)
	}
}
