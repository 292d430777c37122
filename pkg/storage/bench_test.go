package storage

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// typicalLayer is 200 MB in 6,800 files, as a distribution's layers are: many
// small files, a few large ones, half-compressible.
func typicalLayer(b *testing.B) layer {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([]byte, 1<<20)
	for i := range words {
		words[i] = byte('a' + rnd.IntN(16))
	}
	var entries []entry
	for i := range 6800 {
		size := 1000 + rnd.IntN(20000)
		if i%100 == 0 {
			size = 2 << 20
		}
		var body bytes.Buffer
		for body.Len() < size {
			at := rnd.IntN(len(words) - 4096)
			body.Write(words[at : at+64+rnd.IntN(400)])
		}
		if i%50 == 0 {
			entries = append(entries, entry{Name: fmt.Sprintf("usr/d%d/", i/50)})
		}
		entries = append(entries, entry{Name: fmt.Sprintf("usr/d%d/f%d", i/50, i), Body: body.String()})
	}
	return gzLayer(b, entries...)
}

func cpu(b *testing.B) (ms float64) {
	b.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		ms += float64(r.Utime.Nano()+r.Stime.Nano()) / 1e6
	}
	return ms
}

// BenchmarkStageLayer is our one pass, in one loop with the floor: gunzip,
// sha256 of blob and tar, tar -x. The ratio is of CPU time.
func BenchmarkStageLayer(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: the store's write side")
	}
	if _, err := exec.LookPath("tar"); err != nil {
		b.Skip("needs tar")
	}
	l := typicalLayer(b)
	dir := b.TempDir()
	s, err := Open(b.Context(), Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	var ours, floor float64
	for b.Loop() {
		start := cpu(b)
		st := stage(b, s, l)
		ours += cpu(b) - start
		b.StopTimer()
		if err := s.Discard(st); err != nil {
			b.Fatal(err)
		}
		out := filepath.Join(dir, "floor")
		if err := os.Mkdir(out, 0o755); err != nil {
			b.Fatal(err)
		}
		start = cpu(b)
		untar(b, l, out)
		floor += cpu(b) - start
		if err := os.RemoveAll(out); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(ours/float64(b.N), "cpu-ms/op")
	b.ReportMetric(floor/float64(b.N), "floor-cpu-ms/op")
	b.ReportMetric(ours/floor, "x-floor")
	b.SetBytes(int64(len(l.tar)))
}

func untar(b *testing.B, l layer, out string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "tar", "-x", "-C", out)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	blob, tar := sha256.New(), sha256.New()
	z, err := gzip.NewReader(io.TeeReader(bytes.NewReader(l.blob), blob))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 512<<10)
	if _, err := io.CopyBuffer(io.MultiWriter(tar, in), struct{ io.Reader }{z}, buf); err != nil {
		b.Fatal(err)
	}
	if err := in.Close(); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
}
