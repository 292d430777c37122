package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/gzip"
)

// push compares the processor time of sending an image that no registry has, and
// of saving it, with the least that must be done, and with others.
func (b *bench) push() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	newRegistry := func() (string, func()) {
		srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
		return strings.TrimPrefix(srv.URL, "http://"), srv.Close
	}
	host, stop := newRegistry()
	ref, digests, err := b.bigImage(host)
	if err != nil {
		stop()
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ours := b.ours(w)
	if ours.err != nil {
		return ours.err
	}
	var urls []string
	for _, d := range digests {
		urls = append(urls, "http://"+host+"/v2/big/blobs/"+d.String())
	}
	tree := filepath.Join(b.dir, "pushfloor")
	podman, docker := b.podman(w), &peer{err: errors.New("needs root")}
	if os.Geteuid() == 0 {
		docker = b.docker()
	}
	ready := func(p *peer, args ...string) {
		if p.err == nil {
			if out, err := runQuiet(p.cmd(args...)); err != nil {
				p.err = fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	ready(ours, "pull", "-q", ref)
	ready(podman, "pull", "-q", "--tls-verify=false", ref)
	ready(docker, "pull", "-q", ref)
	skopeo := b.skopeo(w, podman)
	floored, err := runQuiet(exec.Command(self, "floor", tree, strings.Join(urls, ",")))
	stop()
	if err != nil {
		return fmt.Errorf("%w: %s", err, floored)
	}
	archive := filepath.Join(b.dir, "saved.tar")
	cpus := map[string][]time.Duration{}
	fails := map[string]error{}
	one := func(name string, cmd *exec.Cmd, daemon bool) {
		before := time.Duration(0)
		if daemon {
			before = treeCPU(b.dockerd.Process.Pid)
		}
		if out, err := runQuiet(cmd); err != nil {
			fails[name] = fmt.Errorf("%w: %s", err, out)
			return
		}
		cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if daemon {
			cpu += treeCPU(b.dockerd.Process.Pid) - before
		}
		cpus[name] = append(cpus[name], cpu)
	}
	for round := range 3 {
		one("push floor", exec.Command(self, "pushfloor", tree, "gzip"), false)
		one("save floor", exec.Command(self, "pushfloor", tree, archive), false)
		for _, p := range []struct {
			name string
			*peer
		}{{"cais", ours}, {"podman", podman}, {"docker", docker}, {"skopeo", skopeo}} {
			if p.err != nil {
				fails["push "+p.name] = p.err
				continue
			}
			if p.peer != ours && round > 0 {
				continue // they take most of the time, and once shows that ours takes less
			}
			to, stop := newRegistry()
			to += "/pushed:1"
			if p.name == "skopeo" {
				from := "containers-storage:" + ref
				one("push skopeo", p.cmd("copy", "-q", "--dest-tls-verify=false", from, "docker://"+to), false)
				stop()
				os.Remove(archive)
				one("save skopeo", p.cmd("copy", "-q", from, "docker-archive:"+archive+":big:1"), false)
				continue
			}
			ready(p.peer, "tag", ref, to)
			args := []string{"push", "-q", to}
			if p.name == "podman" {
				args = []string{"push", "-q", "--tls-verify=false", to}
			}
			one("push "+p.name, p.cmd(args...), p.name == "docker")
			stop()
			os.Remove(archive)
			one("save "+p.name, p.cmd("save", "-o", archive, ref), p.name == "docker")
			runQuiet(p.cmd("rmi", to))
		}
	}
	os.Remove(archive)
	for name, err := range fails {
		b.missing = append(b.missing, name+": "+firstLine(err))
	}
	s := func(name string) sample {
		if len(cpus[name]) == 0 {
			return sample{}
		}
		return sample{cpu: median(cpus[name]), wall: 1}
	}
	for _, verb := range []string{"push", "save"} {
		what, detail := "`"+verb+"`, 12 layers, 600 MB", "CPU of reading, sha256"
		if verb == "push" {
			detail += ", gzip"
		}
		b.ratio(what, s(verb+" cais"), s(verb+" floor"), true, 1.3, false, detail)
		b.ratio(what, s(verb+" cais"), s(verb+" podman"), true, 1, false, "CPU of `podman "+verb+"`")
		b.ratio(what, s(verb+" cais"), s(verb+" docker"), true, 1, false, "CPU of `docker "+verb+"`, client and daemon")
		b.ratio(what, s(verb+" cais"), s(verb+" skopeo"), true, 1, false, "CPU of `skopeo copy`")
	}
	return nil
}

// pushFloor does the least that a push, or a save to a file, must do with the
// layers below dir: read all files, make a tar, its digest, and compress it with
// the digest of that, or write it.
func pushFloor(dir, to string) error {
	layers, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	out := io.Writer(io.Discard)
	if to != "gzip" {
		f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	buf := make([]byte, 256<<10)
	for _, l := range layers {
		content, blob := sha256.New(), sha256.New()
		sink, end := io.MultiWriter(content, out), func() error { return nil }
		if to == "gzip" {
			z := gzip.NewWriter(io.MultiWriter(blob, out))
			sink, end = io.MultiWriter(content, z), z.Close
		}
		w := tar.NewWriter(sink)
		err := filepath.WalkDir(filepath.Join(dir, l.Name()), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg}); err != nil {
				return err
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, buf)
			return err
		})
		if err := errors.Join(err, w.Close(), end()); err != nil {
			return err
		}
	}
	return nil
}
