package ociruntime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

// maxConfig is the longest config.json that is read.
const maxConfig = 64 << 20

// readConfig reads a bundle's configuration; file may be relative to it.
func readConfig(bundle, file string) ([]byte, *specs.Spec, error) {
	if file == "" {
		file = "config.json"
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(bundle, file)
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, nil, errs.E("read the configuration", errs.NotFound, err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxConfig {
		return nil, nil, errs.New(errs.Invalid, file+" is not a file of reasonable size")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	spec, err := parseSpec(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return text, spec, nil
}

func parseSpec(text []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, errs.E("decode the configuration", errs.Invalid, err)
	}
	if err := checkVersion(spec.Version); err != nil {
		return nil, err
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return nil, errs.New(errs.Invalid, "the configuration has no root")
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if err := checkHooks(spec.Hooks); err != nil {
		return nil, err
	}
	return spec, checkKnown(spec)
}

// checkKnown refuses by name what would be left out otherwise.
func checkKnown(spec *specs.Spec) error {
	l, p := spec.Linux, spec.Process
	if p == nil {
		p = &specs.Process{}
	}
	for _, f := range []struct {
		given bool
		name  string
	}{
		{p.Scheduler != nil, "process.scheduler"},
		{p.IOPriority != nil, "process.ioPriority"},
		{p.ExecCPUAffinity != nil, "process.execCPUAffinity"},
		{len(l.TimeOffsets) > 0, "linux.timeOffsets"},
		{l.Personality != nil && l.Personality.Domain != specs.PerLinux, "linux.personality"},
		{l.MemoryPolicy != nil, "linux.memoryPolicy"},
		{l.IntelRdt != nil, "linux.intelRdt"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
	} {
		if f.given {
			return errs.New(errs.Unsupported, f.name+" is not supported")
		}
	}
	return nil
}

// checkVersion accepts all of 1.x, released or not, and the drafts before it.
func checkVersion(v string) error {
	number, _, _ := strings.Cut(v, "+")
	number, _, _ = strings.Cut(number, "-")
	parts := strings.Split(number, ".")
	ok := len(parts) == 3
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 32); err != nil {
			ok = false
		}
	}
	if !ok {
		return errs.New(errs.Invalid, fmt.Sprintf("invalid ociVersion %q", v))
	}
	if parts[0] != "1" && parts[0] != "0" {
		return errs.New(errs.Unsupported, fmt.Sprintf("ociVersion %q is not supported: %s is", v, specs.Version))
	}
	return nil
}

func checkHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 bundles still say it, and a runtime must do it
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		for _, hook := range list {
			if !filepath.IsAbs(hook.Path) {
				return errs.New(errs.Invalid, fmt.Sprintf("the path of a hook must be absolute: %q", hook.Path))
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return errs.New(errs.Invalid, fmt.Sprintf("the timeout of the hook %s must be greater than 0", hook.Path))
			}
		}
	}
	return nil
}
