package corpus

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Prepare writes c's files into dir: Dockerfile, context (always there), other contexts,
// secrets. It returns the flags with the paths of this directory.
func (c Case) Prepare(dir string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "context"), 0o755); err != nil {
		return nil, err
	}
	write := func(name string, data []byte) error {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			return err
		}
		when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
		return os.Chtimes(p, when, when)
	}
	if err := write("Dockerfile", c.Dockerfile); err != nil {
		return nil, err
	}
	for name, data := range c.Files {
		if slices.Contains(c.Tars, name) {
			var err error
			if data, err = archive(); err != nil {
				return nil, err
			}
		}
		if err := write(name, data); err != nil {
			return nil, err
		}
	}
	flags := slices.Clone(c.Flags)
	for i, f := range flags {
		if i == 0 {
			continue
		}
		switch flags[i-1] {
		case "--build-context":
			if k, v, _ := strings.Cut(f, "="); !strings.Contains(v, "://") {
				flags[i] = k + "=" + filepath.Join(dir, v)
			}
		case "--secret":
			flags[i] = strings.Replace(f, "src=", "src="+dir+"/", 1)
		case "--build-arg":
			flags[i] = strings.ReplaceAll(f, "$HOME", "/home/me")
		}
	}
	return flags, nil
}

// archive has a directory and a file with an owner and a time of their own.
func archive() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, h := range []*tar.Header{
		{Name: "x/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 5, Gid: 6, ModTime: when},
		{Name: "x/f", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 5, Gid: 6, ModTime: when, Size: 2},
		{Name: "x/l", Typeflag: tar.TypeSymlink, Linkname: "f", Mode: 0o777, ModTime: when},
		{Name: "x/h", Typeflag: tar.TypeLink, Linkname: "x/f", Mode: 0o640, Uid: 5, Gid: 6, ModTime: when},
	} {
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("f\n")); err != nil {
				return nil, err
			}
		}
	}
	return b.Bytes(), w.Close()
}

// Expected returns what BuildKit made of the case, as Listing has it; "" if it was
// never built.
func (c Case) Expected() (string, error) {
	data, err := expected.ReadFile("expected/" + c.Name + ".txt")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}
