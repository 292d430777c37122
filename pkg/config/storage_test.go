package config

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cais.dev/cais/pkg/errs"
)

// What distributions ship, without the comments.
const (
	fedora = `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = [
"/usr/lib/containers/storage",
]
pull_options = {enable_partial_images = "true", use_hard_links = "false", ostree_repos=""}
[storage.options.overlay]
mountopt = "nodev,metacopy=on"
[storage.options.thinpool]
`
	rhel9 = `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = [
]
pull_options = {enable_partial_images = "false", use_hard_links = "false", ostree_repos=""}
[storage.options.overlay]
mountopt = "nodev,metacopy=on"
`
	arch = `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = [
]
[storage.options.overlay]
mountopt = "nodev"
[storage.options.vfs]
ignore_chown_errors = "true"
[storage.options.btrfs]
size = "1g"
`
	suse = `[storage]
driver = "btrfs"
runroot = "/var/run/containers/storage"
graphroot = "/var/lib/containers/storage"
rootless_storage_path = "$HOME/.local/share/containers/storage"
[storage.options]
size = ""
`
)

func TestReadStorage(t *testing.T) {
	user := map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}
	const home = "/home/u/.local/share/containers/storage"
	const run = "/run/user/1000/containers"
	tests := []struct {
		name  string
		uid   int
		env   map[string]string
		files map[string]string
		want  Storage
		opts  string
	}{
		{name: "Debian and Ubuntu, no file", uid: 1000, env: user, want: Storage{GraphRoot: home, RunRoot: run}},
		{name: "root without a file", want: Storage{GraphRoot: "/var/lib/containers/storage", RunRoot: "/run/containers/storage"}},
		{name: "Fedora's for a user", uid: 1000, env: user, files: map[string]string{"usr/share/containers/storage.conf": fedora},
			want: Storage{GraphRoot: home, RunRoot: run, Driver: "overlay", ImageStores: []string{"/usr/lib/containers/storage"}}, opts: "overlay.mountopt=nodev,metacopy=on"},
		{name: "Fedora's for root", files: map[string]string{"usr/share/containers/storage.conf": fedora},
			want: Storage{GraphRoot: "/var/lib/containers/storage", RunRoot: "/run/containers/storage", Driver: "overlay", ImageStores: []string{"/usr/lib/containers/storage"}},
			opts: "overlay.mountopt=nodev,metacopy=on"},
		{name: "RHEL 9's for a user", uid: 1000, env: user, files: map[string]string{"etc/containers/storage.conf": rhel9},
			want: Storage{GraphRoot: home, RunRoot: run, Driver: "overlay"}, opts: "overlay.mountopt=nodev,metacopy=on"},
		{name: "Arch's for a user", uid: 1000, env: user, files: map[string]string{"etc/containers/storage.conf": arch},
			want: Storage{GraphRoot: home, RunRoot: run, Driver: "overlay"}, opts: "overlay.mountopt=nodev"},
		{name: "openSUSE's for a user", uid: 1000, env: user, files: map[string]string{"etc/containers/storage.conf": suse},
			want: Storage{GraphRoot: home, RunRoot: run, Driver: "btrfs"}},
		{name: "the admin's hides the vendor's", files: map[string]string{
			"usr/share/containers/storage.conf": fedora, "etc/containers/storage.conf": "[storage]\ngraphroot=\"/srv/images\"\n"},
			want: Storage{GraphRoot: "/srv/images", RunRoot: "/run/containers/storage"}},
		{name: "the admin's made for users", uid: 1000, env: user, files: map[string]string{
			"etc/containers/storage.conf": "[storage]\ngraphroot=\"/scratch/$UID/store\"\nrunroot=\"/var/run\"\n"},
			want: Storage{GraphRoot: "/scratch/1000/store", RunRoot: run}},
		{name: "rootless_storage_path", uid: 1000, env: user, files: map[string]string{
			"etc/containers/storage.conf": "[storage]\ngraphroot=\"/var/lib/x\"\nrootless_storage_path=\"$HOME/st\"\n"},
			want: Storage{GraphRoot: "/home/u/st", RunRoot: run}},
		{name: "the user's own wins", uid: 1000, env: user, files: map[string]string{
			"etc/containers/storage.conf":            rhel9,
			"home/u/.config/containers/storage.conf": "[storage]\ndriver=\"vfs\"\ngraphroot=\"/big/u\"\nrunroot=\"/big/run\"\n"},
			want: Storage{GraphRoot: "/big/u", RunRoot: "/big/run", Driver: "vfs"}},
		{name: "drop-ins", uid: 1000, env: user, files: map[string]string{
			"etc/containers/storage.conf.d/10.conf":            "[storage]\ngraphroot=\"/var/lib/no\"\ndriver=\"vfs\"\n",
			"etc/containers/storage.rootless.conf.d/20.conf":   "[storage]\ngraphroot=\"/var/users\"\n[storage.options]\nadditionalimagestores=[\"/a\"]\n",
			"etc/containers/storage.rootful.conf.d/30.conf":    "[storage]\ngraphroot=\"/not\"\n",
			"home/u/.config/containers/storage.conf.d/40.conf": "[storage]\ndriver=\"overlay2\"\n[storage.options]\nadditionalimagestores=[\"/b\",{append=true}]\n",
			"home/u/.config/containers/storage.conf.d/note":    "not toml"},
			want: Storage{GraphRoot: "/var/users", RunRoot: run, Driver: "overlay", ImageStores: []string{"/a", "/b"}}},
		{name: "the environment's file alone", uid: 1000, env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000", "CONTAINERS_STORAGE_CONF": "/x.conf"},
			files: map[string]string{"etc/containers/storage.conf": arch, "x.conf": "[storage]\ngraphroot=\"/var/lib/y\"\n"},
			want:  Storage{GraphRoot: "/var/lib/y", RunRoot: run}},
		{name: "STORAGE_DRIVER and STORAGE_OPTS", env: map[string]string{"STORAGE_DRIVER": "vfs", "STORAGE_OPTS": "vfs.imagestore=/ro,vfs.sync=none"},
			files: map[string]string{"etc/containers/storage.conf": fedora},
			want: Storage{GraphRoot: "/var/lib/containers/storage", RunRoot: "/run/containers/storage", Driver: "vfs",
				ImageStores: []string{"/usr/lib/containers/storage", "/ro"}}, opts: "vfs.sync=none"},
		{name: "CAIS_ROOT keeps to itself", env: map[string]string{"CAIS_ROOT": "/c"}, files: map[string]string{"etc/containers/storage.conf": fedora},
			want: Storage{GraphRoot: "/c/storage", RunRoot: "/c/run/storage"}},
		{name: "force_mask as a number", files: map[string]string{"etc/containers/storage.conf": "[storage.options]\nforce_mask=448\n[storage.options.overlay]\nmount_program=\"/usr/bin/fuse-overlayfs\"\n"},
			want: Storage{GraphRoot: "/var/lib/containers/storage", RunRoot: "/run/containers/storage"}, opts: "force_mask=700 overlay.mount_program=/usr/bin/fuse-overlayfs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
			}
			e := Env{UID: tt.uid, Home: "/home/u", Getenv: func(k string) string { return tt.env[k] }}
			got, err := ReadStorage(e, Locate(e), root)
			if err != nil {
				t.Fatal(err)
			}
			if got.GraphRoot != tt.want.GraphRoot || got.RunRoot != tt.want.RunRoot || got.Driver != tt.want.Driver ||
				!slices.Equal(got.ImageStores, tt.want.ImageStores) || strings.Join(got.DriverOptions, " ") != tt.opts {
				t.Errorf("got %+v, want %+v with options %q", got, tt.want, tt.opts)
			}
		})
	}
}

type denyFS struct{ fs.FS }

func (d denyFS) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "storage.conf") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return d.FS.Open(name)
}

func (d denyFS) Stat(name string) (fs.FileInfo, error) { return fs.Stat(d.FS, name) }

func TestReadStorageNamesTheBadFile(t *testing.T) {
	bad := func(text string) fs.FS {
		return fstest.MapFS{"etc/containers/storage.conf": {Data: []byte(text), Mode: 0o644}}
	}
	tests := []struct {
		name string
		root fs.FS
		env  string
		kind errs.Kind
		want string
	}{
		{"unreadable", denyFS{bad("")}, "", errs.Denied, "read /etc/containers/storage.conf: permission denied"},
		{"not TOML", bad("[storage\n"), "", errs.Invalid, "read /etc/containers/storage.conf: toml: line "},
		{"wrong type", bad("[storage]\ndriver=1\n"), "", errs.Invalid, "read /etc/containers/storage.conf: "},
		{"wrong list", bad("[storage.options]\nadditionalimagestores=\"/x\"\n"), "", errs.Invalid, "storage.options.additionalimagestores: want a list"},
		{"the environment's is missing", bad(""), "/none.conf", errs.NotFound, "read /none.conf: file does not exist"},
		{"the environment's is relative", bad(""), "x.conf", errs.Invalid, "read x.conf: the path is not absolute"},
	}
	for _, tt := range tests {
		e := Env{Getenv: func(k string) string {
			if k == "CONTAINERS_STORAGE_CONF" {
				return tt.env
			}
			return ""
		}}
		_, err := ReadStorage(e, Locate(e), tt.root)
		if errs.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v (kind %v), want %q, kind %v", tt.name, err, errs.KindOf(err), tt.want, tt.kind)
		}
	}
}
