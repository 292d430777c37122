package storage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/layer/chunked"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// StageParts stages a layer of which the store has a good part already, in files of
// other layers; d is its blob, and get has parts of that. It is nil if the blob does not say
// what is in it, or if little would be saved.
//
// Whatever the blob says of itself, and whatever is in the files by now: the tar that
// comes of both has the diffID, or it is an error.
func (s *Store) StageParts(ctx context.Context, src LayerSource, d oci.Descriptor, get chunked.Get) (*Staged, error) {
	l, err := chunked.Open(ctx, d, get)
	if err != nil || l == nil {
		return nil, err
	}
	defer l.Close()
	here, err := s.findFiles(ctx, l.Files())
	if err != nil {
		return nil, err
	}
	missing := l.Leave(func(name string) bool { return here[name] != "" })
	if d.Size-missing < d.Size/8 {
		return nil, nil
	}
	split, err := l.Split()
	if err != nil {
		return nil, err
	}
	tar := newLayerTar(strings.TrimPrefix(src.DiffID, "sha256:"), split, func(name string) (io.ReadCloser, error) {
		dir, ok := here[name]
		if !ok {
			return l.File(ctx, name)
		}
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(root)
		return openFile(root, name)
	})
	src.Body, src.packed = struct{ io.Reader }{tar}, d.Size
	st, err := s.StageLayer(ctx, src)
	return st, errors.Join(err, tar.Close(), split.Close())
}

// findFiles returns in which layers' directories there are files with these paths, sizes and
// digests, by name.
func (s *Store) findFiles(ctx context.Context, files []chunked.File) (map[string]string, error) {
	layers, err := s.lib.Layers()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b chunked.File) int { return cmp.Compare(dirOf(a), dirOf(b)) })
	here := map[string]string{}
	for _, l := range layers {
		if len(here) == len(files) {
			break
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if dir := s.reader.LayerDir(l.ID); dir != "" {
			s.findIn(dir, files, here)
		}
	}
	return here, nil
}

func dirOf(f chunked.File) string { return strings.TrimPrefix(path.Dir("/"+f.Name), "/") }

// findIn looks for files, which are sorted by their directories, in one layer's.
func (s *Store) findIn(layer string, files []chunked.File, here map[string]string) {
	root, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it is being removed
	}
	defer unix.Close(root)
	for len(files) > 0 {
		dir := dirOf(files[0])
		n := slices.IndexFunc(files, func(f chunked.File) bool { return dirOf(f) != dir })
		if n < 0 {
			n = len(files)
		}
		if fd, err := sys.OpenBelow(root, dir, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS); err == nil {
			for _, f := range files[:n] {
				if here[f.Name] == "" && holds(fd, f) {
					here[f.Name] = layer
				}
			}
			_ = unix.Close(fd) // O_PATH: nothing to lose
		}
		files = files[n:]
	}
}

// holds reports whether the directory has this very file.
func holds(dir int, f chunked.File) bool {
	var st unix.Stat_t
	base := path.Base(f.Name)
	if unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != f.Size {
		return false
	}
	file, err := openFile(dir, base)
	if err != nil {
		return false
	}
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	return err == nil && "sha256:"+hex.EncodeToString(sum.Sum(nil)) == f.Digest
}
