package compress

import (
	"bytes"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
)

// What is written is read again, and is the same bytes however many processors
// there are.
func TestRoundTrip(t *testing.T) {
	data := make([]byte, 2500_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = "abcdefgh"[r.IntN(8)]
	}
	for _, kind := range []Kind{None, Gzip, Zstd} {
		for _, level := range []int{DefaultLevel, 1} {
			var first []byte
			for _, jobs := range []int{1, 3} {
				old := runtime.GOMAXPROCS(jobs)
				var out bytes.Buffer
				z, err := Writer(&out, kind, level)
				if err != nil {
					t.Fatal(err)
				}
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(100_000))
					if _, err := z.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
				runtime.GOMAXPROCS(old)
				if first == nil {
					first = out.Bytes()
				} else if !bytes.Equal(first, out.Bytes()) {
					t.Errorf("%s, level %d: with 3 processors other bytes than with one", kind, level)
				}
			}
			if got := Detect(first[:HeadSize]); got != kind {
				t.Errorf("%s is taken for %q", kind, got)
			}
			z, err := Reader(bytes.NewReader(first))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, level %d: %d bytes of %d, %v", kind, level, len(got), len(data), err)
			}
		}
	}
	for kind, levels := range map[Kind][]int{Gzip: {-1, 10}, Zstd: {-1, 23}, Xz: {0}} {
		for _, level := range levels {
			if _, err := Writer(io.Discard, kind, level); err == nil {
				t.Errorf("%s, level %d: accepted", kind, level)
			}
		}
	}
}

func TestReaderBroken(t *testing.T) {
	for _, in := range []string{"\x1f\x8b", "\x1f\x8bgarbage", "\xfd7zXZ\x00x"} {
		z, err := Reader(bytes.NewReader([]byte(in)))
		if err == nil {
			_, err = io.ReadAll(z)
		}
		if err == nil {
			t.Errorf("%q: no error", in)
		}
	}
	if z, err := Reader(bytes.NewReader(nil)); err != nil {
		t.Error(err)
	} else if data, err := io.ReadAll(z); err != nil || len(data) != 0 {
		t.Errorf("%q, %v", data, err)
	}
}
