package network

import (
	"context"
	"errors"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/lock"
)

// MachineDir is where the stores tell of each other whose bridges share one network
// namespace: root's. A subnet shows among the machine's routes only once its first
// container runs.
const MachineDir = "/run/cais/stores"

// defaultRoot is the store that every other one knows of.
const defaultRoot = "/var/lib/cais"

// choosing keeps other stores of this machine from choosing subnets, and returns
// those that they have. A machine that cannot be written to has one store.
func (s Store) choosing(ctx context.Context) (taken []netip.Prefix, done func(), err error) {
	if s.Machine == "" {
		return nil, func() {}, nil
	}
	if os.MkdirAll(s.Machine, 0o700) != nil {
		return nil, func() {}, nil
	}
	l, err := lock.Acquire(ctx, filepath.Join(s.Machine, "lock"), true)
	if err != nil {
		return nil, nil, err
	}
	s.register()
	roots := []string{defaultRoot}
	entries, _ := os.ReadDir(s.Machine) // without it there is the default one
	for _, e := range entries {
		path := filepath.Join(s.Machine, e.Name())
		root, err := os.ReadFile(path)
		if err != nil || e.Name() == "lock" {
			continue
		}
		here := strings.HasPrefix(e.Name(), namespace()+"-")
		if _, err := os.Lstat(filepath.Join(string(root), "networks")); errors.Is(err, fs.ErrNotExist) && string(root) != filepath.Clean(s.Root) {
			if !here || s.Gone == nil || s.Gone(Store{Root: string(root)}.device()) {
				_ = os.Remove(path) // the store is gone; the next one tries again
			}
			continue
		}
		if here {
			roots = append(roots, string(root))
		}
	}
	for _, root := range roots {
		if root == filepath.Clean(s.Root) {
			continue
		}
		all, _ := Store{Root: root}.List() // those that can be read
		taken = append(taken, subnets(all)...)
	}
	return taken, func() { _ = l.Release() }, nil // nothing was written to it
}

// register tells other stores of this one. It costs one look when that is done.
func (s Store) register() {
	root := filepath.Clean(s.Root)
	if s.Machine == "" || root == defaultRoot {
		return
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(root)) // never fails
	path := filepath.Join(s.Machine, namespace()+"-"+strconv.FormatUint(h.Sum64(), 36))
	if _, err := os.Lstat(path); err == nil {
		return
	}
	if os.MkdirAll(s.Machine, 0o700) == nil {
		_ = os.WriteFile(path, []byte(root), 0o600) // without it the routes alone tell
	}
}

// namespace tells this process's network namespace from others.
func namespace() string {
	var st syscall.Stat_t
	if syscall.Stat("/proc/self/ns/net", &st) != nil {
		return "0"
	}
	return strconv.FormatUint(st.Ino, 10)
}

// Firewall is one of this machine's that drops what some bridges forward.
type Firewall struct {
	Name    string   `json:"name"`
	Bridges []string `json:"bridges"`
	Fix     string   `json:"fix"` // a command
}
