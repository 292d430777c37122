// Package config finds cais's directories and reads the configuration files
// that cais shares with Docker and Podman.
package config

import (
	"path/filepath"
	"strconv"
)

// Paths are the directories that a user's cais works in.
type Paths struct {
	Root      string // containers, names, what must survive a reboot
	Run       string // sockets and states, gone at reboot; 0700 and ours
	GraphRoot string // the image store, shared with Podman
	RunRoot   string // the image store's run directory
}

// Env is what deciding the paths needs to know of the caller.
type Env struct {
	UID    int                 // the user's id outside any user namespace
	Getenv func(string) string // os.Getenv
	Home   string              // the user's home directory; may be empty
	// RunUser is /run/user/<uid> if it exists and belongs to the user, else "".
	RunUser string
}

// CDIDirs are where vendors describe their devices: the specification's places,
// and one of the user's own.
func CDIDirs(e Env) []string {
	return []string{"/etc/cdi", "/var/run/cdi", filepath.Join(e.configHome(), "cdi")}
}

// Locate decides the paths. CAIS_ROOT puts all four below one directory, which
// is how tests and throw-away stores keep to themselves; otherwise images are
// where Podman keeps them, before storage.conf (see [Storage]) has its say.
func Locate(e Env) Paths {
	if root := e.Getenv("CAIS_ROOT"); root != "" {
		return Paths{
			Root:      root,
			Run:       filepath.Join(root, "run"),
			GraphRoot: filepath.Join(root, "storage"),
			RunRoot:   filepath.Join(root, "run", "storage"),
		}
	}
	if e.UID == 0 {
		return Paths{
			Root:      "/var/lib/cais",
			Run:       "/run/cais",
			GraphRoot: "/var/lib/containers/storage",
			RunRoot:   "/run/containers/storage",
		}
	}
	uid := strconv.Itoa(e.UID)
	data := e.Getenv("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(e.Home, ".local", "share")
	}
	p := Paths{
		Root:      filepath.Join(data, "cais"),
		GraphRoot: filepath.Join(data, "containers", "storage"),
	}
	run := e.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = e.RunUser
	}
	if run == "" {
		p.Run, p.RunRoot = "/tmp/cais-"+uid, "/tmp/storage-run-"+uid
		return p
	}
	p.Run, p.RunRoot = filepath.Join(run, "cais"), filepath.Join(run, "containers")
	return p
}
