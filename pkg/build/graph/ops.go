package graph

import (
	"io/fs"
	"slices"
)

// Image is an image's file system.
type Image struct {
	Ref string // normal form, "docker.io/library/debian:12" or with "@sha256:…"

	// Layout, if set, is the OCI layout that has the image (--build-context
	// name=oci-layout://DIR[:TAG][@DIGEST], without the scheme); Ref is then only for people.
	Layout string

	// Digest is the manifest that Ref means for the node's platform, as the
	// resolver found it; never empty.
	Digest string

	// DiffIDs are its layers, from its config, bottom first. nil if nobody
	// needed the config (COPY --from=image).
	DiffIDs []string
}

// Local is the files of a context on this side: a directory, or what the front
// end made one of (an archive, a git tree). Which of them count is up to those who read it,
// and to the context's ignore file. Its files belong to 0:0 wherever they are used.
type Local struct {
	Name string // "context", or the name of a --build-context
}

// Git is a work tree of a repository: ADD https://host/repo.git#ref:subdir. Files
// belong to 0:0 and have the modes 0644 and 0755.
type Git struct {
	URL           string // without fragment and query
	Ref           string // branch, tag or commit; empty: the remote's HEAD
	Subdir        string
	Checksum      string // commit, or its beginning, that Ref must be
	KeepDir       bool   // with .git
	NoSubmodules  bool
	CommitTimes   bool // mtime=commit: files have the commit's time
	FetchByCommit bool // Checksum is fetched, Ref need not exist
}

// HTTP is one file from a server: "/"+Filename, mode 0600, owner 0:0, with the
// time of Last-Modified.
type HTTP struct {
	URL      string
	Filename string
	Checksum string // "sha256:…", or empty
}

// Exec runs one command on a copy of a file system.
type Exec struct {
	Root ID // what the file system is before; None: empty

	// Part of the key.

	Args     []string // with the shell's
	Env      []string // "K=V" in order: the image's, and the ARGs; PATH is always there
	Cwd      string   // absolute; made if it is not there
	User     string   // as written: name or number, maybe ":group"; empty: 0:0. Read Root's passwd and group
	Hostname string   // "buildkitsandbox" unless BUILDKIT_SANDBOX_HOSTNAME
	Network  Network
	Insecure bool // --security=insecure
	Ulimits  []Ulimit
	Hosts    []Host // names only: an address is not part of the key
	Mounts   []Mount
	Secrets  []SecretEnv

	// Not part of the key.

	Proxy        []string // "K=V": set unless Env has K; never stored, never shown
	ShmSize      int64    // bytes of /dev/shm; 0: 64 MiB
	CgroupParent string
}

// Network is what a command sees of the network.
type Network string

// The networks of RUN --network and build --network.
const (
	NetworkDefault Network = ""
	NetworkNone    Network = "none"
	NetworkHost    Network = "host"
)

// Host is a line for /etc/hosts.
type Host struct {
	Name string
	IP   string // "host-gateway" has its usual meaning
}

// Ulimit is a resource limit; -1 is none.
type Ulimit struct {
	Name       string // "nofile"
	Soft, Hard int64
}

// SecretEnv is RUN --mount=type=secret,env=Name: the secret's value in the
// environment, masked where output is shown.
type SecretEnv struct {
	ID, Name string
	Required bool // fail if there is no such secret; otherwise the variable is not set
}

// MountType is what RUN --mount can be.
type MountType string

// The types of Mount.
const (
	MountBind   MountType = "bind"
	MountCache  MountType = "cache"
	MountTmpfs  MountType = "tmpfs"
	MountSecret MountType = "secret"
	MountSSH    MountType = "ssh"
	MountFiles  MountType = "files" // heredocs that are executed: read-only Files
)

// Sharing is what two users of one cache do.
type Sharing string

// The ways to share a cache.
const (
	Shared  Sharing = "shared"  // both write at once
	Locked  Sharing = "locked"  // the second waits
	Private Sharing = "private" // the second gets one of its own, empty
)

// Mount is something over an Exec's file system while it runs. Mount points that
// were not there are removed afterwards and leave no trace.
type Mount struct {
	Type   MountType
	Target string // absolute, clean

	// From is where a bind's files are, and what a new cache starts as; None: empty.
	From   ID
	Source string // path in From, absolute, clean; the key has the contents of this alone

	// ReadOnly of a bind is its default. A bind that may be written has its
	// changes thrown away after the command.
	ReadOnly bool

	// ID names a cache, a secret or an agent. A cache's begins with
	// BUILDKIT_CACHE_MOUNT_NS and "/" if that is given. Two caches are the same if ID, From (its
	// key), Source, UID, GID and Mode are.
	ID      string
	Sharing Sharing // of a cache

	// Owner and mode of a cache's directory when it is made, of a secret's
	// file, of an agent's socket. nil: 0, and 0755, 0400, 0600.
	UID, GID *uint32
	Mode     *uint32

	Size     int64 // tmpfs: bytes, 0 is the kernel's default
	Required bool  // secret, ssh: fail if it was not given
	Files    []File
}

// File is a file that the Dockerfile has in it.
type File struct {
	Name string
	Data []byte
	Mode fs.FileMode // permission bits
}

// Copy makes a layer of files: COPY and ADD.
//
// The base is the file system that the destination is resolved in, through its
// symlinks; None for --link, when the layer stands for itself and a Merge puts
// it on the base.
type Copy struct {
	On      ID
	Sources []CopySource // in order; at least one

	// Dest is absolute and clean, but for the slash at its end which says that
	// it is a directory. It also is if there is more than one source, counted
	// after wildcards, or if a source is a directory: its contents are copied.
	Dest string

	// Chown is "user[:group]", names and numbers (root is 0), or empty: sources
	// keep or lose their owner as they say. A user without a group has his
	// primary group if he is named in the base's passwd, the same number otherwise.
	// Created directories get the same owner.
	Chown string

	// Chmod is "" or octal ("0644") or symbolic ("u=rwX,go=rX"), for files and directories.
	Chmod string

	// Parents keeps the directories between CopySource.Path and what is copied.
	Parents bool

	// Exclude has patterns as in an ignore file, relative to each source.
	Exclude []string
}

// CopySource is one source of a Copy.
type CopySource struct {
	// From is where Path is; None if File says what is to be written.
	From ID

	// Path is absolute, clean of "..", maybe with wildcards (Go's
	// filepath.Match in each component). Symlinks on the way are followed
	// beneath From's root. A path without wildcards must be there; wildcards may
	// match nothing if another source of the Copy matches something.
	Path string

	// Include, only and always with Copy.Parents, says what below the directory Path is
	// copied, as "a/b", or with wildcards, "**" among them. Path is then what
	// stood before "/./", or "/".
	Include string

	// Literal says that Path has no wildcards, whatever its letters.
	Literal bool

	// KeepOwner is set for files of stages and images; those of contexts,
	// repositories and servers become 0:0.
	KeepOwner bool

	// Unpack is what to do with an archive.
	Unpack Unpack

	// File is a heredoc: written as 0:0 to Dest, into it if Dest is a
	// directory. The mode is Copy.Chmod's, or 0644.
	File *File
}

// Unpack is what a Copy does with a file that is an archive: a tar, maybe
// compressed by gzip, bzip2, xz or zstd, known by its contents.
type Unpack string

// The kinds of Unpack.
const (
	UnpackNever Unpack = ""
	// UnpackAuto extracts what is an archive, as a local ADD does, and copies the rest.
	// Entries keep their owner, mode and time.
	UnpackAuto Unpack = "auto"
)

// Mkdir makes a directory and its parents if they are not there, following
// symlinks inside the file system: WORKDIR.
type Mkdir struct {
	On   ID
	Path string // absolute, clean
	User string // owner of what is made, as in Copy.Chown
	Mode fs.FileMode
}

// Merge puts the layer of Layer on the file system of On: COPY --link. A
// directory over a directory has the metadata of Layer's; anything else is replaced.
type Merge struct {
	On    ID
	Layer ID // a Copy whose On is None
}

// Inputs has no nodes.
func (*Image) Inputs() []ID { return nil }

// Inputs has no nodes.
func (*Local) Inputs() []ID { return nil }

// Inputs has no nodes.
func (*Git) Inputs() []ID { return nil }

// Inputs has no nodes.
func (*HTTP) Inputs() []ID { return nil }

// Inputs has the root, and what is mounted.
func (e *Exec) Inputs() []ID {
	ids := []ID{e.Root}
	for _, m := range e.Mounts {
		ids = append(ids, m.From)
	}
	return ids
}

// Inputs has the base and the sources.
func (c *Copy) Inputs() []ID {
	ids := []ID{c.On}
	for _, s := range c.Sources {
		ids = append(ids, s.From)
	}
	return ids
}

// Inputs has the base.
func (m *Mkdir) Inputs() []ID { return []ID{m.On} }

// Inputs has the base and the layer.
func (m *Merge) Inputs() []ID { return []ID{m.On, m.Layer} }

// Base is None.
func (*Image) Base() ID { return None }

// Base is None.
func (*Local) Base() ID { return None }

// Base is None.
func (*Git) Base() ID { return None }

// Base is None.
func (*HTTP) Base() ID { return None }

// Base is Root.
func (e *Exec) Base() ID { return e.Root }

// Base is On.
func (c *Copy) Base() ID { return c.On }

// Base is On.
func (m *Mkdir) Base() ID { return m.On }

// Base is On.
func (m *Merge) Base() ID { return m.On }

// renumber returns op with its inputs changed by at. op stays as it is.
func renumber(op Op, at func(ID) ID) Op {
	switch op := op.(type) {
	case *Exec:
		c := *op
		c.Root, c.Mounts = at(op.Root), slices.Clone(op.Mounts)
		for i := range c.Mounts {
			c.Mounts[i].From = at(c.Mounts[i].From)
		}
		return &c
	case *Copy:
		c := *op
		c.On, c.Sources = at(op.On), slices.Clone(op.Sources)
		for i := range c.Sources {
			c.Sources[i].From = at(c.Sources[i].From)
		}
		return &c
	case *Mkdir:
		c := *op
		c.On = at(op.On)
		return &c
	case *Merge:
		c := *op
		c.On, c.Layer = at(op.On), at(op.Layer)
		return &c
	}
	return op
}
