package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/userns"
)

// autoUser is whose lines in /etc/subuid and /etc/subgid root's --userns=auto
// uses, as podman's does.
const autoUser = "containers"

// autoPool is what it uses without such lines: the upper half, which podman's
// manual suggests.
func autoPool() []plan.IDMap { return []plan.IDMap{{Host: 1 << 31, Size: 1<<31 - 2}} }

// decideIDs returns the ids of the container's own user namespace.
func (s *Service) decideIDs(req plan.Request, host plan.Host, in plan.Inputs) (plan.IDs, error) {
	mode, err := plan.ParseUserMode(req.UserNS)
	if err != nil {
		return plan.IDs{}, err
	}
	switch mode.Kind {
	case "container":
		c, err := s.store.Load(mode.Target)
		if err != nil {
			return plan.IDs{}, err
		}
		return c.Record.IDs, nil
	case "ns":
		ids, err := idsOfPath(mode.Target)
		if err != nil || !host.Rootless {
			return ids, err
		}
		if ids.UIDs, err = plan.Ours(ids.UIDs, host.UIDs); err == nil {
			ids.GIDs, err = plan.Ours(ids.GIDs, host.GIDs)
		}
		return ids, err
	}
	ii := plan.IDInputs{Passwd: in.Passwd, Group: in.Group}
	if mode.Kind == "auto" {
		all, err := s.store.List()
		if err != nil {
			s.log.Warn("not all containers can be read: --userns=auto may share ids with one of them", "error", err)
		}
		for _, c := range all {
			ii.Taken = append(ii.Taken, c.Record.IDs)
		}
		if !host.Rootless {
			if ii.AutoUIDs, ii.AutoGIDs, err = subordinates(autoUser, autoUser); err != nil {
				return plan.IDs{}, err
			}
			if len(ii.AutoUIDs) == 0 || len(ii.AutoGIDs) == 0 {
				ii.AutoUIDs, ii.AutoGIDs = autoPool(), autoPool()
			}
			if host.InUserNS { // root of a container: what it has
				ii.AutoUIDs, ii.AutoGIDs = nil, nil
			}
		}
	}
	if req.SubUIDName != "" || req.SubGIDName != "" {
		u, g := req.SubUIDName, req.SubGIDName
		if u == "" {
			u = g
		}
		if g == "" {
			g = u
		}
		if ii.SubUIDs, ii.SubGIDs, err = subordinates(u, g); err != nil {
			return plan.IDs{}, err
		}
		req.SubUIDName, req.SubGIDName = u, g
	}
	return plan.DecideIDs(req, host, ii)
}

func subordinates(user, group string) (uids, gids []plan.IDMap, err error) {
	u, err := userns.Ranges("/etc/subuid", user)
	if err != nil {
		return nil, nil, err
	}
	g, err := userns.Ranges("/etc/subgid", group)
	return ranges(u), ranges(g), err
}

// idsOfPath cannot know the map of a namespace by its path alone; a process's it
// can.
func idsOfPath(path string) (plan.IDs, error) {
	dir, ok := strings.CutSuffix(path, "/ns/user")
	if !ok || !strings.HasPrefix(dir, "/proc/") {
		err := errs.New(errs.Unsupported, "--userns ns:"+path+": the ids of a namespace are only known by a process in it")
		return plan.IDs{}, errs.WithHint(err, "Use ns:/proc/PID/ns/user.")
	}
	var ids plan.IDs
	for file, to := range map[string]*[]plan.IDMap{"uid_map": &ids.UIDs, "gid_map": &ids.GIDs} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return ids, fmt.Errorf("--userns ns:%s: %w", path, err)
		}
		for line := range strings.Lines(string(text)) {
			var r plan.IDMap
			if _, err := fmt.Sscan(line, &r.Container, &r.Host, &r.Size); err == nil {
				*to = append(*to, r)
			}
		}
	}
	return ids, nil
}

// keepID makes the caller of --userns=keep-id the container's user, with an
// entry in a passwd file of the container's own.
func (d *decided) keepID(req *plan.Request, host plan.Host, workdir string, in *plan.Inputs) {
	if workdir == "" {
		workdir = "/"
	}
	user, line := plan.KeepID(*req, host, userns.Name(host.UID), workdir, in.Passwd)
	if user == "" {
		return
	}
	if req.User == "" {
		req.User = user
	}
	d.addEntries(line, "", in)
}

// entries adds what names a user of whom only the number is known.
func (d *decided) entries(req plan.Request, workdir string, in *plan.Inputs) {
	if workdir == "" {
		workdir = "/"
	}
	user, group := plan.Entries(req, workdir, in.Passwd, in.Group)
	d.addEntries(user, group, in)
}

// addEntries gives the container a passwd and a group of its own, with these lines.
func (d *decided) addEntries(user, group string, in *plan.Inputs) {
	add := func(line string, file *[]byte, name string) {
		if line == "" {
			return
		}
		text := string(*file)
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += line
		*file, d.users[name] = []byte(text), text
	}
	add(user, &in.Passwd, passwdFile)
	add(group, &in.Group, groupFile)
}
