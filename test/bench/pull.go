package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"cais.dev/cais/test/testimage"
)

const (
	pullLayers    = 12
	filesPerLayer = 3500
	bytesPerFile  = 14 << 10
)

// pull compares the processor time of everything involved: the command and its
// children, or the daemon.
func (b *bench) pull() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, digests, err := b.bigImage(host)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var urls []string
	for _, d := range digests {
		urls = append(urls, srv.URL+"/v2/big/blobs/"+d.String())
	}
	ours := b.ours(w)
	if ours.err != nil {
		return ours.err
	}
	contenders := []struct {
		name   string
		pull   *exec.Cmd
		cpu    func() time.Duration // of the daemon; nil: the command's
		remove func()
		err    error
	}{{name: "floor", remove: func() { os.RemoveAll(filepath.Join(b.dir, "floor")) }}, {name: "cais"}, {name: "podman"}, {name: "docker"}}
	podman, docker := b.podman(w), &peer{err: errors.New("needs root")}
	if os.Geteuid() == 0 {
		docker = b.docker()
	}
	cpus := map[string][]time.Duration{}
	for range 3 {
		for i := range contenders {
			c := &contenders[i]
			if c.err != nil {
				continue
			}
			daemon := time.Duration(0)
			switch c.name {
			case "floor":
				c.pull = exec.Command(self, "floor", filepath.Join(b.dir, "floor"), strings.Join(urls, ","))
			case "cais":
				c.pull = ours.cmd("pull", "-q", ref)
				c.remove = func() { runQuiet(ours.cmd("rmi", ref)) }
			case "podman":
				if c.err = podman.err; c.err != nil {
					continue
				}
				c.pull = podman.cmd("pull", "-q", "--tls-verify=false", ref)
				c.remove = func() { runQuiet(podman.cmd("rmi", ref)) }
			case "docker":
				if c.err = docker.err; c.err != nil {
					continue
				}
				c.pull = docker.cmd("pull", "-q", ref)
				c.remove = func() { runQuiet(docker.cmd("rmi", ref)) }
				daemon = treeCPU(b.dockerd.Process.Pid)
			}
			if out, err := runQuiet(c.pull); err != nil {
				c.err = fmt.Errorf("%w: %s", err, out)
				continue
			}
			cpu := c.pull.ProcessState.UserTime() + c.pull.ProcessState.SystemTime()
			if c.name == "docker" {
				cpu += treeCPU(b.dockerd.Process.Pid) - daemon
			}
			cpus[c.name] = append(cpus[c.name], cpu)
			c.remove()
		}
	}
	s := map[string]sample{}
	for _, c := range contenders {
		if c.err != nil {
			b.missing = append(b.missing, fmt.Sprintf("pull: %s: %s", c.name, firstLine(c.err)))
		} else {
			s[c.name] = sample{cpu: median(cpus[c.name]), wall: 1}
		}
	}
	if c := contenders[1]; c.err != nil {
		return c.err
	}
	b.ratio("`pull`, 12 layers, 600 MB", s["cais"], s["floor"], true, 1.25, false, "CPU of download, gunzip, sha256, untar")
	b.ratio("`pull`, 12 layers, 600 MB", s["cais"], s["podman"], true, 0.45, false, "CPU of `podman pull`")
	b.ratio("`pull`, 12 layers, 600 MB", s["cais"], s["docker"], true, 0.45, false, "CPU of `docker pull`, client and daemon")
	return nil
}

// treeCPU is the processor time of a process, of its children that live (the
// daemon's containerd and extractors) and of those that it has waited for.
func treeCPU(pid int) time.Duration {
	total := time.Duration(0)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	if len(f) < 15 {
		return 0
	}
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime in ticks
		n, err := strconv.Atoi(f[i])
		if err == nil {
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return total
	}
	for _, c := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(c); err == nil {
			total += treeCPU(n)
		}
	}
	return total
}

// bigImage pushes the image: files of 14 kB that compress to a third.
func (b *bench) bigImage(host string) (string, []v1.Hash, error) {
	layers := make([]v1.Layer, pullLayers)
	var wg sync.WaitGroup
	errs := make([]error, pullLayers)
	for i := range layers {
		wg.Go(func() { layers[i], errs[i] = bigLayer(i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", nil, err
	}
	img, err := testimage.Image(testimage.Host(), nil, layers...)
	if err != nil {
		return "", nil, err
	}
	text := host + "/big:1"
	ref, err := name.ParseReference(text, name.Insecure)
	if err != nil {
		return "", nil, err
	}
	if err := remote.Write(ref, img); err != nil {
		return "", nil, err
	}
	var digests []v1.Hash
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return "", nil, err
		}
		digests = append(digests, d)
	}
	return text, digests, nil
}

func bigLayer(n int) (v1.Layer, error) {
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	text := bytes.Repeat([]byte("what is written more than once is written shorter; "), 40)
	var blob bytes.Buffer
	z, err := gzip.NewWriterLevel(&blob, 6)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for i := range filesPerLayer {
		if i%70 == 0 {
			dir := fmt.Sprintf("layer%d/dir%d/", n, i/70)
			if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		content := make([]byte, 0, bytesPerFile)
		for len(content) < bytesPerFile {
			block := make([]byte, 300)
			for j := range block {
				block[j] = byte(rnd.Uint32())
			}
			content = append(content, block...)
			content = append(content, text[:724]...)
		}
		content = content[:bytesPerFile]
		h := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", n, i/70, i), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.Bytes())), nil })
}

// floor does the least that a pull must do, in a process of its own: download,
// gunzip, both digests, tar -x.
func floor(dir, urls string) error {
	for i, url := range strings.Split(urls, ",") {
		if err := floorLayer(filepath.Join(dir, strconv.Itoa(i)), url); err != nil {
			return err
		}
	}
	return nil
}

func floorLayer(dir, url string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	blob, content := sha256.New(), sha256.New()
	z, err := gzip.NewReader(io.TeeReader(resp.Body, blob))
	if err != nil {
		return err
	}
	untar := exec.Command("tar", "-x", "-C", dir)
	in, err := untar.StdinPipe()
	if err != nil {
		return err
	}
	if err := untar.Start(); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(content, in)}, struct{ io.Reader }{z}, buf); err != nil {
		return err
	}
	if err := in.Close(); err != nil {
		return err
	}
	return untar.Wait()
}
