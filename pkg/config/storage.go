package config

import "io/fs"

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

// ReadStorage decides where and how images are kept: p's directories, changed
// by the configuration files below root (os.DirFS("/")) and by the environment.
// A file that is there but cannot be read or understood is an error naming it.
func ReadStorage(e Env, p Paths, root fs.FS) (Storage, error) {
	return Storage{GraphRoot: p.GraphRoot, RunRoot: p.RunRoot}, nil
}
