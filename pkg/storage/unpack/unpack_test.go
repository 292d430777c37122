package unpack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vbatts/tar-split/tar/asm"
	splitstore "github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// e is one member of a tar made by a test.
type e struct {
	name, link, body string
	typ              byte // 0: a file, or a directory if the name ends in a slash
	mode             int64
	uid, gid         int
	pax              map[string]string
	major, minor     int64
	mtime            time.Time
}

func tarOf(t testing.TB, members ...e) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Linkname: m.link, Size: int64(len(m.body)), Typeflag: m.typ, Mode: m.mode, Uid: m.uid, Gid: m.gid,
			PAXRecords: m.pax, Devmajor: m.major, Devminor: m.minor, ModTime: m.mtime}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(m.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", m.name, err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatalf("%q: %v", m.name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// place is a directory to unpack into, with a canary beside it.
type place struct {
	t            testing.TB
	outside, dir string
	before       string
}

func newPlace(t testing.TB) *place {
	t.Helper()
	base := t.TempDir()
	p := &place{t: t, outside: filepath.Join(base, "outside"), dir: filepath.Join(base, "in", "dir")}
	for _, dir := range []string{p.outside, p.dir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.outside, "canary"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.before = p.listing()
	return p
}

// listing describes everything outside, with inodes and times.
func (p *place) listing() string {
	var b strings.Builder
	err := filepath.WalkDir(filepath.Dir(p.outside), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == p.dir {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(&b, path, st.Ino, st.Mode, st.Uid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return b.String()
}

func (p *place) unpack(blob []byte, o Options) (Result, error) {
	p.t.Helper()
	res, err := Tar(p.t.Context(), p.dir, bytes.NewReader(blob), o)
	if after := p.listing(); after != p.before {
		p.t.Errorf("outside changed:\n%s\nwas\n%s", after, p.before)
	}
	return res, err
}

// at describes what is at a path inside: its type, and content or target.
func (p *place) at(path string) string {
	full := filepath.Join(p.dir, path)
	fi, err := os.Lstat(full)
	switch {
	case err != nil:
		return "nothing"
	case fi.Mode().IsRegular():
		b, err := os.ReadFile(full)
		if err != nil {
			return err.Error()
		}
		return "file " + string(b)
	case fi.IsDir():
		return "dir"
	case fi.Mode()&os.ModeSymlink != 0:
		to, _ := os.Readlink(full)
		return "link " + to
	case fi.Mode()&os.ModeCharDevice != 0:
		var st unix.Stat_t
		_ = unix.Lstat(full, &st)
		return fmt.Sprintf("char %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return fi.Mode().String()
}

func rootOnly(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: owners and devices")
	}
}

func TestHostileEntries(t *testing.T) {
	rootOnly(t)
	long := strings.Repeat("n", 300)
	deep := strings.Repeat("d/", 3000) + "x"
	many := map[string]string{}
	for i := range 400 {
		many[fmt.Sprintf("SCHILY.xattr.user.a%d", i)] = strings.Repeat("v", 200)
	}
	tests := []struct {
		name  string
		in    []e
		paths map[string]string
		err   string
	}{
		{"dots and absolute names", []e{{name: "../../x", body: "1"}, {name: "/abs/y", body: "2"}, {name: "a/../../../b", body: "3"}},
			map[string]string{"x": "file 1", "abs/y": "file 2", "b": "file 3"}, ""},
		{"through a symlink to outside", []e{{name: "l", link: "/outside", typ: '2'}, {name: "outside/"}, {name: "l/f", body: "1"}},
			map[string]string{"outside/f": "file 1", "l": "link /outside"}, ""},
		{"through a relative symlink to outside", []e{{name: "outside/"}, {name: "l", link: "../../outside", typ: '2'}, {name: "l/canary", body: "1"}},
			map[string]string{"outside/canary": "file 1"}, ""},
		{"through a symlink to nowhere", []e{{name: "l", link: "/none", typ: '2'}, {name: "l/f"}}, nil, "leads nowhere"},
		{"hard link to outside", []e{{name: "h", link: "/outside/canary", typ: '1'}}, nil, `entry "h": hard link to "/outside/canary"`},
		{"hard link with dots", []e{{name: "h", link: "../../outside/canary", typ: '1'}}, nil, `entry "h": hard link to`},
		{"hard link through a symlink", []e{{name: "l", link: "/..", typ: '2'}, {name: "h", link: "l/outside/canary", typ: '1'}}, nil, "hard link"},
		{"hard link to a symlink to outside", []e{{name: "l", link: "../../outside/canary", typ: '2'}, {name: "h", link: "l", typ: '1'}, {name: "h", body: "new"}},
			map[string]string{"h": "file new", "l": "link ../../outside/canary"}, ""},
		{"hard link to itself", []e{{name: "f", body: "1"}, {name: "f", link: "./f", typ: '1'}}, map[string]string{"f": "file 1"}, ""},
		{"hard link to a directory", []e{{name: "d/"}, {name: "h", link: "d", typ: '1'}}, nil, "hard link"},
		{"file over a symlink", []e{{name: "f", link: "/outside/canary", typ: '2'}, {name: "f", body: "new"}}, map[string]string{"f": "file new"}, ""},
		{"file, then directory", []e{{name: "x", body: "1"}, {name: "x/"}, {name: "x/y", body: "2"}}, map[string]string{"x/y": "file 2"}, ""},
		{"full directory, then file", []e{{name: "x/"}, {name: "x/y/z", body: "2"}, {name: "x", body: "1"}}, map[string]string{"x": "file 1"}, ""},
		{"directory, symlink, child", []e{{name: "d/"}, {name: "d", link: "/outside", typ: '2'}, {name: "outside/"}, {name: "d/c", body: "1"}},
			map[string]string{"outside/c": "file 1", "d": "link /outside"}, ""},
		{"parent swapped below the kept descriptor", []e{{name: "d/a", body: "1"}, {name: "d", link: "/e", typ: '2'}, {name: "e/"}, {name: "d/b", body: "2"}},
			map[string]string{"e/b": "file 2"}, ""},
		{"loop as parent", []e{{name: "a", link: "b", typ: '2'}, {name: "b", link: "a", typ: '2'}, {name: "a/f"}}, nil, "too many levels"},
		{"root as a symlink", []e{{name: ".", link: "/", typ: '2'}}, nil, "root is not a directory"},
		{"root as a file", []e{{name: "./", typ: '0'}}, nil, ""}, // Go reads it as a directory
		{"raw whiteout", []e{{name: "w", typ: '3'}}, nil, "0:0"},
		{"whiteouts", []e{{name: "d/.wh.x"}, {name: ".wh..wh.plnk/1", body: "x"}, {name: ".wh..wh.aufs", body: "x"}}, map[string]string{"d/x": "char 0:0", ".wh..wh.plnk": "nothing", ".wh..wh.aufs": "nothing"}, ""},
		{"whiteout of nothing", []e{{name: ".wh."}}, nil, "names nothing"},
		{"whiteout of dot", []e{{name: "d/.wh.."}}, nil, "names nothing"},
		{"whiteout of the parent", []e{{name: "d/.wh..."}}, nil, "names nothing"},
		{"whiteout after the file", []e{{name: "f", body: "1"}, {name: ".wh.f"}}, map[string]string{"f": "char 0:0"}, ""},
		{"file after its whiteout", []e{{name: ".wh.f"}, {name: "f", body: "1"}}, map[string]string{"f": "file 1"}, ""},
		{"whiteout through a symlink", []e{{name: "outside/canary", body: "x"}, {name: "l", link: "/outside", typ: '2'}, {name: "l/.wh.canary"}}, map[string]string{"outside/canary": "char 0:0"}, ""},
		{"long name", []e{{name: long}}, nil, "file name too long"},
		{"deep path", []e{{name: deep}}, nil, "file name too long"},
		{"newline in a name", []e{{name: "a\nb", body: "1"}}, map[string]string{"a\nb": "file 1"}, ""},
		{"big xattr", []e{{name: "f", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 70000)}}}, nil, "64 KiB"},
		{"negative id", []e{{name: "f", pax: map[string]string{"uid": "-5"}}}, nil, "belongs to uid -5"},
		{"id too big", []e{{name: "f", pax: map[string]string{"uid": "2147483648"}}}, nil, "belongs to uid 2147483648"},
		{"times far away", []e{{name: "f", body: "1", mtime: time.Unix(-1<<33, 0)}, {name: "g", body: "1", mtime: time.Unix(1<<34, 0)}}, map[string]string{"f": "file 1", "g": "file 1"}, ""},
		{"pax header over 1 MiB", []e{{name: "f", pax: map[string]string{"comment": strings.Repeat("c", 2<<20)}}}, nil, "too long"},
		{"GNU sparse", []e{{name: "f", pax: map[string]string{"GNU.sparse.major": "9", "GNU.sparse.minor": "9"}}}, nil, "sparse"},
		{"child of a file", []e{{name: "f", body: "1"}, {name: "f/g"}}, nil, "not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			blob, err := tryTar(tt.in...)
			if err != nil {
				t.Skipf("cannot be made with archive/tar: %v", err)
			}
			p := newPlace(t)
			_, err = p.unpack(blob, Options{})
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			for path, want := range tt.paths {
				if got := p.at(path); got != want {
					t.Errorf("%q is %q, want %q", path, got, want)
				}
			}
		})
	}
	t.Run("400 xattrs", func(t *testing.T) { // ext4 has no room, tmpfs has
		p := newPlace(t)
		if _, err := p.unpack(tarOf(t, e{name: "f", pax: many}), Options{}); err != nil && !strings.Contains(err.Error(), "more than one block") {
			t.Error(err)
		}
	})
}

func tryTar(members ...e) (b []byte, err error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		typ := m.typ
		if typ == 0 {
			typ = tar.TypeReg
			if strings.HasSuffix(m.name, "/") {
				typ = tar.TypeDir
			}
		}
		h := &tar.Header{Name: m.name, Linkname: m.link, Size: int64(len(m.body)), Typeflag: typ, Mode: 0o755, PAXRecords: m.pax, Devmajor: m.major, Devminor: m.minor, ModTime: m.mtime}
		raw := m.pax["uid"] != "" || m.pax["GNU.sparse.major"] != "" // what the writer would not write
		if raw {
			h.PAXRecords = nil
			writePAX(&buf, w, m.pax)
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}

// writePAX writes an extended header by hand.
func writePAX(buf *bytes.Buffer, w *tar.Writer, records map[string]string) {
	_ = w.Flush()
	var body strings.Builder
	for k, v := range records {
		n := len(k) + len(v) + 3
		for n != len(fmt.Sprint(n))+len(k)+len(v)+3 {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		fmt.Fprintf(&body, "%d %s=%s\n", n, k, v)
	}
	var hdr [512]byte
	copy(hdr[:], "pax")
	copy(hdr[100:], "0000644\x000000000\x000000000\x00")
	copy(hdr[124:], fmt.Sprintf("%011o\x00", body.Len()))
	copy(hdr[136:], "00000000000\x00")
	hdr[156] = 'x'
	copy(hdr[257:], "ustar\x0000")
	copy(hdr[148:], "        ")
	sum := 0
	for _, c := range hdr {
		sum += int(c)
	}
	copy(hdr[148:], fmt.Sprintf("%06o\x00 ", sum))
	buf.Write(hdr[:])
	buf.WriteString(body.String())
	buf.Write(make([]byte, (512-body.Len()%512)%512))
}

func TestMarksOfTheStoreAreDropped(t *testing.T) {
	rootOnly(t)
	p := newPlace(t)
	pax := map[string]string{}
	for _, name := range []string{"trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque", "user.containers.override_stat", "security.selinux", "user.kept"} {
		pax["SCHILY.xattr."+name] = "y"
	}
	if _, err := p.unpack(tarOf(t, e{name: "d/", pax: pax}), Options{}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, err := unix.Llistxattr(filepath.Join(p.dir, "d"), buf)
	if got := strings.ReplaceAll(string(buf[:max(n, 0)]), "\x00", " "); err != nil || strings.Contains(got, "overlay") || strings.Contains(got, "override") || !strings.Contains(got, "user.kept") {
		t.Errorf("attributes %q, %v", got, err)
	}
}

func TestOpaque(t *testing.T) {
	rootOnly(t)
	for _, o := range []Options{{}, {Rootless: true}} {
		p := newPlace(t)
		if _, err := p.unpack(tarOf(t, e{name: "a/f"}, e{name: "a/.wh..wh..opq"}, e{name: ".wh.b"}, e{name: "b/"}, e{name: "b/g"}), o); err != nil {
			t.Fatal(err)
		}
		name := "trusted.overlay.opaque"
		if o.Rootless {
			name = "user.overlay.opaque"
		}
		for _, dir := range []string{"a", "b"} { // b, because a whiteout of it was in the same layer
			v := make([]byte, 8)
			if n, err := unix.Lgetxattr(filepath.Join(p.dir, dir), name, v); err != nil || string(v[:n]) != "y" {
				t.Errorf("%s of %s: %q, %v", name, dir, v[:max(n, 0)], err)
			}
		}
	}
}

func TestModesOwnersTimes(t *testing.T) {
	rootOnly(t)
	when, later := time.Unix(1e9, 5e8), time.Unix(1.1e9, 0)
	p := newPlace(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	res, err := p.unpack(tarOf(t,
		e{name: "implied/by/f", mode: 0o666, mtime: later},
		e{name: "suid", mode: 0o4755, uid: 5, gid: 6, mtime: when, pax: map[string]string{"SCHILY.xattr.user.x": "1"}},
		e{name: "dir/", mode: 0o2775, uid: 7, gid: 8, mtime: when},
		e{name: "dir/f", mode: 0o777, mtime: later},
		e{name: "link", link: "x", typ: '2', uid: 9, gid: 9, mtime: when},
		e{name: "fifo", typ: '6', mode: 0o622, mtime: when},
		e{name: "null", typ: '3', mode: 0o666, major: 1, minor: 3, mtime: when},
	), Options{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path     string
		mode     uint32
		uid, gid uint32
		mtime    time.Time
	}{
		{"implied", unix.S_IFDIR | 0o755, 0, 0, later},
		{"implied/by/f", unix.S_IFREG | 0o666, 0, 0, later},
		{"suid", unix.S_IFREG | 0o4755, 5, 6, when},
		{"dir", unix.S_IFDIR | 0o2775, 7, 8, when},
		{"dir/f", unix.S_IFREG | 0o777, 0, 0, later}, // not the directory's group
		{"link", unix.S_IFLNK | 0o777, 9, 9, when},
		{"fifo", unix.S_IFIFO | 0o622, 0, 0, when},
		{"null", unix.S_IFCHR | 0o666, 0, 0, when},
		{"", unix.S_IFDIR | 0o755, 0, 0, later},
	}
	for _, tt := range tests {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(p.dir, tt.path), &st); err != nil {
			t.Error(err)
			continue
		}
		got := time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
		// archive/tar rounds times to seconds where it writes no extended header
		if st.Mode != tt.mode || st.Uid != tt.uid || st.Gid != tt.gid || got.Sub(tt.mtime).Abs() > time.Second {
			t.Errorf("%q: mode %o, %d:%d, %v; want %o, %d:%d, %v", tt.path, st.Mode, st.Uid, st.Gid, got, tt.mode, tt.uid, tt.gid, tt.mtime)
		}
	}
	if fmt.Sprint(res.UIDs, res.GIDs) != "[0 5 7 9] [0 6 8 9]" || res.Entries != 7 {
		t.Errorf("result %+v", res)
	}
	if now := unix.Umask(0o077); now != 0o077 {
		t.Errorf("the process's umask became %o", now)
	}
}

func TestTarSplitMakesTheSameTar(t *testing.T) {
	rootOnly(t)
	blob := tarOf(t, e{name: "./"}, e{name: "dir/"}, e{name: "dir/f", body: strings.Repeat("x", 70000)}, e{name: "empty"},
		e{name: strings.Repeat("long", 60), body: "l"}, e{name: "quo\"te\\<&>\u2028", body: "q"}, e{name: "raw\xff", body: "r"}, e{name: "h", link: "dir/f", typ: '1'})
	for name, blob := range map[string][]byte{
		"plain":           blob,
		"trailing":        append(bytes.Clone(blob), bytes.Repeat([]byte("z"), 2<<20)...),
		"without the end": blob[:len(blob)-1024],
		"nothing":         nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			var split bytes.Buffer
			res, err := p.unpack(blob, Options{TarSplit: &split})
			if err != nil || res.NoTarSplit {
				t.Fatal(res, err)
			}
			again := asm.NewOutputTarStream(splitstore.NewPathFileGetter(p.dir), splitstore.NewJSONUnpacker(&split))
			defer again.Close()
			got, err := io.ReadAll(again)
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%d bytes, %v; want %d, the same", len(got), err, len(blob))
			}
		})
	}
}

func TestTarSplitIsGivenUpForDuplicates(t *testing.T) {
	rootOnly(t)
	var split bytes.Buffer
	res, err := newPlace(t).unpack(tarOf(t, e{name: "f", body: "1"}, e{name: "./f", body: "2"}), Options{TarSplit: &split})
	if err != nil || !res.NoTarSplit {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestTooManyEntries(t *testing.T) {
	rootOnly(t)
	_, err := newPlace(t).unpack(tarOf(t, e{name: "a"}, e{name: "b"}, e{name: "c"}), Options{MaxEntries: 2})
	if err == nil || !strings.Contains(err.Error(), "more than 2 entries") {
		t.Error(err)
	}
}

// A header of the old sparse format may name a map that goes on and on.
func TestSparseMapsAreBoundedInMemory(t *testing.T) {
	rootOnly(t)
	var hdr [512]byte
	copy(hdr[:], "sparse")
	copy(hdr[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	hdr[156] = 'S'
	copy(hdr[257:], "ustar  \x00")
	hdr[482] = 1 // the map goes on in the next block
	copy(hdr[483:], "77777777777\x00")
	copy(hdr[148:], "        ")
	sum := 0
	for _, c := range hdr {
		sum += int(c)
	}
	copy(hdr[148:], fmt.Sprintf("%06o\x00 ", sum))
	block := bytes.Repeat([]byte("00000000001\x0000000000001\x00"), 21)
	block = append(block, make([]byte, 512-len(block))...)
	block[504] = 1
	blob := io.MultiReader(bytes.NewReader(hdr[:]), &repeat{block: block, n: 1 << 20}) // 512 MB of map
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Tar(t.Context(), newPlace(t).dir, blob, Options{})
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("accepted")
	}
	if grown := after.Sys - before.Sys; grown > 64<<20 {
		t.Errorf("%d MB of memory taken", grown>>20)
	}
}

type repeat struct {
	block []byte
	n, at int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.block[r.at:])
	if r.at += n; r.at == len(r.block) {
		r.at, r.n = 0, r.n-1
	}
	return n, nil
}

// FuzzTar: whatever the bytes, nothing outside changes, and what tar-split
// describes is what was read.
func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, e{name: "d/"}, e{name: "d/f", body: "x"}, e{name: "l", link: "../../outside", typ: '2'}, e{name: "l/canary", body: "y"}))
	f.Add(tarOf(f, e{name: "../x", body: "x"}, e{name: ".wh.a"}, e{name: "b/.wh..wh..opq"}, e{name: "h", link: "/outside/canary", typ: '1'}))
	f.Add(tarOf(f, e{name: "f", body: "x", pax: map[string]string{"SCHILY.xattr.user.a": "b"}}, e{name: "f/", typ: '5'}))
	f.Fuzz(func(t *testing.T, blob []byte) {
		rootOnly(t)
		p := newPlace(t)
		var split bytes.Buffer
		res, err := p.unpack(blob, Options{TarSplit: &split})
		if err != nil || res.NoTarSplit {
			return
		}
		var got int64
		for u := splitstore.NewJSONUnpacker(&split); ; {
			entry, err := u.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("tar-split: %v", err)
			}
			if entry.Type == splitstore.SegmentType {
				got += int64(len(entry.Payload))
			} else {
				got += entry.Size
			}
		}
		if got != int64(len(blob)) {
			t.Errorf("tar-split describes %d bytes of %d", got, len(blob))
		}
	})
}
