package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
)

// mountsDir is where images are mounted.
func (r *Reader) mountsDir() string { return filepath.Join(r.o.RunRoot, "cais-images") }

// Mount mounts an image's files read-only in this mount namespace and returns
// where. One that is mounted stays so. It wants root, or root of the user's
// namespace.
func (r *Reader) Mount(ctx context.Context, img *Image) (string, error) {
	op := "mount image " + short(img.ID)
	dir := filepath.Join(r.mountsDir(), img.ID)
	if mounted(dir) {
		return dir, nil
	}
	lower, err := r.LowerDirs(ctx, img)
	if err != nil {
		return "", err
	}
	if len(lower) == 0 {
		return "", errs.E(op, errs.Unsupported, errors.New("it has no layers"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errs.E(op, errs.Denied, err)
	}
	if len(lower) == 1 {
		lower = append(lower, filepath.Join(r.mountsDir(), "empty")) // overlay wants two
		if err := os.MkdirAll(lower[1], 0o700); err != nil {
			return "", errs.E(op, errs.Denied, err)
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if r.o.Rootless {
		options += ",userxattr"
	}
	if len(options) >= os.Getpagesize() {
		return "", errs.E(op, errs.Unsupported, fmt.Errorf("its %d layers have too long names for mount(2)", len(lower)))
	}
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY|unix.MS_NODEV, options); err != nil {
		return "", errors.Join(errs.E(op, errs.Denied, err), os.Remove(dir))
	}
	return dir, nil
}

// Mounted returns the ids of the images that are mounted in this mount namespace,
// with where.
func (r *Reader) Mounted() (map[string]string, error) {
	entries, err := os.ReadDir(r.mountsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range entries {
		if dir := filepath.Join(r.mountsDir(), e.Name()); mounted(dir) {
			all[e.Name()] = dir
		}
	}
	return all, nil
}

// Unmount undoes Mount. It fails with NotFound if the image is not mounted.
func (r *Reader) Unmount(img *Image) error {
	dir := filepath.Join(r.mountsDir(), img.ID)
	if !mounted(dir) {
		return errs.New(errs.NotFound, "image "+short(img.ID)+" is not mounted")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return errs.E("unmount image "+short(img.ID), errs.Conflict, err)
	}
	return os.Remove(dir)
}

// mounted reports whether something is mounted on dir: its parent is of another
// file system.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}
