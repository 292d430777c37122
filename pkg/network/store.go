package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/plainjson"
)

// Store is where one user's networks are kept. Making one touches nothing.
type Store struct {
	Root string // what survives a reboot
	Run  string // what does not: tmpfs, 0700
	// Machine is [MachineDir] where bridges are in the machine's namespace; else empty.
	Machine string
	// Gone removes the default bridge of a store of this machine that was deleted
	// without 'cais system reset', and reports whether it could; nil: it stays.
	Gone func(bridge string) bool
}

func (s Store) dir() string { return filepath.Join(s.Root, "networks") }

// RunDir is the directory of what lives.
func (s Store) RunDir() string { return filepath.Join(s.Run, "net") }

// NewID returns a fresh random id of 64 hex digits.
func NewID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// List returns all networks by name. Those that cannot be read are an error
// beside the others.
func (s Store) List() ([]*Network, error) {
	all := builtins()
	entries, err := os.ReadDir(s.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return all, err
	}
	var bad []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(id, ".") {
			continue
		}
		n, err := readNetwork(filepath.Join(s.dir(), e.Name()))
		if err == nil && n.Name == Bridge {
			n.IPv6 = n.IPv6 && s.six()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			bad = append(bad, err)
		default:
			if i := slices.IndexFunc(all, func(o *Network) bool { return o.ID == n.ID }); i >= 0 {
				all[i] = n
			} else {
				all = append(all, n)
			}
		}
	}
	slices.SortFunc(all, func(a, b *Network) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(bad...)
}

func readNetwork(path string) (*Network, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := new(Network)
	if err := decode(path, b, n); err != nil {
		return nil, err
	}
	if n.Version > Version {
		return nil, tooNew(path, n.Version)
	}
	return n, nil
}

func decode(path string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		var head struct {
			Version int `json:"v"`
		}
		if json.Unmarshal(b, &head) == nil && head.Version > Version {
			return tooNew(path, head.Version)
		}
		return errs.WithHint(fmt.Errorf("read %s: %w", path, err), "The file is damaged: remove it, and make the network again.")
	}
	return nil
}

func tooNew(path string, version int) error {
	err := errs.E("read "+path, errs.Unsupported, fmt.Errorf("its version is %d, this cais knows %d", version, Version))
	return errs.WithHint(err, "A newer cais wrote it: upgrade this one.")
}

// Find returns the network that ref means.
func (s Store) Find(ref string) (*Network, error) {
	all, err := s.List()
	n, missing := Find(all, ref)
	if missing != nil {
		return nil, errors.Join(missing, err)
	}
	return n, nil
}

// Lock keeps everybody else from changing definitions.
func (s Store) Lock(ctx context.Context) (*lock.Lock, error) {
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, err
	}
	return lock.Acquire(ctx, filepath.Join(s.dir(), "lock"), true)
}

// Create makes a network.
func (s Store) Create(ctx context.Context, r CreateRequest) (*Network, []string, error) {
	l, err := s.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer l.Release()
	taken, done, err := s.choosing(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if _, err := s.ready(taken, false); err != nil { // its subnet comes first
		return nil, nil, err
	}
	all, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	ula, err := s.ula(r.IPv6)
	if err != nil {
		return nil, nil, err
	}
	h := readHost()
	h.Routes = append(h.Routes, taken...)
	n, warnings, err := decide(r, all, h, ula)
	if err != nil {
		return nil, nil, err
	}
	n.ID, n.Created = NewID(), time.Now().UTC()
	return n, warnings, s.write(n)
}

func (s Store) write(n *Network) error {
	b, err := plainjson.Marshal(n)
	if err != nil {
		return err
	}
	return atomicfile.WriteLocked(filepath.Join(s.dir(), n.ID+".json"), b, 0o600, true)
}

// ula returns the /48 of this store; it is chosen when it is first needed.
func (s Store) ula(needed bool) (netip.Prefix, error) {
	if !needed {
		return netip.Prefix{}, nil
	}
	path := filepath.Join(s.dir(), "ula")
	b, err := os.ReadFile(path)
	if err == nil {
		if p, err := netip.ParsePrefix(strings.TrimSpace(string(b))); err == nil && p.Bits() == 48 {
			return p, nil
		}
	}
	p := newULA()
	return p, atomicfile.WriteLocked(path, []byte(p.String()+"\n"), 0o600, true)
}

// Ready returns the default network with its subnets, which are chosen when they are
// first needed.
func (s Store) Ready(ctx context.Context) (*Network, error) {
	six := s.six()
	n, err := s.readyNow(ctx, six)
	if err == nil {
		n.IPv6 = n.IPv6 && six
	}
	return n, err
}

// six reports whether the default network gives out IPv6 addresses now. A user's does
// while this machine has a route for them, and rules that lead there: else programs
// would ask for what they cannot reach. Root's does not, as Docker's: the machine would
// have to forward, and uplinks stop to hear of routes then.
func (s Store) six() bool { return s.Machine == "" && reaches6() && s.relays6() }

// relays6 reports whether the kernel can relay IPv6, as the gateway's first container
// has found out: see [gateway.Features].
func (s Store) relays6() bool {
	has, err := os.ReadFile(filepath.Join(s.RunDir(), "gw", "features"))
	return err != nil || strings.Contains(string(has), "ipv6")
}

func (s Store) readyNow(ctx context.Context, six bool) (*Network, error) {
	n, err := s.chosen(six)
	if n != nil || err != nil {
		return n, err
	}
	l, err := s.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	taken, done, err := s.choosing(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.ready(taken, six)
}

// chosen returns the default network; nil if a subnet of it is still to be chosen.
func (s Store) chosen(six bool) (*Network, error) {
	n, err := readNetwork(filepath.Join(s.dir(), BuiltinID(Bridge)+".json"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && six && !n.IPv6 {
		return nil, nil
	}
	return n, err
}

// ready chooses the default network's subnets for whoever holds the lock. taken are
// other stores'.
func (s Store) ready(taken []netip.Prefix, six bool) (*Network, error) {
	n, err := s.chosen(six)
	if n != nil || err != nil {
		return n, err
	}
	all, bad := s.List()
	i := slices.IndexFunc(all, func(n *Network) bool { return n.Name == Bridge })
	n = all[i].Clone()
	h := readHost()
	taken = append(taken, subnets(all)...)
	add := func(p netip.Prefix) {
		pool := Pool{Subnet: p}
		pool.Gateway, _ = pool.firstFree() // a default pool has one
		n.Pools = append(n.Pools, pool)
	}
	if n.Pool4() == nil {
		p, err := free4(h, taken)
		if err = errors.Join(bad, err); err != nil {
			return nil, err
		}
		add(p)
		n.Created, n.Device = time.Now().UTC(), s.device()
	}
	if six { // one that an older cais has made, too
		ula, err := s.ula(true)
		if err != nil {
			return nil, err
		}
		p, err := free6(ula, h, taken)
		if err != nil {
			return nil, err
		}
		add(p)
		n.IPv6 = true
	}
	return n, s.write(n)
}

// device is the name of the default network's bridge: another one for each store,
// because each gives out addresses on its own.
func (s Store) device() string {
	if filepath.Clean(s.Root) == "/var/lib/cais" {
		return "cais0"
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(filepath.Clean(s.Root))) // never fails
	return "cais" + strconv.FormatUint(uint64(h.Sum32()), 36)
}

// Remove removes a network that no container is in.
func (s Store) Remove(ctx context.Context, ref string) (*Network, error) {
	l, err := s.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	n, err := s.Find(ref)
	if err != nil {
		return nil, err
	}
	if n.Builtin() {
		return n, errs.New(errs.Denied, n.Name+" is a pre-defined network and cannot be removed")
	}
	all, _ := s.List() // those that can be read
	for _, o := range all {
		if n.ConfigOnly && o.ConfigFrom == n.Name {
			return n, errs.New(errs.Denied, fmt.Sprintf("configuration network %q is in use", n.Name))
		}
	}
	// Who gives out addresses looks at the definition under this lock.
	a, err := s.addresses(ctx)
	if err != nil {
		return n, err
	}
	defer a.Release()
	living, err := s.Endpoints(n.ID)
	if err != nil {
		return n, err
	}
	if len(living) > 0 {
		var names []string
		for _, e := range living {
			names = append(names, fmt.Sprintf(`name:"%s" id:"%.12s"`, e.Name, e.ID))
		}
		slices.Sort(names)
		return n, errs.New(errs.Denied, fmt.Sprintf("error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(names, ", ")))
	}
	return n, os.Remove(filepath.Join(s.dir(), n.ID+".json"))
}

// Get reads the network id.
func (s Store) Get(id string) (*Network, error) {
	n, err := readNetwork(filepath.Join(s.dir(), id+".json"))
	if errors.Is(err, fs.ErrNotExist) || id == "" {
		return nil, NotFound(id)
	}
	return n, err
}
