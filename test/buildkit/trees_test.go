package fidelity

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"cais.dev/cais/test/corpus"
	"cais.dev/cais/test/testimage"
)

var update = flag.Bool("update", false, "rewrite test/corpus/expected")

// TestTrees has buildkitd build the corpus, and compares with what is recorded in
// test/corpus/expected, with which cais is compared in test/e2e. It needs root
// and runc, builds buildkitd from its module, and is asked for by CAIS_BUILDKITD=1,
// or the path of a directory with buildkitd and buildctl.
func TestTrees(t *testing.T) {
	dir := os.Getenv("CAIS_BUILDKITD")
	switch {
	case dir == "":
		t.Skip("CAIS_BUILDKITD is not set: make fidelity-build")
	case os.Getuid() != 0:
		t.Skip("needs root")
	case dir == "1":
		dir = t.TempDir()
		for _, cmd := range []string{"buildkitd", "buildctl"} {
			out, err := exec.Command("go", "build", "-mod=mod", "-o", dir, "github.com/moby/buildkit/cmd/"+cmd).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", cmd, err, out)
			}
		}
	}
	img, base := busybox(t)
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	host := strings.TrimPrefix(reg.URL, "http://")
	ref, err := name.ParseReference(host+"/library/busybox:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	sock := start(t, dir, host)

	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.PlanOnly {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			since := time.Now().Add(-time.Minute)
			data := buildkit(t, filepath.Join(dir, "buildctl"), sock, c)
			a, err := corpus.ReadArchive(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			got, err := corpus.Listing(a, base, since)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("../corpus/expected", c.Name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s:\n%s\nwant:\n%s", file, got, want)
			}
		})
	}
}

func busybox(t *testing.T) (v1.Image, corpus.Tree) {
	t.Helper()
	box, err := testimage.FindBox(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := box.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var data [][]byte
	for _, l := range list {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		d, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, d)
	}
	tree, err := corpus.BaseTree(data)
	if err != nil {
		t.Fatal(err)
	}
	return img, tree
}

// start runs buildkitd in a directory of its own.
func start(t *testing.T, bin, registry string) (sock string) {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "cais-fidelity-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	conf := fmt.Sprintf("[registry.\"docker.io\"]\nmirrors = [%q]\n[registry.%q]\nhttp = true\ninsecure = true\n", registry, registry)
	if err := os.WriteFile(root+"/buildkitd.toml", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	sock = "unix://" + root + "/sock"
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "buildkitd"), "--config", root+"/buildkitd.toml", "--root", root+"/root", "--addr", sock,
		"--oci-worker=true", "--oci-worker-binary", "runc", "--containerd-worker=false",
		"--allow-insecure-entitlement", "security.insecure", "--allow-insecure-entitlement", "network.host")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for range 200 {
		if exec.Command(filepath.Join(bin, "buildctl"), "--addr", sock, "debug", "workers").Run() == nil {
			return sock
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("buildkitd does not answer:\n%s", &out)
	return ""
}

// buildkit builds c and returns the image's archive.
func buildkit(t *testing.T, buildctl, sock string, c corpus.Case) []byte {
	t.Helper()
	// There is no image of a front end to be had here.
	c.Dockerfile = bytes.TrimPrefix(c.Dockerfile, []byte("# syntax=docker/dockerfile:1\n"))
	dir := t.TempDir()
	flags, err := c.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--addr", sock, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir + "/context", "--local", "dockerfile=" + dir,
		"--output", "type=oci,dest=" + dir + "/out.tar"}
	opt := func(kv string) { args = append(args, "--opt", kv) }
	for i := 0; i < len(flags); i++ {
		flag := flags[i]
		if flag == "--no-cache" {
			args = append(args, "--no-cache")
			continue
		}
		i++
		v := flags[i]
		switch flag {
		case "--build-arg":
			opt("build-arg:" + v)
		case "--label":
			opt("label:" + v)
		case "--target":
			opt("target=" + v)
		case "--no-cache-filter":
			opt("no-cache=" + v)
		case "--shm-size":
			opt("shm-size=" + fmt.Sprint(10<<20))
		case "--ulimit":
			opt("ulimit=" + v)
		case "--add-host":
			opt("add-hosts=" + strings.Replace(v, ":", "=", 1))
		case "--build-context":
			k, val, _ := strings.Cut(v, "=")
			if strings.Contains(val, "://") {
				opt("context:" + k + "=" + val)
				continue
			}
			opt("context:" + k + "=local:" + k)
			args = append(args, "--local", k+"="+val)
		case "--secret", "--ssh", "--allow":
			args = append(args, flag, v)
		case "--platform":
			opt("platform=" + v)
		default:
			t.Fatalf("flag %s", flag)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, buildctl, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(dir + "/out.tar")
	if err != nil {
		t.Fatal(err)
	}
	return data
}
