package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/plainjson"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/sys"
)

// Container is all that the files say of one container at one moment.
type Container struct {
	ID       string
	Dir      string
	Record   *Record
	Settings *Settings
	State    *State // nil: it does not run, or a reboot took it
	Exit     *Exit  // nil: it has not ended yet
	Alive    bool   // its monitor lives
}

// WriteRecord writes the record, which makes the directory a container.
// durable is for containers that are to survive a power cut.
func (s Store) WriteRecord(r *Record, durable bool) error {
	r.Version = Version
	return write(filepath.Join(s.Dir(r.ID), recordFile), r, durable)
}

// WriteSettings replaces the settings of id. The caller holds its lock.
func (s Store) WriteSettings(id string, v *Settings, durable bool) error {
	v.Version = Version
	return write(filepath.Join(s.Dir(id), settingsFile), v, durable)
}

// WriteExit replaces the exit record of id, whose monitor could not: the
// caller has seen alive free and holds the lock.
func (s Store) WriteExit(id string, v *Exit, durable bool) error {
	v.Version = Version
	_ = os.Remove(filepath.Join(s.Dir(id), exitDraft)) // its room may be all that a full disk has
	return write(filepath.Join(s.Dir(id), exitFile), v, durable)
}

// WriteSpec writes the OCI spec's JSON text.
func (s Store) WriteSpec(id string, text []byte, durable bool) error {
	return atomicfile.Write(filepath.Join(s.Dir(id), specFile), text, 0o600, durable)
}

// Spec reads the OCI spec's JSON text.
func (s Store) Spec(id string) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.Dir(id), specFile))
}

func write(path string, v any, durable bool) error {
	b, err := plainjson.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, b, 0o600, durable)
}

// versioned is what every file of this package starts with.
type versioned struct {
	Version int `json:"v"`
}

// reader reads files of one container after the other: what it has learnt of their
// form at the first helps with the next.
type reader struct {
	at    int    // what dir begins in
	dir   string // the container's
	brief bool   // while it runs, how it ended before is left out
	json  plainjson.Decoder
	text  []byte // of the last file
	ours  string // a directory in which only we make anything: what else is in it is ours, or gone
}

func readerOf(dir string) *reader { return &reader{at: sys.Cwd, dir: dir} }

// read fills v, of which version is a field, from the container's file name.
func (r *reader) read(name string, v any, version *int) error {
	path := name
	if !filepath.IsAbs(name) {
		path = r.dir + "/" + name
	}
	b, err := sys.ReadFile(r.at, path, r.text)
	if err != nil {
		return err
	}
	r.text = b
	if err = r.json.Unmarshal(b, v); err != nil {
		var head versioned
		if json.Unmarshal(b, &head) == nil && head.Version > Version {
			*version = head.Version
		} else {
			return errs.WithHint(fmt.Errorf("read %s: %w", path, err), "The file is damaged; 'cais rm -f' removes its container.")
		}
	}
	if *version > Version {
		err := errs.E("read "+path, errs.Unsupported, fmt.Errorf("its version is %d, this cais knows %d", *version, Version))
		return errs.WithHint(err, "A newer cais wrote it: upgrade this one.")
	}
	return nil
}

// Load reads the container id: its record and settings, and what is known of
// its last or present run. It waits for no lock.
func (s Store) Load(id string) (*Container, error) { return readerOf(s.Dir(id)).load(s, id) }

func (r *reader) load(s Store, id string) (*Container, error) {
	record := new(Record)
	if err := r.read(recordFile, record, &record.Version); err != nil {
		return nil, gone(id, err)
	}
	return r.reload(s, record)
}

// Reload is Load for whoever has the container's record, which never changes.
func (s Store) Reload(record *Record) (*Container, error) {
	return readerOf(s.Dir(record.ID)).reload(s, record)
}

func (r *reader) reload(s Store, record *Record) (*Container, error) {
	id := record.ID
	c := &Container{ID: id, Dir: s.Dir(id), Record: record, Settings: new(Settings)}
	if err := r.read(settingsFile, c.Settings, &c.Settings.Version); err != nil {
		return nil, gone(id, err)
	}
	if err := r.refresh(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Monitor returns the pid and the start time of the process that holds alive, as
// it wrote them there. It is for a container whose state is lost: else state.json
// says more.
func (c *Container) Monitor() (pid int, start uint64, err error) {
	b, err := os.ReadFile(filepath.Join(c.Dir, aliveFile))
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(string(b), "%d %d\n", &pid, &start); err != nil || pid <= 0 {
		return 0, 0, errs.New(errs.Unavailable, "the monitor of container "+ShortID(c.ID)+" has not said who it is")
	}
	return pid, start, nil
}

// Alive reports whether the container id has a monitor, which is all that this
// looks at.
func (s Store) Alive(id string) (bool, error) { return lock.Held(filepath.Join(s.Dir(id), aliveFile)) }

// Refresh reads again what a run changes: alive, state and exit, in this order:
// a monitor writes the exit before it gives alive up, so a container that is
// seen as dead has its exit read.
func (c *Container) Refresh() error { return readerOf(c.Dir).refresh(c) }

func (r *reader) refresh(c *Container) (err error) {
	if c.Alive, err = lock.HeldAt(r.at, r.dir+"/"+aliveFile); err != nil {
		return err
	}
	if c.State, err = r.readState(); err != nil {
		return err
	}
	if r.brief && c.Running() {
		return nil
	}
	exit := new(Exit)
	if err = r.read(exitFile, exit, &exit.Version); err != nil {
		exit = nil
	}
	c.Exit = exit
	return ignoreMissing(err)
}

// readState reads state.json through the run link, if what it leads to is ours.
func (r *reader) readState() (*State, error) {
	run, err := sys.ReadlinkAt(r.at, r.dir+"/"+runLink)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	if all := filepath.Dir(run); all != r.ours { // nearly always the same for all containers
		if !usable(run) {
			return nil, nil // gone, or somebody else's since ours is gone
		}
		if usable(all) {
			r.ours = all
		}
	}
	st := new(State)
	if err := r.read(run+"/"+stateFile, st, &st.Version); err != nil {
		return nil, ignoreMissing(err)
	}
	return st, nil
}

// gone turns a missing file of id into "no such container": it was removed
// between two reads.
func gone(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return noSuch(ShortID(id))
	}
	return err
}

// List loads every container, in no particular order. Those that vanish
// meanwhile are left out; those that cannot be read are reported beside the
// others. Of one that runs, Exit is nil.
func (s Store) List() ([]*Container, error) {
	ids, err := s.IDs()
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	d, err := os.Open(s.containers())
	if err != nil {
		return nil, ignoreMissing(err)
	}
	defer d.Close()
	at := int(d.Fd())
	all, failed := make([]*Container, len(ids)), make([]error, len(ids))
	workers := min(runtime.GOMAXPROCS(0), 1+len(ids)/50) // a few are read sooner than another thread starts
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := reader{at: at, brief: true}
			for i := w; i < len(ids); i += workers {
				r.dir = ids[i]
				if all[i], failed[i] = r.load(s, ids[i]); failed[i] != nil {
					all[i], failed[i] = s.Load(ids[i]) // whose error has the whole path
				}
			}
		})
	}
	wg.Wait()
	all = slices.DeleteFunc(all, func(c *Container) bool { return c == nil })
	failed = slices.DeleteFunc(failed, func(err error) bool { return errs.KindOf(err) == errs.NotFound })
	return all, errors.Join(failed...)
}

// Networks are the networks that the container is in, or will be once it runs.
// None if its network is another's.
func (c *Container) Networks() []plan.Attachment {
	if c.Settings.Networks != nil {
		return c.Settings.Networks
	}
	return c.Record.Request.Attached()
}
