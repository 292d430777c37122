// Package volume keeps what is known of volumes: directories that outlive the
// containers that use them. It mounts nothing and knows no container; who may
// remove a volume, and how files of mapped ids are removed, is its callers'.
//
// A volume is a directory, <root>/volumes/<name>:
//
//	volume.json   what it was made as; never changes. Without it the volume is an
//	              anonymous one that an older cais made
//	_data/        its content
//	filling       there while the content of an image is copied into it
//
// It appears and vanishes by one rename. All volumes of a store have one lock,
// <root>/volumes.lock: whoever makes or uses volumes holds it shared until what
// refers to them is written, whoever removes one holds it alone.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// Version is written into each volume.json. A higher one is refused.
const Version = 1

// Local is the only driver: directories of this machine, and what mount(8)
// mounts.
const Local = "local"

// Volume is what is known of one.
type Volume struct {
	Version   int               `json:"v"`
	Name      string            `json:"name"`
	Driver    string            `json:"driver"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // type, device, o: what mount(8) takes
	Created   time.Time         `json:"created"`
	Anonymous bool              `json:"anonymous,omitempty"` // made for a container that named none
}

const (
	file    = "volume.json"
	data    = "_data"
	filling = "filling"
	making  = ".new-"  // begins the name of what is being made
	leaving = ".gone-" // of what is being removed
)

// Store is where one user's volumes are.
type Store struct{ Root string }

// In returns the volumes of the store at root.
func In(root string) Store { return Store{Root: filepath.Join(root, "volumes")} }

// Dir is the directory of the volume called name.
func (s Store) Dir(name string) string { return filepath.Join(s.Root, name) }

// Data is where its content is.
func (s Store) Data(name string) string { return filepath.Join(s.Root, name, data) }

// Lock keeps volumes from being removed or, alone, from being made and used.
func (s Store) Lock(ctx context.Context, alone bool) (*lock.Lock, error) {
	l, err := lock.Acquire(ctx, s.Root+".lock", alone)
	if !errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	if err := os.MkdirAll(filepath.Dir(s.Root), 0o700); err != nil {
		return nil, err
	}
	return lock.Acquire(ctx, s.Root+".lock", alone)
}

// CheckName fails with Invalid unless name may name a volume. Such a name is also
// a safe file name.
func CheckName(name string) error {
	if len(name) == 1 {
		return errs.New(errs.Invalid, "volume name is too short, names should be at least two alphanumeric characters")
	}
	ok := len(name) >= 2 && len(name) <= 250
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		ok = alnum || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return errs.WithHint(errs.New(errs.Invalid, strconv.Quote(name)+
			` includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed`),
			"If you intended to pass a host directory, use an absolute path.")
	}
	return nil
}

// Check refuses what no volume can be.
func Check(v *Volume) error {
	if err := CheckName(v.Name); err != nil {
		return err
	}
	if v.Driver != "" && v.Driver != Local {
		return errs.New(errs.NotFound, fmt.Sprintf("error looking up volume plugin %s: plugin %q not found", v.Driver, v.Driver))
	}
	for k := range v.Options {
		if !slices.Contains([]string{"type", "device", "o"}, k) {
			return errs.New(errs.Invalid, fmt.Sprintf("invalid option: %q", k))
		}
	}
	if v.Options["type"] != "" && v.Options["device"] == "" && v.Options["type"] != "tmpfs" || v.Options["o"] != "" && v.Options["device"] == "" {
		return errs.New(errs.Invalid, `missing required option: "device"`)
	}
	if v.Options["device"] != "" && v.Options["type"] == "" {
		return errs.New(errs.Invalid, `missing required option: "type"`)
	}
	return nil
}

// anonymousLabel is what Docker's volumes without a name are told from the others by.
const anonymousLabel = "com.docker.volume.anonymous"

// Load returns the volume called name. It fails with NotFound.
func (s Store) Load(name string) (*Volume, error) {
	v, err := s.read(name)
	if err == nil && v.Anonymous {
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		v.Labels[anonymousLabel] = ""
	}
	return v, err
}

func (s Store) read(name string) (*Volume, error) {
	if CheckName(name) != nil {
		return nil, noSuch(name)
	}
	path := filepath.Join(s.Dir(name), file)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		fi, err := os.Lstat(s.Data(name))
		if err != nil || !fi.IsDir() {
			return nil, noSuch(name)
		}
		return &Volume{Version: Version, Name: name, Driver: Local, Created: fi.ModTime(), Anonymous: true}, nil
	}
	if err != nil {
		return nil, err
	}
	v := new(Volume)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, errs.WithHint(fmt.Errorf("read %s: %w", path, err), "The file is damaged; 'cais volume rm -f' removes its volume.")
	}
	if v.Version > Version {
		return nil, errs.WithHint(errs.New(errs.Unsupported, path+" is of a newer cais"), "Upgrade cais.")
	}
	return v, nil
}

func noSuch(name string) error { return errs.New(errs.NotFound, "no such volume: "+name) }

// Exists reports whether there is a volume called name.
func (s Store) Exists(name string) bool {
	_, err := os.Lstat(s.Data(name))
	return err == nil
}

// List returns all volumes, by name. Those that cannot be read are an error
// beside the others.
func (s Store) List() ([]*Volume, error) {
	entries, err := os.ReadDir(s.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Volume
	var bad []error
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		v, err := s.Load(e.Name())
		switch {
		case err == nil:
			list = append(list, v)
		case errs.KindOf(err) != errs.NotFound:
			bad = append(bad, err)
		}
	}
	return list, errors.Join(bad...)
}

// Begin makes the directory of a new volume under a name that is not its own, for
// [Store.Finish] or [Store.Discard]. Its content is made by whoever fills it.
func (s Store) Begin() (dir string, err error) {
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		return "", err
	}
	// Other users have no way to what is in there, which may be theirs to read, or a
	// program with somebody's rights, even where they may enter the store's directory.
	if err := os.Chmod(s.Root, 0o700); err != nil { // older ones let them pass
		return "", err
	}
	return os.MkdirTemp(s.Root, making)
}

// MakeData makes the empty content of a volume in dir, and says where.
func MakeData(dir string) (at string, err error) {
	at = filepath.Join(dir, data)
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	return at, os.Chmod(at, 0o755) // whatever the umask
}

// Finish gives the volume in dir its record and its name. made is false if there
// is a volume of that name meanwhile; then dir is the caller's to discard. The
// caller holds the lock shared.
func (s Store) Finish(dir string, v *Volume) (made bool, err error) {
	v.Version = Version
	if v.Driver == "" {
		v.Driver = Local
	}
	if v.Created.IsZero() {
		v.Created = time.Now().UTC()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil { //nolint:forbidigo // new, and named by the rename below
		return false, err
	}
	err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, s.Dir(v.Name), unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "rename", Path: dir, Err: err}
	}
	return true, nil
}

// Remove takes the volume's name away and returns the directory that is left to
// be removed. The caller holds the lock alone.
func (s Store) Remove(name string) (dir string, err error) {
	if CheckName(name) != nil {
		return "", noSuch(name)
	}
	dir, err = os.MkdirTemp(s.Root, leaving)
	if err != nil {
		return "", err
	}
	err = unix.Rename(s.Dir(name), dir) // over the empty one, which package os refuses
	if errors.Is(err, fs.ErrNotExist) {
		err = noSuch(name)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// Leftovers are what killed commands left half made or half removed. The caller
// holds the lock alone: so nobody is at work on any of it.
func (s Store) Leftovers() ([]string, error) {
	entries, err := os.ReadDir(s.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dirs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), making) || strings.HasPrefix(e.Name(), leaving) {
			dirs = append(dirs, filepath.Join(s.Root, e.Name()))
		}
	}
	return dirs, err
}

// Filling is the path of the mark that a volume's first content is being copied.
func (s Store) Filling(name string) string { return filepath.Join(s.Dir(name), filling) }

// Mounted is what a volume with options mounts where it is used; the zero value is
// a plain directory.
type Mounted struct {
	Type    string // tmpfs, nfs, …; "bind" is another directory
	Device  string
	Options []string
}

// Mounted says what the volume mounts.
func (v *Volume) Mounted() Mounted {
	kind, device := v.Options["type"], v.Options["device"]
	if kind == "" && device == "" {
		return Mounted{}
	}
	m := Mounted{Type: kind, Device: device}
	for o := range strings.SplitSeq(v.Options["o"], ",") {
		switch o {
		case "":
		case "bind", "rbind":
			m.Type = "bind"
		default:
			m.Options = append(m.Options, o)
		}
	}
	if kind == "bind" {
		m.Type = "bind"
	}
	if m.Type == "tmpfs" && m.Device == "" {
		m.Device = "tmpfs"
	}
	return m
}
