package storage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/chunked"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// maxSplit bounds a tar-split that came from elsewhere: a kilobyte for each entry
// that a layer may have.
const maxSplit = 4 << 30

// StageParts stages a layer of which the store has a good part already, in files of
// other layers; d is its blob, and get has parts of that. It is nil if the blob does not say
// what is in it, or if little would be saved.
//
// Whatever the blob says of itself, and whatever is in the files by now: the tar that
// comes of both has the diffID, or it is an error.
func (s *Store) StageParts(ctx context.Context, src LayerSource, d oci.Descriptor, get chunked.Get) (*Staged, error) {
	src.most = new(atomic.Int64)
	l, err := chunked.Open(ctx, d, func(ctx context.Context, from, to int64) (io.ReadCloser, error) {
		body, err := get(ctx, from, to)
		if err != nil {
			return nil, err
		}
		return allow(body, src.most, limitFactor), nil
	})
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
	lines := io.LimitReader(ctxReader{ctx, split}, maxSplit)
	tar := newLayerTar(strings.TrimPrefix(src.DiffID, "sha256:"), lines, func(name string) (io.ReadCloser, error) {
		dir, ok := here[name]
		if !ok {
			return l.File(ctx, name)
		}
		delete(here, name) // a tar has it once: who asks again would fill the disk with copies
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(root)
		file, err := openFile(root, name)
		if err != nil {
			return nil, err
		}
		return allow(file, src.most, 1), nil
	})
	src.Body = struct{ io.Reader }{tar}
	st, err := s.StageLayer(ctx, src)
	return st, errors.Join(err, tar.Close(), split.Close())
}

// allow adds to most what is read from r, times factor: a layer may not unpack to more. What
// its manifest says of its size is nothing to go by, since not all of it comes.
func allow(r io.ReadCloser, most *atomic.Int64, factor int64) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r, allowance{most, factor}), r}
}

type allowance struct {
	most   *atomic.Int64
	factor int64
}

func (a allowance) Write(p []byte) (int, error) {
	a.most.Add(int64(len(p)) * a.factor)
	return len(p), nil
}

// ctxReader ends with ctx.
type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// findFiles returns in which layers' directories there are files with these paths, sizes and
// digests, by name.
func (s *Store) findFiles(ctx context.Context, files []chunked.File) (map[string]string, error) {
	layers, err := s.lib.Layers()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b chunked.File) int {
		return cmp.Or(cmp.Compare(dirOf(a), dirOf(b)), cmp.Compare(path.Base(a.Name), path.Base(b.Name)))
	})
	for i := 1; i < len(files); i++ { // spelled otherwise, a file would be read again for each of its names
		if a, b := files[i-1].Name, files[i].Name; path.Clean("/"+a) == path.Clean("/"+b) {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("%q and %q are the same file", a, b))
		}
	}
	here := map[string]string{}
	for _, l := range layers {
		if len(here) == len(files) {
			break
		}
		if dir := s.reader.LayerDir(l.ID); dir != "" {
			s.findIn(ctx, dir, files, here)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return here, nil
}

func dirOf(f chunked.File) string { return strings.TrimPrefix(path.Dir("/"+f.Name), "/") }

// findIn looks for files, which are sorted by their directories, in one layer's.
func (s *Store) findIn(ctx context.Context, layer string, files []chunked.File, here map[string]string) {
	root, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it is being removed
	}
	defer unix.Close(root)
	for len(files) > 0 && ctx.Err() == nil {
		dir := dirOf(files[0])
		n := slices.IndexFunc(files, func(f chunked.File) bool { return dirOf(f) != dir })
		if n < 0 {
			n = len(files)
		}
		if fd, err := sys.OpenBelow(root, dir, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS); err == nil {
			for _, f := range files[:n] {
				if here[f.Name] == "" && holds(ctx, fd, f) {
					here[f.Name] = layer
				}
			}
			_ = unix.Close(fd) // O_PATH: nothing to lose
		}
		files = files[n:]
	}
}

// holds reports whether the directory has this very file.
func holds(ctx context.Context, dir int, f chunked.File) bool {
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
	_, err = io.Copy(sum, ctxReader{ctx, file})
	return err == nil && "sha256:"+hex.EncodeToString(sum.Sum(nil)) == f.Digest
}
