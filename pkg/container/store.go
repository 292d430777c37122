package container

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/sys"
)

// Store is where one user's containers are kept. Its zero value is not usable;
// making one touches nothing.
type Store struct {
	Root string // what survives a reboot
	Run  string // what does not: tmpfs, 0700
}

// The names of the files in a container's directory.
const (
	recordFile   = "record.json"
	specFile     = "config.json"
	settingsFile = "settings.json"
	exitFile     = "exit.json"
	exitDraft    = ".exit.json.monitor" // kept by a monitor while its container runs
	stateFile    = "state.json"
	lockFile     = "lock"
	aliveFile    = "alive"
	idFile       = "id"
	runLink      = "run"
)

// goneSuffix is put to the name of a directory that is being removed.
const goneSuffix = ".gone"

func (s Store) containers() string { return filepath.Join(s.Root, "containers") }
func (s Store) names() string      { return filepath.Join(s.Root, "names") }

// Dir is the directory of the container id.
func (s Store) Dir(id string) string { return filepath.Join(s.Root, "containers", id) }

// RunDir is the directory that a new container gets below the run root. An
// existing container's is what its "run" link says: its creator may have had
// another environment.
func (s Store) RunDir(id string) string { return filepath.Join(s.RunDirs(), id) }

// RunDirs is what all of this store's run directories are in. Another store of
// the same user (another HOME) has another: who finds a run directory here that
// belongs to no container may remove it.
func (s Store) RunDirs() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(filepath.Clean(s.Root))) // never fails
	return filepath.Join(s.Run, "containers", strconv.FormatUint(h.Sum64(), 36))
}

// Create makes the directory of a new container, with its run directory, and
// returns it locked: as long as the lock is held and no record is written,
// nobody takes the directory for left over.
func (s Store) Create(ctx context.Context, id string) (*lock.Lock, error) {
	if !IsID(id) {
		return nil, fmt.Errorf("create container: %q is not an id", id)
	}
	dir := s.Dir(id)
	l, err := s.makeLocked(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err = s.fillNew(id, dir); err != nil {
		return nil, errors.Join(err, s.Discard(id), l.Release())
	}
	return l, nil
}

func (s Store) fillNew(id, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, idFile), []byte(id), 0o600); err != nil { //nolint:forbidigo // new, and never changed
		return err
	}
	return s.EnsureRunDir(id)
}

// makeLocked makes dir and locks it. A collector may take the new directory for
// left over before it is locked; then it is waited for, and the directory is made
// again. With a hundred creators at once, each of them a collector, that happens.
func (s Store) makeLocked(ctx context.Context, dir string) (*lock.Lock, error) {
	for range 100 {
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(os.MkdirAll(s.containers(), 0o700), os.MkdirAll(s.names(), 0o700), os.Mkdir(dir, 0o700))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		l, err := lock.Acquire(ctx, filepath.Join(dir, lockFile), true)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if isAt(l.File(), filepath.Join(dir, lockFile)) {
			return l, nil
		}
		_ = l.Release() // nothing was locked: the file is gone
	}
	return nil, errs.E("create "+dir, errs.Unavailable, errors.New("somebody keeps removing it"))
}

// isAt reports whether f is the file at path. A lock says something of a
// container only as long as it is: while it was waited for, the directory may
// have been removed, and made again with another lock in it.
func isAt(f *os.File, path string) bool {
	var have, want syscall.Stat_t
	return syscall.Fstat(int(f.Fd()), &have) == nil && syscall.Lstat(path, &want) == nil &&
		have.Dev == want.Dev && have.Ino == want.Ino
}

// EnsureRunDir makes the container's run directory, and the link to it, if a
// reboot or a clean-up of the run root has taken it.
func (s Store) EnsureRunDir(id string) error {
	link := filepath.Join(s.Dir(id), runLink)
	dir, err := os.Readlink(link)
	if err != nil || !usable(dir) {
		dir = s.RunDir(id)
		if err := makeRunDir(s.Run, dir); err != nil {
			return err
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(dir, link)
	}
	return nil
}

func usable(dir string) bool { return checkOurs(dir) == nil }

func makeRunDir(run, dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(run, 0o700); err != nil {
			return err
		}
		if err := checkOurs(run); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, fs.ErrExist):
		return err
	}
	return checkOurs(dir)
}

// checkOurs refuses a directory that somebody else could have put there: the
// run root may lie in /tmp, where a missing name is anybody's.
func checkOurs(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR && int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0 {
		return nil
	}
	err := errs.New(errs.Denied, dir+" is not a directory that only this user can change")
	return errs.WithHint(err, "Remove it, or set XDG_RUNTIME_DIR to a directory of your own with mode 0700.")
}

// ClaimName gives name to the container id. It fails with Conflict if another
// container has it; a name left behind by a container that is gone is taken
// over.
func (s Store) ClaimName(name, id string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	path := filepath.Join(s.names(), name)
	for range 10 {
		err := os.Link(filepath.Join(s.Dir(id), idFile), path)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if string(owner) == id {
			return nil
		}
		if _, err := os.Lstat(s.Dir(string(owner))); !errors.Is(err, fs.ErrNotExist) || !IsID(string(owner)) {
			return &NameTakenError{Name: name, Owner: string(owner)}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errs.New(errs.Unavailable, "the container name "+name+" keeps changing hands")
}

// NameTakenError says that Name belongs to the container Owner.
type NameTakenError struct{ Name, Owner string }

// Error is Docker's statement in this program's words.
func (e *NameTakenError) Error() string {
	return fmt.Sprintf("the container name %q is already in use by container %q; remove or rename it, or use --replace", e.Name, e.Owner)
}

// Unwrap gives the error its kind.
func (e *NameTakenError) Unwrap() error {
	return errs.New(errs.Conflict, "name in use")
}

// ReleaseName gives name up, if it is id's.
func (s Store) ReleaseName(name, id string) error {
	if name == "" {
		return nil
	}
	path := filepath.Join(s.names(), name)
	if owner, err := os.ReadFile(path); err != nil || string(owner) != id {
		return ignoreMissing(err)
	}
	return ignoreMissing(os.Remove(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Discard removes what Create made, as long as nothing but small files of ours
// is in it: trees with mapped ids need more than this package can do. The caller
// holds the lock.
//
// The directory loses its name first. Emptied in place, it would be without its
// lock for a moment, and whoever made a new one just then would take for its own
// what is about to be removed.
func (s Store) Discard(id string) error {
	dir := s.Dir(id)
	run, _ := os.Readlink(filepath.Join(dir, runLink)) // absent: nothing to remove
	if run != "" && filepath.Base(run) == id {
		if err := os.RemoveAll(run); err != nil {
			return err
		}
	}
	away := dir + goneSuffix
	err := os.Rename(dir, away)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) { // one that was killed here
		err = errors.Join(removeGone(away), os.Rename(dir, away))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, removeGone(away))
}

// removeGone removes a directory that has lost its name. A collector that had
// looked it up before may yet make a lock in it.
func removeGone(dir string) error {
	err := os.RemoveAll(dir)
	for range 100 {
		if !errors.Is(err, syscall.ENOTEMPTY) {
			break
		}
		err = os.RemoveAll(dir)
	}
	return err
}

// RemoveGone removes what a Discard left that was killed in it.
func (s Store) RemoveGone() error {
	names, err := s.entries()
	for _, n := range names {
		if id, ok := strings.CutSuffix(n, goneSuffix); ok && IsID(id) {
			err = errors.Join(err, removeGone(filepath.Join(s.containers(), n)))
		}
	}
	return err
}

// TryLock takes the lock in the directory of id, which may be without a record:
// half made or half removed. It fails with lock.ErrHeld if somebody is at work
// on it, and with fs.ErrNotExist if it is gone.
func (s Store) TryLock(id string) (*lock.Lock, error) {
	path := filepath.Join(s.Dir(id), lockFile)
	l, err := lock.Try(path, true)
	if err == nil && !isAt(l.File(), path) {
		_ = l.Release() // nothing was locked
		return nil, &fs.PathError{Op: "lock", Path: path, Err: fs.ErrNotExist}
	}
	return l, err
}

// Lock takes the container's lock for one change. It fails with NotFound if
// the container has been removed in the meantime.
func (s Store) Lock(ctx context.Context, id string) (*lock.Lock, error) {
	dir := s.Dir(id)
	if _, err := os.Lstat(filepath.Join(dir, recordFile)); err != nil {
		return nil, noSuch(ShortID(id))
	}
	l, err := lock.Acquire(ctx, filepath.Join(dir, lockFile), true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noSuch(ShortID(id))
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, recordFile)); err != nil || !isAt(l.File(), filepath.Join(dir, lockFile)) {
		_ = l.Release()
		return nil, noSuch(ShortID(id))
	}
	return l, nil
}

// Take returns the container that ref means, locked for one change.
func (s Store) Take(ctx context.Context, ref string) (*Container, *lock.Lock, error) {
	id, err := s.Find(ref)
	if err != nil {
		return nil, nil, err
	}
	l, err := s.Lock(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.Load(id)
	if err != nil {
		return nil, nil, errors.Join(err, l.Release())
	}
	return c, l, nil
}

func noSuch(ref string) error { return errs.New(errs.NotFound, "no such container: "+ref) }

// Find returns the full id of the container that ref means: a full id, a name
// with or without a leading slash, or the beginning of one id only.
func (s Store) Find(ref string) (string, error) {
	if IsID(ref) && s.exists(ref) {
		return ref, nil
	}
	if id, err := s.byName(strings.TrimPrefix(ref, "/")); id != "" || err != nil {
		return id, err
	}
	if !isHex(ref) || len(ref) > 64 {
		return "", noSuch(ref)
	}
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	var found []string
	for _, id := range ids {
		if strings.HasPrefix(id, ref) && s.exists(id) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", noSuch(ref)
	case 1:
		return found[0], nil
	}
	return "", errs.New(errs.Conflict, fmt.Sprintf("ambiguous ID prefix %q (matches %d containers)", ref, len(found)))
}

func (s Store) byName(name string) (string, error) {
	if CheckName(name) != nil {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Join(s.names(), name))
	if err != nil {
		return "", ignoreMissing(err)
	}
	if id := string(b); IsID(id) && s.exists(id) {
		return id, nil
	}
	return "", nil // left behind by a killed command
}

func (s Store) exists(id string) bool {
	_, err := os.Lstat(filepath.Join(s.Dir(id), recordFile))
	return err == nil
}

// IDs returns the ids of all directories of containers, also of those that are
// half made or half removed.
func (s Store) IDs() ([]string, error) {
	names, err := s.entries()
	ids := names[:0]
	for _, n := range names {
		if IsID(n) {
			ids = append(ids, n)
		}
	}
	return ids, err
}

func (s Store) entries() ([]string, error) {
	d, err := os.Open(s.containers())
	if err != nil {
		return nil, ignoreMissing(err)
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// Forget removes the record, which makes the rest of the directory something
// left over. The caller holds the lock.
func (s Store) Forget(id string) error {
	return ignoreMissing(os.Remove(filepath.Join(s.Dir(id), recordFile)))
}

// VolumeDir is the directory of an anonymous volume; its content is in _data.
func (s Store) VolumeDir(name string) string { return filepath.Join(s.Root, "volumes", name) }

// Sync puts the container's record and its name on disk. It is done beside the
// start, for containers that are to survive a power cut.
func (s Store) Sync(id string) error {
	dir := s.Dir(id)
	for _, name := range []string{recordFile, specFile, settingsFile, idFile} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", f.Name(), err)
		}
	}
	return errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(s.containers()), atomicfile.SyncDir(s.names()))
}

// Names returns all claimed names and whose they are, if there are more than some:
// each has to be read.
func (s Store) Names(some int) (map[string]string, error) {
	d, err := os.Open(s.names())
	if err != nil {
		return nil, ignoreMissing(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil || len(names) <= some {
		return nil, err
	}
	owners := make(map[string]string, len(names))
	at := int(d.Fd())
	for _, n := range names {
		b, err := sys.ReadFile(at, n, nil)
		if err == nil {
			owners[n] = string(b)
		}
	}
	return owners, nil
}
