package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"cais.dev/cais/pkg/errs"
)

// Storage is what storage.conf(5) and the environment say of the image store.
type Storage struct {
	GraphRoot       string
	RunRoot         string
	Driver          string   // empty: what the store holds already, else overlay
	DriverOptions   []string // as in STORAGE_OPTS
	ImageStore      string   // images apart from containers; usually empty
	ImageStores     []string // additional, read-only
	Transient       bool
	DisableVolatile bool
	PullOptions     map[string]string
	Files           []string // which files were read
}

// The configuration's directories, lowest priority first.
const (
	vendorDir = "/usr/share/containers"
	adminDir  = "/etc/containers"
)

// ReadStorage decides where and how images are kept: p's directories, changed
// by the configuration files below root (os.DirFS("/")) and by the environment.
// A file that is there but cannot be read or understood is an error naming it.
//
// The files are those of c/storage 1.63 and later: the admin's storage.conf, or
// the vendor's without one; for a user, also the user's own; then drop-ins.
// One thing differs on purpose. For a user, graphroot and runroot of system files
// count only if they are made for users (under the user's home, or naming $HOME
// or $UID): what distributions ship for podman up to 5, which ignores both for
// users, says /var/lib/containers/storage, where a user may not write.
//
// With CAIS_ROOT, no file is read but the one that CONTAINERS_STORAGE_CONF names,
// and no file moves the store.
func ReadStorage(e Env, p Paths, root fs.FS) (Storage, error) {
	s := settings{env: e, root: root, options: map[string]string{}}
	s.out.GraphRoot, s.out.RunRoot = p.GraphRoot, p.RunRoot
	for _, f := range s.files() {
		if err := s.read(f); err != nil {
			return Storage{}, err
		}
	}
	if d := e.Getenv("STORAGE_DRIVER"); d != "" {
		s.out.Driver = d
	}
	if s.out.Driver == "overlay2" { // Docker's name for the same
		s.out.Driver = "overlay"
	}
	s.driverOptions()
	if e.Getenv("CAIS_ROOT") != "" {
		s.out.GraphRoot, s.out.RunRoot = p.GraphRoot, p.RunRoot
	}
	if s.out.ImageStore == s.out.GraphRoot {
		s.out.ImageStore = ""
	}
	return s.out, nil
}

// confFile is one file to read.
type confFile struct {
	path   string
	system bool // its directories are not meant for a user
	must   bool // its absence is an error
}

type settings struct {
	env     Env
	root    fs.FS
	out     Storage
	options map[string]string // driver options by key
}

// files lists what is to be read, lowest priority first.
func (s *settings) files() []confFile {
	var files []confFile
	env := s.env.Getenv("CONTAINERS_STORAGE_CONF")
	switch {
	case env != "":
		files = append(files, confFile{path: env, must: true})
	case s.env.Getenv("CAIS_ROOT") != "":
	default:
		for _, dir := range []string{adminDir, vendorDir} {
			if f := path.Join(dir, "storage.conf"); s.exists(f) {
				files = append(files, confFile{path: f, system: true})
				break
			}
		}
		if dir := s.userDir(); dir != "" && s.env.UID != 0 {
			if f := path.Join(dir, "storage.conf"); s.exists(f) {
				files = append(files, confFile{path: f})
			}
		}
		files = append(files, s.dropIns()...)
	}
	if f := s.env.Getenv("CONTAINERS_STORAGE_CONF_OVERRIDE"); f != "" {
		files = append(files, confFile{path: f, must: true})
	}
	return files
}

// userDir is where the user's own files are; root has none apart.
func (s *settings) userDir() string {
	if x := s.env.Getenv("XDG_CONFIG_HOME"); x != "" {
		return path.Join(x, "containers")
	}
	if s.env.Home == "" {
		return ""
	}
	return path.Join(s.env.Home, ".config", "containers")
}

// dropIns lists the drop-in files by name; of two with one name, only that of
// the directory with the higher priority counts.
func (s *settings) dropIns() []confFile {
	byName := map[string]confFile{}
	add := func(dir string, system bool) {
		entries, err := fs.ReadDir(s.root, strings.TrimPrefix(dir, "/"))
		if err != nil {
			return // not there; one that cannot be listed is not there for us either
		}
		for _, entry := range entries {
			if name := entry.Name(); strings.HasSuffix(name, ".conf") && !entry.IsDir() {
				byName[name] = confFile{path: path.Join(dir, name), system: system}
			}
		}
	}
	kind := "rootless"
	if s.env.UID == 0 {
		kind = "rootful"
	}
	for _, dir := range []string{vendorDir, adminDir} {
		add(path.Join(dir, "storage.conf.d"), true)
		add(path.Join(dir, "storage."+kind+".conf.d"), false)
		if s.env.UID != 0 {
			add(path.Join(dir, "storage.rootless.conf.d", strconv.Itoa(s.env.UID)), false)
		}
	}
	if dir := s.userDir(); dir != "" && s.env.UID != 0 {
		add(path.Join(dir, "storage.conf.d"), false)
	}
	files := make([]confFile, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		files = append(files, byName[name])
	}
	return files
}

func (s *settings) exists(file string) bool {
	_, err := fs.Stat(s.root, strings.TrimPrefix(file, "/"))
	return !errors.Is(err, fs.ErrNotExist) // one that we may not see is found out by reading
}

// document is the part of storage.conf that cais knows. What it does not know
// is left to the tools that do.
type document struct {
	Storage struct {
		Driver              string         `toml:"driver"`
		RunRoot             string         `toml:"runroot"`
		GraphRoot           string         `toml:"graphroot"`
		RootlessStoragePath string         `toml:"rootless_storage_path"`
		ImageStore          string         `toml:"imagestore"`
		TransientStore      bool           `toml:"transient_store"`
		Options             map[string]any `toml:"options"`
	} `toml:"storage"`
}

func (s *settings) read(f confFile) error {
	fail := func(k errs.Kind, err error) error { return errs.E("read "+f.path, k, err) }
	if !path.IsAbs(f.path) {
		return fail(errs.Invalid, errors.New("the path is not absolute"))
	}
	data, err := fs.ReadFile(s.root, strings.TrimPrefix(path.Clean(f.path), "/"))
	if errors.Is(err, fs.ErrNotExist) && !f.must {
		return nil
	}
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err // it says the path below root, we say it whole
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fail(errs.NotFound, err)
		}
		return fail(errs.Denied, err)
	}
	var doc document
	if _, err := toml.Decode(string(data), &doc); err != nil {
		return fail(errs.Invalid, err)
	}
	c := doc.Storage
	s.out.Files = append(s.out.Files, f.path)
	set(&s.out.Driver, c.Driver)
	set(&s.out.ImageStore, s.expand(c.ImageStore))
	s.out.Transient = s.out.Transient || c.TransientStore
	if s.forUs(f, c.RunRoot) {
		set(&s.out.RunRoot, s.expand(c.RunRoot))
	}
	if s.env.UID != 0 {
		set(&s.out.GraphRoot, s.expand(c.RootlessStoragePath))
	}
	if s.forUs(f, c.GraphRoot) {
		set(&s.out.GraphRoot, s.expand(c.GraphRoot))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Options)) {
		if err := s.option(key, c.Options[key]); err != nil {
			return fail(errs.Invalid, fmt.Errorf("storage.options.%s: %w", key, err))
		}
	}
	return nil
}

func set(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// forUs reports whether a directory that the file names is meant for the caller.
func (s *settings) forUs(f confFile, dir string) bool {
	if s.env.UID == 0 || !f.system {
		return true
	}
	for _, mark := range []string{"$HOME", "${HOME}", "$UID", "${UID}"} {
		if strings.Contains(dir, mark) {
			return true
		}
	}
	return s.env.Home != "" && s.env.Home != "/" && strings.HasPrefix(dir, strings.TrimSuffix(s.env.Home, "/")+"/")
}

func (s *settings) expand(dir string) string {
	return os.Expand(dir, func(name string) string {
		switch name {
		case "UID":
			return strconv.Itoa(s.env.UID)
		case "HOME":
			return s.env.Home
		}
		return s.env.Getenv(name)
	})
}

// option takes one entry of [storage.options].
func (s *settings) option(key string, value any) error {
	switch key {
	case "additionalimagestores":
		stores, err := appendable(s.out.ImageStores, value)
		for i := range stores {
			stores[i] = s.expand(stores[i])
		}
		s.out.ImageStores = stores
		return err
	case "imagestore":
		v, err := scalar(key, value)
		set(&s.out.ImageStore, s.expand(v))
		return err
	case "disable-volatile":
		b, ok := value.(bool)
		s.out.DisableVolatile = b
		return wantType(ok, "true or false", value)
	case "pull_options":
		table, ok := value.(map[string]any)
		for k, v := range table {
			text, err := scalar(k, v)
			if err != nil {
				return err
			}
			if s.out.PullOptions == nil {
				s.out.PullOptions = map[string]string{}
			}
			s.out.PullOptions[k] = text
		}
		return wantType(ok, "a table", value)
	case "size", "mount_program", "skip_mount_home", "ignore_chown_errors", "force_mask", "mountopt", "use_composefs":
		v, err := scalar(key, value)
		s.options[key] = v
		return err
	}
	if table, ok := value.(map[string]any); ok { // a driver's own
		for k, v := range table {
			text, err := scalar(k, v)
			if err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			s.options[key+"."+k] = text
		}
	}
	return nil // remap-uids and others that have no meaning here
}

func wantType(ok bool, want string, value any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("want %s, found %v", want, value)
}

// appendable takes a list, whose elements may include {append=true}.
func appendable(old []string, value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, wantType(false, "a list", value)
	}
	var items []string
	add := false
	for _, v := range list {
		switch v := v.(type) {
		case string:
			if v != "" {
				items = append(items, v)
			}
		case map[string]any:
			add = v["append"] == true
		default:
			return nil, wantType(false, "a path", v)
		}
	}
	if add {
		return append(slices.Clone(old), items...), nil
	}
	return items, nil
}

func scalar(key string, value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		if key == "force_mask" {
			return strconv.FormatInt(v, 8), nil
		}
		return strconv.FormatInt(v, 10), nil
	}
	return "", wantType(false, "a string", value)
}

// driverOptions puts the options together: those without a driver's name, and
// the driver's own. STORAGE_OPTS replaces them all.
func (s *settings) driverOptions() {
	driver := s.out.Driver
	if driver == "" {
		driver = "overlay"
	}
	var opts []string
	for _, key := range slices.Sorted(maps.Keys(s.options)) {
		owner, _, owned := strings.Cut(key, ".")
		if s.options[key] != "" && (!owned || owner == driver) {
			opts = append(opts, key+"="+s.options[key])
		}
	}
	if env := s.env.Getenv("STORAGE_OPTS"); env != "" {
		opts = strings.Split(env, ",")
	}
	s.out.SetDriverOptions(opts)
}

// SetDriverOptions replaces the driver's options by others. Those that name more image
// stores add to them.
func (s *Storage) SetDriverOptions(opts []string) {
	s.DriverOptions = nil
	for _, o := range opts {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case strings.HasSuffix(key, "imagestore"):
			s.ImageStores = append(s.ImageStores, value)
		case o != "":
			s.DriverOptions = append(s.DriverOptions, o)
		}
	}
}
