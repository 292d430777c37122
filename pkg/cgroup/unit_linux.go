package cgroup

import (
	"fmt"
	"os"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Unit is a transient scope of systemd's.
type Unit struct {
	Name, Slice string
	User        bool // of the user's manager
}

// OCIUnit reads a cgroupsPath for systemd, slice:prefix:name; "" takes defaults.
func OCIUnit(cgroupsPath, id string) (Unit, error) {
	u := Unit{User: os.Geteuid() != 0 || inUserNS(), Slice: "system.slice", Name: prefix + id + ".scope"}
	if u.User {
		u.Slice = "user.slice"
	}
	if cgroupsPath == "" {
		return u, nil
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || parts[2] == "" {
		return u, errs.New(errs.Invalid, fmt.Sprintf("the cgroupsPath %q is not slice:prefix:name, as systemd's cgroups want it", cgroupsPath))
	}
	if parts[0] != "" {
		u.Slice = parts[0]
	}
	u.Name = parts[2]
	if parts[1] != "" {
		u.Name = parts[1] + "-" + parts[2]
	}
	if !strings.HasSuffix(u.Name, ".scope") && !strings.HasSuffix(u.Name, ".slice") {
		u.Name += ".scope"
	}
	return u, nil
}
