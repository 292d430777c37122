// Package cdi reads what the Container Device Interface's files say of devices
// (github.com/cncf-tags/container-device-interface, SPEC.md 1.0): what a container
// that gets one of them needs besides a device node.
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.yaml.in/yaml/v3"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// file is one description: the devices of one kind.
type file struct {
	Version string   `json:"cdiVersion"`
	Kind    string   `json:"kind"` // vendor.com/class
	Devices []device `json:"devices"`
	Edits   edits    `json:"containerEdits"` // with any of the devices

	path string
}

type device struct {
	Name  string `json:"name"`
	Edits edits  `json:"containerEdits"`
}

type edits struct {
	Env   []string `json:"env"`
	Nodes []struct {
		Path        string  `json:"path"`
		HostPath    string  `json:"hostPath"` // "": as Path
		Permissions string  `json:"permissions"`
		FileMode    *uint32 `json:"fileMode"`
		UID         *uint32 `json:"uid"`
		GID         *uint32 `json:"gid"`
		// What the node is, is looked up: the numbers may be of another boot.
	} `json:"deviceNodes"`
	Mounts []struct {
		HostPath      string   `json:"hostPath"`
		ContainerPath string   `json:"containerPath"`
		Type          string   `json:"type"`
		Options       []string `json:"options"`
	} `json:"mounts"`
	Hooks []struct {
		Name    string   `json:"hookName"`
		Path    string   `json:"path"`
		Args    []string `json:"args"`
		Env     []string `json:"env"`
		Timeout *int     `json:"timeout"`
	} `json:"hooks"`
	GIDs     []uint32        `json:"additionalGids"`
	IntelRDT json.RawMessage `json:"intelRdt"`
}

// Find returns what the devices names, of the form vendor.com/class=name, add to a
// container. Of two files in dirs that describe a device, that of the later
// directory counts.
func Find(dirs, names []string) (plan.Edits, error) {
	var e plan.Edits
	if len(names) == 0 {
		return e, nil
	}
	files, broken := read(dirs)
	var used []string
	for _, name := range names {
		kind, dev, _ := strings.Cut(name, "=")
		f, d := find(files, kind, dev)
		if f == nil {
			return e, unknown(name, kind, dirs, files, broken)
		}
		if !slices.Contains(used, f.path) {
			used = append(used, f.path)
			if err := add(&e, f.Edits); err != nil {
				return e, errs.E("read "+f.path, errs.Unsupported, err)
			}
		}
		if err := add(&e, d.Edits); err != nil {
			return e, errs.E("read "+f.path+", device "+dev, errs.Unsupported, err)
		}
	}
	return e, nil
}

// unknown says what a person can do for a device that no file describes.
func unknown(name, kind string, dirs []string, files []*file, broken error) error {
	var there []string
	for _, f := range files {
		for _, d := range f.Devices {
			if f.Kind == kind {
				there = append(there, f.Kind+"="+d.Name)
			}
		}
	}
	err := errs.New(errs.NotFound, fmt.Sprintf("no CDI file describes the device %s: looked in %s", name, strings.Join(dirs, ", ")))
	if broken != nil {
		err = fmt.Errorf("%w (%w)", err, broken)
	}
	switch {
	case len(there) > 0:
		return errs.WithHint(err, "There are "+strings.Join(there, ", ")+".")
	case kind == "nvidia.com/gpu":
		return errs.WithHint(err, "NVIDIA's toolkit writes it, as root: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
	}
	return errs.WithHint(err, "The device's vendor has a program that writes it into "+dirs[0]+".")
}

// find looks from the last file to the first.
func find(files []*file, kind, name string) (*file, *device) {
	for _, f := range slices.Backward(files) {
		i := slices.IndexFunc(f.Devices, func(d device) bool { return d.Name == name })
		if f.Kind == kind && i >= 0 {
			return f, &f.Devices[i]
		}
	}
	return nil, nil
}

// read returns the files that can be read, and why others cannot: a broken one of
// another vendor is no reason to fail.
func read(dirs []string) (files []*file, broken error) {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			broken = errors.Join(broken, err)
		}
		for _, e := range entries {
			ext := filepath.Ext(e.Name())
			if ext != ".json" && ext != ".yaml" && ext != ".yml" {
				continue
			}
			f := &file{path: filepath.Join(dir, e.Name())}
			text, err := os.ReadFile(f.path)
			if err == nil && ext != ".json" {
				text, err = toJSON(text)
			}
			if err == nil {
				err = json.Unmarshal(text, f)
			}
			if err != nil {
				broken = errors.Join(broken, fmt.Errorf("read %s: %w", f.path, err))
				continue
			}
			files = append(files, f)
		}
	}
	return files, broken
}

// toJSON makes JSON of YAML, whose numbers and names in JSON's structures are the same.
func toJSON(text []byte) ([]byte, error) {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// add puts more into e. Nothing is left out in silence.
func add(e *plan.Edits, more edits) error {
	if len(more.IntelRDT) > 0 {
		return errors.New("it wants intelRdt, which cais does not set")
	}
	for _, n := range more.Nodes {
		d := plan.EditedNode{
			Device: plan.Device{Host: n.HostPath, Container: n.Path, Perms: n.Permissions},
			Mode:   n.FileMode, UID: n.UID, GID: n.GID,
		}
		if d.Host == "" {
			d.Host = d.Container
		}
		if d.Perms == "" {
			d.Perms = "rwm"
		}
		if !filepath.IsAbs(d.Host) || !filepath.IsAbs(d.Container) || !plan.ValidAccess(d.Perms) {
			return fmt.Errorf("the device node %s:%s:%s is not one", d.Host, d.Container, d.Perms)
		}
		e.Nodes = append(e.Nodes, d)
	}
	for _, m := range more.Mounts {
		if !filepath.IsAbs(m.ContainerPath) || m.HostPath == "" {
			return fmt.Errorf("the mount of %s at %s is not one", m.HostPath, m.ContainerPath)
		}
		s := specs.Mount{Source: m.HostPath, Destination: m.ContainerPath, Type: m.Type, Options: m.Options}
		if s.Type == "" {
			s.Type = "bind"
		}
		if s.Type == "bind" && !slices.Contains(s.Options, "bind") && !slices.Contains(s.Options, "rbind") {
			s.Options = append([]string{"rbind"}, s.Options...)
		}
		e.Mounts = append(e.Mounts, s)
	}
	for _, h := range more.Hooks {
		if e.Hooks == nil {
			e.Hooks = &specs.Hooks{}
		}
		hook := specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout}
		list := map[string]*[]specs.Hook{
			//lint:ignore SA1019 old files have them
			"prestart": &e.Hooks.Prestart, "createRuntime": &e.Hooks.CreateRuntime, "createContainer": &e.Hooks.CreateContainer,
			"startContainer": &e.Hooks.StartContainer, "poststart": &e.Hooks.Poststart, "poststop": &e.Hooks.Poststop,
		}[h.Name]
		if list == nil {
			return fmt.Errorf("there are no hooks of the kind %q", h.Name)
		}
		*list = append(*list, hook)
	}
	e.Env = append(e.Env, more.Env...)
	e.GIDs = append(e.GIDs, more.GIDs...)
	return nil
}
