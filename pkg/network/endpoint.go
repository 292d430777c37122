package network

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/plainjson"
)

// Endpoint is a container's place in a network, while it lives.
type Endpoint struct {
	Version     int        `json:"v"`
	ID          string     `json:"id"` // 64 hex digits, new for each attachment
	Network     string     `json:"network"`
	NetworkName string     `json:"networkName"`
	Container   string     `json:"container"`
	Name        string     `json:"name"`            // the container's
	Names       []string   `json:"names,omitempty"` // under which the name server knows it, its name first
	Interface   string     `json:"interface"`       // in the container
	IP          netip.Addr `json:"ip,omitzero"`
	IP6         netip.Addr `json:"ip6,omitzero"`
	Bits        int        `json:"bits,omitempty"`
	Bits6       int        `json:"bits6,omitempty"`
	Gateway     netip.Addr `json:"gateway,omitzero"`
	Gateway6    netip.Addr `json:"gateway6,omitzero"`
	MAC         string     `json:"mac,omitempty"`
}

func (s Store) endpoints() string { return filepath.Join(s.RunDir(), "ep") }

// endpointFile is the name of an endpoint's file.
func endpointFile(container, network string) string { return container + "-" + network + ".json" }

// addresses keeps everybody else from giving out addresses.
func (s Store) addresses(ctx context.Context) (*lock.Lock, error) {
	if err := os.MkdirAll(s.endpoints(), 0o700); err != nil {
		return nil, err
	}
	return lock.Acquire(ctx, filepath.Join(s.RunDir(), "addresses"), true)
}

// Endpoints returns the living endpoints of a network; of all if id is empty.
func (s Store) Endpoints(id string) ([]*Endpoint, error) {
	entries, err := os.ReadDir(s.endpoints())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*Endpoint
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || id != "" && !strings.HasSuffix(name, "-"+id+".json") {
			continue
		}
		if ep := s.living(filepath.Join(s.endpoints(), name)); ep != nil {
			all = append(all, ep)
		}
	}
	return all, nil
}

// living returns the endpoint in the file if its lock is held.
func (s Store) living(path string) *Endpoint {
	if held, err := lock.Held(path); err != nil || !held {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // it has just ended
	}
	e := new(Endpoint)
	if decode(path, b, e) != nil || e.Version > Version {
		return nil
	}
	return e
}

// Attach is a request for one endpoint.
type Attach struct {
	Network  *Network
	Endpoint Endpoint // what is known; the addresses are filled in
	Want     Wanted
	MAC      string // given by the user; empty: made from the address
}

// Held is an endpoint whose file is locked. Who holds the descriptor holds the
// endpoint: closing the last one frees the address.
type Held struct {
	Endpoint
	File *os.File
	path string
}

// Release gives the endpoint up, and removes its file.
func (h *Held) Release() error { return errors.Join(ignoreMissing(os.Remove(h.path)), h.File.Close()) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Hold gives out addresses and locks the endpoints' files. If one cannot be had,
// none is. What killed ones left behind is removed.
func (s Store) Hold(ctx context.Context, list []Attach) (held []*Held, err error) {
	l, err := s.addresses(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	defer func() {
		if err != nil {
			for _, h := range held {
				err = errors.Join(err, h.Release())
			}
			held = nil
		}
	}()
	s.sweep()
	s.register()
	for _, a := range list {
		h, err := s.hold(a)
		if err != nil {
			return held, err
		}
		held = append(held, h)
	}
	return held, nil
}

// hold is Hold of one, for whoever holds the lock.
func (s Store) hold(a Attach) (*Held, error) {
	n := a.Network
	if _, err := os.Lstat(filepath.Join(s.dir(), n.ID+".json")); errors.Is(err, fs.ErrNotExist) {
		return nil, NotFound(n.ID) // removed since it was read
	}
	living, err := s.Endpoints(n.ID)
	if err != nil {
		return nil, err
	}
	used := make(map[netip.Addr]bool, 2*len(living))
	for _, e := range living {
		if e.Container == a.Endpoint.Container {
			return nil, errs.New(errs.Denied, "endpoint with name "+a.Endpoint.Name+" already exists in network "+n.Name)
		}
		used[e.IP], used[e.IP6] = true, true
	}
	e := a.Endpoint
	e.Version, e.Network, e.NetworkName = Version, n.ID, n.Name
	if e.ID == "" {
		e.ID = NewID()
	}
	if e.IP, e.IP6, err = allocate(n, used, a.Want); err != nil {
		return nil, err
	}
	if p := n.Pool(e.IP); p != nil {
		e.Bits, e.Gateway = p.Subnet.Bits(), p.Gateway
	}
	if p := n.Pool(e.IP6); p != nil {
		e.Bits6, e.Gateway6 = p.Subnet.Bits(), p.Gateway
	}
	if e.MAC = a.MAC; e.MAC == "" {
		e.MAC = MACText(MAC(e.IP, e.IP6, e.ID))
	}
	return s.put(&e)
}

// put writes the file of e, locked before anybody can see it.
func (s Store) put(e *Endpoint) (*Held, error) {
	b, err := plainjson.Marshal(e)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.endpoints(), endpointFile(e.Container, e.Network))
	f, err := os.OpenFile(filepath.Join(s.endpoints(), "."+e.ID), os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, ignoreMissing(os.Remove(f.Name())), f.Close())
	}
	return &Held{Endpoint: *e, File: f, path: path}, nil
}

// Rename gives the endpoints of a container that lives other names. The files
// keep their inodes, which their monitor has locked.
func (s Store) Rename(ctx context.Context, container string, change func(*Endpoint)) error {
	l, err := s.addresses(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	all, err := s.Endpoints("")
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Container != container {
			continue
		}
		change(e)
		b, err := plainjson.Marshal(e)
		if err != nil {
			return err
		}
		// One write of a few hundred bytes, and then the new length: a reader between
		// the two finds text behind the end of the JSON, and looks again.
		f, err := os.OpenFile(filepath.Join(s.endpoints(), endpointFile(e.Container, e.Network)), os.O_WRONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, 0)
		if err = errors.Join(err, f.Truncate(int64(len(b))), f.Close()); err != nil {
			return err
		}
	}
	now := time.Now() // name servers look at the directory's
	return os.Chtimes(s.endpoints(), now, now)
}

// sweep removes the files of endpoints that ended without anybody to do so. The
// caller holds the lock.
func (s Store) sweep() {
	entries, err := os.ReadDir(s.endpoints())
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.endpoints(), e.Name())
		if held, err := lock.Held(path); err == nil && !held {
			_ = os.Remove(path) // the next one tries again
		}
	}
}

// Of returns the living endpoints of a container, by their interfaces.
func (s Store) Of(container string) ([]*Endpoint, error) {
	all, err := s.Endpoints("")
	all = slices.DeleteFunc(all, func(e *Endpoint) bool { return e.Container != container })
	slices.SortFunc(all, func(a, b *Endpoint) int { return strings.Compare(a.Interface, b.Interface) })
	return all, err
}
