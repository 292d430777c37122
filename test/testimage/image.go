// Package testimage makes the images that tests, the demo and the benchmarks
// run: from the machine's static busybox, or from a small Go program where there
// is none.
package testimage

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Box is a static multi-call program: its content, and the names it answers to.
type Box struct {
	Name    string // what it is: "busybox", or "box" for our own
	Program []byte
	Applets []string
}

// HasShell reports whether the box has sh and the usual tools.
func (b *Box) HasShell() bool { return b.Name == "busybox" }

// FindBox returns the machine's static busybox; else, where apt is, the
// package's, unpacked into dir; else our own box, built there by go.
func FindBox(dir string) (*Box, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if b, err := busybox(p); err == nil {
			return b, nil
		}
	}
	if p, err := download(dir); err == nil {
		if b, err := busybox(p); err == nil {
			return b, nil
		}
	}
	return OwnBox(dir)
}

// busybox reads the program at path, if it is static.
func busybox(path string) (*Box, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is not static", path)
		}
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &Box{Name: "busybox", Program: program, Applets: strings.Fields(string(list))}, nil
}

// download fetches Debian's package as an ordinary user can.
func download(dir string) (string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", err
	}
	cmd := exec.Command("sh", "-c", "apt-get download -qq busybox-static && dpkg-deb -x busybox-static_*.deb busybox-static")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	for _, p := range []string{"usr/bin/busybox", "bin/busybox"} {
		p = filepath.Join(dir, "busybox-static", p)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("busybox-static has no busybox")
}

// OwnBox builds the Go program in box.
func OwnBox(dir string) (*Box, error) {
	bin := filepath.Join(dir, "box")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "cais.dev/cais/test/testimage/box")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(bin, "--list").Output()
	if err != nil {
		return nil, err
	}
	return &Box{Name: "box", Program: program, Applets: strings.Fields(string(list))}, nil
}

// Entry is one member of a layer.
type Entry struct {
	Name, Content, Link string
	Mode                int64 // 0: 0644, or 0755 for a directory, whose name ends in /
	UID, GID            int
	Type                byte // 0: by the other fields
}

// epoch is the time of all files: an image is the same each time it is made.
var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Tar returns a layer's content.
func Tar(entries ...Entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.Name, Linkname: e.Link, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
			Size: int64(len(e.Content)), ModTime: epoch, Typeflag: e.Type,
		}
		switch {
		case h.Typeflag != 0:
		case strings.HasSuffix(e.Name, "/"):
			h.Typeflag = tar.TypeDir
		case e.Link != "":
			h.Typeflag = tar.TypeSymlink
		default:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// Base returns the entries of a small root file system with b in it.
func (b *Box) Base() []Entry {
	dirs := []string{"bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/", "usr/", "usr/bin/", "var/", "home/"}
	var all []Entry
	for _, d := range dirs {
		e := Entry{Name: d}
		if d == "tmp/" {
			e.Mode = 0o1777
		}
		all = append(all, e)
	}
	all = append(all, Entry{Name: "bin/" + b.Name, Content: string(b.Program), Mode: 0o755})
	for _, a := range b.Applets {
		if a != b.Name {
			all = append(all, Entry{Name: "bin/" + a, Link: b.Name})
		}
	}
	return append(all,
		Entry{Name: "etc/passwd", Content: "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000:user:/home:/bin/sh\n"},
		Entry{Name: "etc/group", Content: "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:2000:user\n"},
		Entry{Name: "etc/notexec", Content: "not a program\n"},
	)
}

// Layer makes a gzipped layer of entries.
func Layer(entries ...Entry) (v1.Layer, error) {
	data, err := Tar(entries...)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}, tarball.WithCompressedCaching)
}

// Image makes an image of layers for platform "os/arch", with edit applied to
// its config.
func Image(platform string, edit func(*v1.Config), layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.DockerManifestSchema2), layers...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, _ = strings.Cut(platform, "/")
	cf.Created = v1.Time{Time: epoch}
	cf.Config = v1.Config{
		Cmd: []string{"sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if edit != nil {
		edit(&cf.Config)
	}
	return mutate.ConfigFile(img, cf)
}

// Host is this machine's platform.
func Host() string { return "linux/" + runtime.GOARCH }

// Busybox makes the plain image of b: two layers, command sh.
func (b *Box) Busybox() (v1.Image, error) {
	base, err := Layer(b.Base()...)
	if err != nil {
		return nil, err
	}
	top, err := Layer(Entry{Name: "srv/"}, Entry{Name: "srv/hello", Content: "hello from the second layer\n"})
	if err != nil {
		return nil, err
	}
	return Image(Host(), nil, base, top)
}

// Multi makes an index of this machine's platform and of one that it is not.
// Each image's label says for whom it is.
func (b *Box) Multi() (v1.ImageIndex, error) {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	idx := mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	for _, arch := range []string{other, runtime.GOARCH} {
		base, err := Layer(b.Base()...)
		if err != nil {
			return nil, err
		}
		mark, err := Layer(Entry{Name: "srv/"}, Entry{Name: "srv/arch", Content: arch + "\n"})
		if err != nil {
			return nil, err
		}
		top, err := Layer(Entry{Name: "srv/top", Content: "three layers\n"})
		if err != nil {
			return nil, err
		}
		img, err := Image("linux/"+arch, func(c *v1.Config) { c.Labels = map[string]string{"arch": arch} }, base, mark, top)
		if err != nil {
			return nil, err
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return idx, nil
}

// Save writes img under ref as a Docker archive at path.
func Save(path, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}
