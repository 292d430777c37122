package transfer

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkSmallFiles(b *testing.B) {
	from := b.TempDir()
	for i := range 2000 {
		dir := filepath.Join(from, fmt.Sprint(i%20))
		_ = os.MkdirAll(dir, 0o755)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 1000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	f, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("pack", func(b *testing.B) {
		for b.Loop() {
			if err := NewRoot(f).Pack(b.Context(), io.Discard, "/", PackOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unpack", func(b *testing.B) {
		for b.Loop() {
			to := b.TempDir()
			d, err := os.Open(to)
			if err != nil {
				b.Fatal(err)
			}
			r, w := io.Pipe()
			go func() { _ = w.CloseWithError(NewRoot(f).Pack(b.Context(), w, "/", PackOptions{})) }()
			if err := NewRoot(d).Unpack(b.Context(), r, "/", UnpackOptions{}); err != nil {
				b.Fatal(err)
			}
			_ = d.Close()
		}
	})
}
