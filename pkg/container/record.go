// Package container holds what is known of a container as values, and the
// files that keep them. It starts nothing and opens no image store.
//
// A container is a directory, <root>/containers/<id>:
//
//	record.json    what was asked for; never changes after create
//	config.json    the OCI runtime spec made from it; never changes
//	settings.json  what may change: name, restart policy, limits, stopped by the user
//	exit.json      how it last ended, written by its monitor
//	lock           flock held for one change of the container
//	alive          flock held exclusively by the monitor for as long as it lives;
//	               says "PID START" of the monitor
//	upper/ work/   the overlay's writable layer
//	<id>-json.log  its log; rotated ones beside it
//	monitor.log    what the monitor had to say; usually absent
//	run            symlink to its directory below the run root (tmpfs):
//	               state.json  what runs now, written by the monitor
//	               attach      the monitor's socket
//
// Every file is replaced atomically and carries a version. A name is claimed by
// a hard link: <root>/names/<name> is a link to <root>/containers/<id>/id.
//
// A held "alive" says that something lives, across pid namespaces and reboots;
// pid, start time and boot id in state.json are for signalling only.
package container

import (
	"maps"
	"time"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
)

// Record is what a container was made from. It is written once.
type Record struct {
	Version  int       `json:"v"`
	ID       string    `json:"id"` // 64 hex digits
	Created  time.Time `json:"created"`
	ImageRef string    `json:"imageRef"` // as the user typed it
	ImageID  string    `json:"imageID"`  // config digest, hex without "sha256:"
	// Image is the image's own config; Request is what the user asked for.
	// Together they are all that inspect shows of Config and HostConfig.
	Image    oci.Config   `json:"image"`
	Platform oci.Platform `json:"platform"`
	Request  plan.Request `json:"request"`
	Path     string       `json:"path"`             // argv[0] after merging entrypoint and command
	Args     []string     `json:"args"`             // the rest of argv
	Lower    []string     `json:"lower"`            // overlay's lower directories, top first
	Cgroup   string       `json:"cgroup,omitempty"` // path below each hierarchy; empty: none
	LogPath  string       `json:"logPath,omitempty"`
	Volumes  []Volume     `json:"volumes,omitempty"`
	// IDs are those of the container's own user namespace.
	IDs plan.IDs `json:"ids,omitzero"`
	// Ephemeral is a --rm container of `run`: it is left over as soon as neither
	// its monitor nor the command that made it lives.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// AutoRemove reports whether the container goes when it ends: --rm.
func (r *Record) AutoRemove() bool { return r.Request.AutoRemove }

// Labels are the container's: the image's, under those of the request.
func (r *Record) Labels() map[string]string {
	all := make(map[string]string, len(r.Image.Labels)+len(r.Request.Labels))
	maps.Copy(all, r.Image.Labels)
	maps.Copy(all, r.Request.Labels)
	return all
}

// Volume is a volume in use: <root>/volumes/<Name>/_data at Target.
type Volume struct {
	Name   string `json:"name"`
	Target string `json:"target"`
	// Named is one that the user named: it outlives the container, whatever is
	// removed with that. The others were made for the container, or for the one
	// that --volumes-from named.
	Named    bool   `json:"named,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	NoCopy   bool   `json:"noCopy,omitempty"`  // nothing of the image is copied into it
	Subpath  string `json:"subpath,omitempty"` // what of it is mounted
}

// Settings is what may change after create.
type Settings struct {
	Version       int                `json:"v"`
	Name          string             `json:"name"`
	Restart       plan.RestartPolicy `json:"restart"`
	Resources     *plan.Resources    `json:"resources,omitempty"`     // limits, since they were changed; nil: the request's
	StoppedByUser bool               `json:"stoppedByUser,omitempty"` // holds restart policies back until the next start
	Keep          bool               `json:"keep,omitempty"`          // holds the removal of a --rm container back until the next start
	// Networks are those that the container is in, as far as it has a network of its
	// own; nil in one that an older cais made.
	Networks []plan.Attachment `json:"networks"`
}

// Status is Docker's word for what a container is doing.
type Status string

// The statuses of `docker ps` and `inspect`.
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Removing   Status = "removing"
	Exited     Status = "exited"
	Dead       Status = "dead"
)

// State is what the monitor says of a living container. The monitor writes it
// by hand (it cannot afford encoding/json); a golden test keeps both in step.
type State struct {
	Version      int       `json:"v"`
	Status       Status    `json:"status"`
	PID          int       `json:"pid"`      // in the pid namespace of the monitor; 0 if none
	PIDStart     uint64    `json:"pidStart"` // field 22 of /proc/PID/stat, clock ticks since boot
	MonitorPID   int       `json:"monitorPID"`
	MonitorStart uint64    `json:"monitorStart"`
	BootID       string    `json:"bootID"`
	StartedAt    time.Time `json:"startedAt"`
	RestartCount int       `json:"restartCount"`
	Execs        []string  `json:"execs,omitempty"` // the ids of those that run
}

// Exit is how a container last ended.
type Exit struct {
	Version    int       `json:"v"`
	Code       int       `json:"code"` // 0–255; 128+n for signal n; 126, 127 when it never started
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	Error      string    `json:"error,omitempty"` // why it did not start, for State.Error
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	Restarts   int       `json:"restarts,omitempty"`
}
