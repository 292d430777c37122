package lower

import (
	"bufio"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// readCgroupView returns what a container whose cgroups are joined through procs sees
// below /sys/fs/cgroup: in each hierarchy that this machine has mounted there its
// own cgroup, or, where it has none of its own, the one it starts in.
func readCgroupView(procs []string) ([]CgroupMount, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	isDir := func(p string) bool {
		st, err := os.Stat(p)
		return err == nil && st.IsDir()
	}
	return cgroupView(string(mounts), string(own), procs, isDir), nil
}

const cgroupRoot = "/sys/fs/cgroup"

func cgroupView(mountinfo, own string, procs []string, isDir func(string) bool) []CgroupMount {
	start := map[string]string{} // our own path by controllers; "" for v2
	for s := bufio.NewScanner(strings.NewReader(own)); s.Scan(); {
		if f := strings.SplitN(s.Text(), ":", 3); len(f) == 3 {
			start[f[1]] = f[2]
		}
	}
	var list []CgroupMount
	for s := bufio.NewScanner(strings.NewReader(mountinfo)); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 || r[0] != "cgroup" && r[0] != "cgroup2" {
			continue
		}
		at := l[4]
		name, ok := strings.CutPrefix(at, cgroupRoot)
		if !ok || strings.Count(name, "/") > 1 {
			continue
		}
		m := CgroupMount{Name: strings.TrimPrefix(name, "/"), Source: at, Shared: true}
		below := func(p string) bool { return p == at || strings.HasPrefix(p, at+"/") }
		if i := slices.IndexFunc(procs, func(p string) bool { return below(filepath.Dir(p)) && !(m.Name == "" && r[0] != "cgroup2") }); i >= 0 {
			m.Source, m.Shared = filepath.Dir(procs[i]), false
		} else if p := path.Join(at, startOf(start, m.Name, r[0], r[2])); isDir(p) {
			m.Source = p
		}
		if i := slices.IndexFunc(list, func(have CgroupMount) bool { return have.Name == m.Name }); i >= 0 {
			list[i] = m // mounted over
			continue
		}
		list = append(list, m)
	}
	// On a machine with both kinds the v2 tree is a directory beside the others; a
	// v2 tree at the root is all there is.
	if slices.ContainsFunc(list, func(m CgroupMount) bool { return m.Name == "" }) {
		return slices.DeleteFunc(list, func(m CgroupMount) bool { return m.Name != "" })
	}
	return append(list, links(list)...)
}

// startOf finds our own cgroup in the hierarchy that is mounted with options.
func startOf(start map[string]string, name, fstype, options string) string {
	if fstype == "cgroup2" {
		return start[""]
	}
	for controllers, p := range start {
		if controllers != "" && (controllers == name || strings.Contains(","+options+",", ","+controllers+",")) {
			return p
		}
	}
	return ""
}

// links are the names of single controllers that are mounted together: cpu for
// cpu,cpuacct.
func links(list []CgroupMount) []CgroupMount {
	var out []CgroupMount
	for _, m := range list {
		parts := strings.Split(m.Name, ",")
		for _, p := range parts {
			if len(parts) > 1 && !slices.ContainsFunc(list, func(have CgroupMount) bool { return have.Name == p }) {
				out = append(out, CgroupMount{Name: p, Link: m.Name})
			}
		}
	}
	return out
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
