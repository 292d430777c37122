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

// reader reads files of several containers: what it has learnt of their form at the
// first helps with the next. The zero value is ready.
type reader struct{ json plainjson.Decoder }

// read fills v from the file at path.
func (r *reader) read(path string, v any) error {
	b, err := sys.ReadFile(path)
	if err != nil {
		return err
	}
	if err := r.json.Unmarshal(b, v); err != nil {
		var head versioned
		if json.Unmarshal(b, &head) == nil && head.Version > Version {
			return tooNew(path, head.Version)
		}
		return errs.WithHint(fmt.Errorf("read %s: %w", path, err), "The file is damaged; 'cais rm -f' removes its container.")
	}
	return nil
}

func tooNew(path string, version int) error {
	err := errs.E("read "+path, errs.Unsupported, fmt.Errorf("its version is %d, this cais knows %d", version, Version))
	return errs.WithHint(err, "A newer cais wrote it: upgrade this one.")
}

// Load reads the container id: its record and settings, and what is known of
// its last or present run. It waits for no lock.
func (s Store) Load(id string) (*Container, error) { return new(reader).load(s, id) }

func (r *reader) load(s Store, id string) (*Container, error) {
	path, record := filepath.Join(s.Dir(id), recordFile), new(Record)
	if err := r.read(path, record); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, noSuch(ShortID(id))
		}
		return nil, err
	}
	if record.Version > Version {
		return nil, tooNew(path, record.Version)
	}
	return r.reload(s, record)
}

// Reload is Load for whoever has the container's record, which never changes.
func (s Store) Reload(record *Record) (*Container, error) { return new(reader).reload(s, record) }

func (r *reader) reload(s Store, record *Record) (*Container, error) {
	id, dir := record.ID, s.Dir(record.ID)
	c := &Container{ID: id, Dir: dir, Record: record, Settings: new(Settings)}
	if err := r.read(filepath.Join(dir, settingsFile), c.Settings); err != nil {
		return nil, gone(id, err)
	}
	if c.Settings.Version > Version {
		return nil, tooNew(filepath.Join(dir, settingsFile), c.Settings.Version)
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
func (c *Container) Refresh() error { return new(reader).refresh(c) }

func (r *reader) refresh(c *Container) (err error) {
	if c.Alive, err = lock.Held(filepath.Join(c.Dir, aliveFile)); err != nil {
		return err
	}
	if c.State, err = r.readState(c.Dir); err != nil {
		return err
	}
	exit := new(Exit)
	err = r.read(filepath.Join(c.Dir, exitFile), exit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Exit = nil
	case err != nil:
		return err
	case exit.Version > Version:
		return tooNew(filepath.Join(c.Dir, exitFile), exit.Version)
	default:
		c.Exit = exit
	}
	return nil
}

// readState reads state.json through the run link, if what it leads to is ours.
func (r *reader) readState(dir string) (*State, error) {
	run, err := os.Readlink(filepath.Join(dir, runLink))
	if err != nil {
		return nil, ignoreMissing(err)
	}
	if !usable(run) {
		return nil, nil // gone, or somebody else's since ours is gone
	}
	st := new(State)
	if err := r.read(filepath.Join(run, stateFile), st); err != nil {
		return nil, ignoreMissing(err)
	}
	if st.Version > Version {
		return nil, tooNew(filepath.Join(run, stateFile), st.Version)
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
// others.
func (s Store) List() ([]*Container, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	all, failed := make([]*Container, len(ids)), make([]error, len(ids))
	workers := min(runtime.GOMAXPROCS(0), 1+len(ids)/50) // a few are read sooner than another thread starts
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var r reader
			for i := w; i < len(ids); i += workers {
				all[i], failed[i] = r.load(s, ids[i])
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
