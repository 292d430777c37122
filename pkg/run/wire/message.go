// Package wire is what the CLI, the monitor and the container's child say to
// each other. A packet of a SOCK_SEQPACKET socket holds one message or one
// piece of a stream; descriptors travel beside it as SCM_RIGHTS. Binary, because
// the monitor cannot afford encoding/json.
//
// Starting a container, on a socket pair that the monitor inherits:
//
//	cli                       monitor                      child
//	 | -- Create + job memfd --> | ------- raw clone -------> |  runs the plan's first part
//	 | <----- Created(pid) ----- | <------- ready ----------- |  waits at the gate
//	 | --------- Start --------> | -------- release --------> |  rest of the plan, execve
//	 | <-------- Running ------- | <---- execve succeeded --- |
//	 | <-> Stdin Stdout Stderr   |                            |  if Create asks to attach
//	 | <--------- Exited ------- | <--------- exit ---------- |
//
// With Create.Go the monitor says no Created and waits for no Start.
//
// Afterwards, on <container>/run/attach, one connection for each of these:
//
//	Attach                -> Attached, then streams, Resize, Signal, then Exited
//	Exec + plan memfd     -> Running, then streams, Resize, Signal, then Exited
//	Reload                -> Done: settings.json has changed
//	Pause                 -> Done: all processes are frozen, or go on
//	Hold*, Network        -> Done: the container's network is another one
//
// Hold messages may also come before Create, with the descriptors that the job's
// Net names.
//
// Failed answers what could not be done. End of file without Exited or Failed
// means that the peer was killed. Whoever closes a connection detaches.
package wire

import (
	"cais.dev/cais/pkg/errs"
)

// Needs is the second byte of every message: the lowest Version of a reader that
// understands it. A monitor lives as long as its container, so a new cais talks to
// old monitors: a message grows at its end only, a reader takes fields that are
// missing there as zero and overlooks those it does not know. Version, what this
// program reads, is raised with every change; Needs only when an old monitor would
// misunderstand, and then what is said to old ones must stay as it was.
const Needs = 1

// Kind is the first byte of a packet. The values are on the wire: add, never
// renumber.
type Kind uint8

// The pieces of streams. What follows the first byte is data, at most [MaxData]
// bytes; StdinEOF has none.
const (
	Stdout   Kind = 1
	Stderr   Kind = 2
	Stdin    Kind = 3
	StdinEOF Kind = 4 // nothing more will come: half close
)

// The messages, one type each.
const (
	KindCreate   Kind = 16
	KindCreated  Kind = 17
	KindStart    Kind = 18
	KindRunning  Kind = 19
	KindExited   Kind = 20
	KindFailed   Kind = 21
	KindAttach   Kind = 22
	KindAttached Kind = 23
	KindExec     Kind = 24
	KindResize   Kind = 25
	KindSignal   Kind = 26
	KindReload   Kind = 27
	KindDone     Kind = 28
	KindJob      Kind = 29 // never a packet: the content of Create's memfd
	KindPause    Kind = 40
)

const (
	// MaxData is how much of a stream one packet carries.
	MaxData = 16 << 10
	// MaxPacket holds any packet: what does not fit travels in a memfd.
	MaxPacket = MaxData + 1
)

// Message is one of the types below.
type Message interface {
	Kind() Kind
	fields(*coder) // visits every field, in the order of the wire
}

// Create asks for the container of a job, whose marshalled [Job] is in the first
// descriptor beside it. Descriptor i+1 becomes slot Slots[i] of the plan.
type Create struct {
	Slots  []byte
	Attach Attach // the streams that this connection follows from the first byte
	Go     bool   // wait for no Start and say no Created: the next word is Running
}

// Created says that the child exists and waits at the plan's gate.
type Created struct{ PID int }

// Start opens the gate.
type Start struct{}

// Running says that execve succeeded.
type Running struct {
	PID       int
	StartedAt int64 // ns since 1970
}

// Exited is the end of what this connection was for.
type Exited struct {
	Code      int // 0–255; 128+n for signal n
	OOMKilled bool
	Cleanup   bool // the receiver is to remove the container: nobody else will before the next command that looks
	Restarts  bool // the restart policy starts it again
}

// Failed says why a request could not be done.
type Failed struct {
	Reason errs.Kind
	Code   int // 125, or 126 and 127 for the command itself
	Text   string
	Hint   string
}

// Attach asks for the streams of the container.
type Attach struct {
	Stdin, Stdout, Stderr bool
	Rows, Cols            uint16 // of the caller's terminal; 0: unknown
}

// Attached says what the connection is attached to.
type Attached struct {
	PID       int
	TTY       bool
	OpenStdin bool
}

// Exec asks for another process in the container. The marshalled plan is in the
// first descriptor beside it; descriptor i+1 becomes slot Slots[i].
type Exec struct {
	TTY    bool
	Detach bool // answer Running; nobody waits for the end
	Slots  []byte
	Attach Attach
	ID     string // of 64 hex digits, for events; may be empty
	Probe  bool   // the health check, by hand: it counts as those of the monitor
}

// Resize sets the size of the terminal of the connection's process.
type Resize struct{ Rows, Cols uint16 }

// Signal is sent to the connection's process.
type Signal struct{ Number int }

// Reload says that settings.json has changed. A container that waits to be
// restarted, and now is not to be, ends.
type Reload struct {
	Stopped bool // by the user, also if a full disk kept that from being written
}

// Pause freezes all processes of the container, or lets them go on.
type Pause struct{ On bool }

// Done answers what has no other answer.
type Done struct{}

// Job is all that a monitor needs to know of its container.
type Job struct {
	ID     string
	Dir    string // the container's directory
	RunDir string // where Dir/run points: state.json and the attach socket
	Plan   []byte // a marshalled Plan, carried out at each start

	TTY       bool
	OpenStdin bool
	StdinOnce bool // close stdin when the first that attached it is gone

	Log        Log
	Restart    Restart
	Timeout    int      // seconds after which the container is killed; 0: never
	StopSignal int      // the container's own; 0: SIGTERM
	Cgroups    []string // the container's directories, one for each hierarchy; removed at the end

	AutoRemove bool // --rm: the record need not survive a power cut, and is removed at the end
	// Cleanup is argv of the program (Cleanup[0] is its role's name) that does
	// the rest when the container ends and no client is there to do it.
	Cleanup    []string
	CleanupEnv []string

	Net []byte // a marshalled Net; empty: the monitor has nothing to do with the network

	Name string // the container's, at its start
	// Events is the file that events are appended to; empty: none. EventAttrs is the
	// inside of the JSON object of the container's attributes, without its name.
	// The others are lines without their time, for each start and each end: what
	// that makes of volumes and networks.
	Events      string
	EventAttrs  string
	StartEvents []string
	EndEvents   []string

	// Freezer is the container's directory in v1's freezer hierarchy, which is made
	// when it is paused first; empty: v2 has a freezer, or there are no cgroups.
	Freezer string

	Health Health

	// Joined are the containers whose namespaces the plan joins, by their state.json:
	// the pidfd of the first one's process is in [SlotUser0], and so on. They may have
	// been started again when this one is.
	Joined []string
}

// Health is how the container is probed. Retries is 0 if it is not.
type Health struct {
	Plan                                          []byte // a marshalled Plan of an exec
	Interval, Timeout, StartPeriod, StartInterval int64  // ns
	Retries                                       int
	OnFailure                                     string // "", none, kill, stop, restart
}

// Log says where output goes besides attached clients.
type Log struct {
	Driver  string // "json-file", "none", or "forward": no file, only Forward
	Path    string
	MaxSize int64  // bytes; ≤ 0: unlimited
	MaxFile int    // files in all, with the current one; ≤ 1: the current one alone
	Attrs   string // a JSON object that every line carries as "attrs"; may be empty
	// Compress is argv of the program, as Job's Cleanup, that compresses its standard
	// input into its output; empty: rotated files stay as they are.
	Compress []string

	// Forward is where lines go besides; its Net is empty if nowhere.
	Forward Forward
}

// Forward is package forward's Options.
type Forward struct {
	Net, Path             string
	IP                    []byte
	Port                  int
	Fields                string
	Format, Tag, Hostname string
	Facility              int
	Argv                  []string // tcp+tls: of the program, as Job's Cleanup, that has the connection
}

// Restart is a restart policy: no, always, unless-stopped, on-failure.
type Restart struct {
	Name string
	Max  int // on-failure: how often at most; 0: any number
}

// Kind returns the message's first byte.
func (*Create) Kind() Kind   { return KindCreate }
func (*Created) Kind() Kind  { return KindCreated }  // Kind returns the message's first byte.
func (*Start) Kind() Kind    { return KindStart }    // Kind returns the message's first byte.
func (*Running) Kind() Kind  { return KindRunning }  // Kind returns the message's first byte.
func (*Exited) Kind() Kind   { return KindExited }   // Kind returns the message's first byte.
func (*Failed) Kind() Kind   { return KindFailed }   // Kind returns the message's first byte.
func (*Attach) Kind() Kind   { return KindAttach }   // Kind returns the message's first byte.
func (*Attached) Kind() Kind { return KindAttached } // Kind returns the message's first byte.
func (*Exec) Kind() Kind     { return KindExec }     // Kind returns the message's first byte.
func (*Resize) Kind() Kind   { return KindResize }   // Kind returns the message's first byte.
func (*Signal) Kind() Kind   { return KindSignal }   // Kind returns the message's first byte.
func (*Reload) Kind() Kind   { return KindReload }   // Kind returns the message's first byte.
func (*Done) Kind() Kind     { return KindDone }     // Kind returns the message's first byte.
func (*Pause) Kind() Kind    { return KindPause }    // Kind returns the message's first byte.
func (*Job) Kind() Kind      { return KindJob }      // Kind returns the message's first byte.

func (m *Create) fields(c *coder) {
	c.bytes(&m.Slots)
	m.Attach.fields(c)
	c.flag(&m.Go)
}
func (m *Created) fields(c *coder) { c.int(&m.PID) }
func (*Start) fields(*coder)       {}
func (m *Running) fields(c *coder) {
	c.int(&m.PID)
	c.i64(&m.StartedAt)
}
func (m *Exited) fields(c *coder) {
	c.int(&m.Code)
	c.flag(&m.OOMKilled)
	c.flag(&m.Cleanup)
	c.flag(&m.Restarts)
}
func (m *Failed) fields(c *coder) {
	c.u8((*uint8)(&m.Reason))
	c.int(&m.Code)
	c.str(&m.Text)
	c.str(&m.Hint)
}
func (m *Attach) fields(c *coder) {
	c.flag(&m.Stdin)
	c.flag(&m.Stdout)
	c.flag(&m.Stderr)
	c.u16(&m.Rows)
	c.u16(&m.Cols)
}
func (m *Attached) fields(c *coder) {
	c.int(&m.PID)
	c.flag(&m.TTY)
	c.flag(&m.OpenStdin)
}
func (m *Exec) fields(c *coder) {
	c.flag(&m.TTY)
	c.flag(&m.Detach)
	c.bytes(&m.Slots)
	m.Attach.fields(c)
	c.str(&m.ID)
	c.flag(&m.Probe)
}
func (m *Resize) fields(c *coder) {
	c.u16(&m.Rows)
	c.u16(&m.Cols)
}
func (m *Signal) fields(c *coder) { c.int(&m.Number) }
func (m *Reload) fields(c *coder) { c.flag(&m.Stopped) }
func (*Done) fields(*coder)       {}
func (m *Pause) fields(c *coder)  { c.flag(&m.On) }
func (m *Job) fields(c *coder) {
	c.str(&m.ID)
	c.str(&m.Dir)
	c.str(&m.RunDir)
	c.bytes(&m.Plan)
	c.flag(&m.TTY)
	c.flag(&m.OpenStdin)
	c.flag(&m.StdinOnce)
	c.str(&m.Log.Driver)
	c.str(&m.Log.Path)
	c.i64(&m.Log.MaxSize)
	c.int(&m.Log.MaxFile)
	c.str(&m.Log.Attrs)
	c.str(&m.Restart.Name)
	c.int(&m.Restart.Max)
	c.int(&m.Timeout)
	c.int(&m.StopSignal)
	c.strs(&m.Cgroups)
	c.flag(&m.AutoRemove)
	c.strs(&m.Cleanup)
	c.strs(&m.CleanupEnv)
	c.bytes(&m.Net)
	c.str(&m.Name)
	c.str(&m.Events)
	c.str(&m.EventAttrs)
	c.strs(&m.StartEvents)
	c.strs(&m.EndEvents)
	c.str(&m.Freezer)
	c.bytes(&m.Health.Plan)
	c.i64(&m.Health.Interval)
	c.i64(&m.Health.Timeout)
	c.i64(&m.Health.StartPeriod)
	c.i64(&m.Health.StartInterval)
	c.int(&m.Health.Retries)
	c.str(&m.Health.OnFailure)
	c.strs(&m.Joined)
	f := &m.Log.Forward
	c.str(&f.Net)
	c.str(&f.Path)
	c.bytes(&f.IP)
	c.int(&f.Port)
	c.str(&f.Fields)
	c.str(&f.Format)
	c.str(&f.Tag)
	c.str(&f.Hostname)
	c.int(&f.Facility)
	c.strs(&m.Log.Compress)
	c.strs(&f.Argv)
}
