package plan

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxID is the highest id Docker takes. 4294967295 is the kernel's "no change"
// and must never come out of a file of the image.
const maxID = 1<<31 - 1

var errNoEntry = errors.New("no matching entries")

// identity is who a process is.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary, without gid: the image's
	added    []uint32 // and those asked for
	home     string
}

// spec puts the group itself first among the supplementary ones, as Docker does:
// a file that denies a group would otherwise not deny it to who left it by a
// setgid program.
func (id identity) spec() specs.User {
	return specs.User{UID: id.uid, GID: id.gid, AdditionalGids: slices.Concat([]uint32{id.gid}, id.groups, id.added)}
}

// User returns the ids that name|uid[:group|gid] is in an image with these passwd
// and group files, and the home directory.
func User(user string, passwd, group []byte) (uid, gid uint32, home string, err error) {
	id, err := resolve(user, nil, passwd, group)
	return id.uid, id.gid, id.home, err
}

// Owner returns the ids that name|uid[:group|gid] of a build means, of --chown and of
// WORKDIR's user: as User, but, as in BuildKit, a number without a group is the group's,
// too, and who is in neither file is root. unknown says who that was.
func Owner(owner string, passwd, group []byte) (uid, gid uint32, unknown string, err error) {
	user, grp, _ := strings.Cut(owner, ":")
	uid, gid, _, err = User(user, passwd, group)
	if errors.Is(err, errNoEntry) {
		unknown, err = user, nil
	} else if number, ok, _ := numeric(user); ok {
		gid = number
	}
	if err != nil || grp == "" {
		return uid, gid, unknown, err
	}
	_, named, _, err := User("0:"+grp, passwd, group)
	if errors.Is(err, errNoEntry) {
		return uid, gid, grp, nil
	}
	return uid, named, unknown, err
}

// resolve turns name|uid[:group|gid] into ids by the image's passwd and group
// files, which are hostile: they are capped, a malformed line is passed over,
// and a number out of range on the line that matches is an error. A number is
// never looked up as a name: a user called "0" in an image must not become root.
//
// Naming a group drops the user's supplementary groups, as in Docker; those of
// groupAdd (--group-add) always stay.
func resolve(user string, groupAdd []string, passwd, group []byte) (identity, error) {
	if err := cap1M("passwd", passwd); err != nil {
		return identity{}, err
	}
	if err := cap1M("group", group); err != nil {
		return identity{}, err
	}
	name, grp, hasGroup := strings.Cut(user, ":")
	if strings.ContainsAny(grp, ":") || strings.ContainsAny(user, "\n\x00") {
		return identity{}, errs.New(errs.Invalid, fmt.Sprintf("invalid user %q: want name|uid[:group|gid]", user))
	}
	hasGroup = hasGroup && grp != ""
	id, entry, err := findUser(name, passwd)
	if err != nil {
		return identity{}, err
	}
	switch {
	case hasGroup:
		if id.gid, err = findGroup(grp, group); err != nil {
			return identity{}, err
		}
	case entry != "":
		id.groups = memberships(entry, id.gid, group)
	}
	for _, g := range groupAdd {
		gid, err := findGroup(g, group)
		if err != nil {
			return identity{}, err
		}
		if gid != id.gid && !slices.Contains(id.groups, gid) && !slices.Contains(id.added, gid) {
			id.added = append(id.added, gid)
		}
	}
	return id, nil
}

func cap1M(file string, data []byte) error {
	if len(data) <= MaxUserFile {
		return nil
	}
	return errs.New(errs.Invalid, fmt.Sprintf("the image's /etc/%s is larger than 1 MiB", file))
}

// findUser returns the ids and home of name, and the login name of the entry
// that matched, if one did. An unknown number is a user without an entry.
func findUser(name string, passwd []byte) (identity, string, error) {
	id := identity{home: "/"}
	number, isNumber, err := numeric(name)
	if err != nil {
		return id, "", err
	}
	if name == "" {
		isNumber = true // nothing said: root
	}
	id.uid = number
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 || f[0] == "" {
			continue
		}
		uid, uidOK, uidErr := numeric(f[2])
		if isNumber {
			if !uidOK || uidErr != nil || uid != number {
				continue
			}
		} else if f[0] != name {
			continue
		}
		gid, gidOK, gidErr := numeric(f[3])
		if !uidOK || !gidOK || uidErr != nil || gidErr != nil {
			return id, "", errs.New(errs.Invalid, fmt.Sprintf("the image's passwd entry of user %s has ids out of range", f[0]))
		}
		id.uid, id.gid = uid, gid
		if len(f) > 5 && f[5] != "" && strings.IndexByte(f[5], 0) < 0 {
			id.home = f[5]
		}
		return id, f[0], nil
	}
	if !isNumber {
		return id, "", errs.E("unable to find user "+name, errs.Invalid, fmt.Errorf("%w in passwd file", errNoEntry))
	}
	return id, "", nil
}

// findGroup returns the gid of a group's name or number.
func findGroup(name string, group []byte) (uint32, error) {
	number, isNumber, err := numeric(name)
	if err != nil || isNumber {
		return number, err
	}
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 3 || f[0] == "" || f[0] != name {
			continue
		}
		gid, ok, err := numeric(f[2])
		if !ok || err != nil {
			return 0, errs.New(errs.Invalid, fmt.Sprintf("the image's group entry of %s has an id out of range", name))
		}
		return gid, nil
	}
	return 0, errs.E("unable to find group "+name, errs.Invalid, fmt.Errorf("%w in group file", errNoEntry))
}

// memberships returns the gids of the groups that list user, without primary.
// The kernel takes at most 65536 (NGROUPS_MAX).
func memberships(user string, primary uint32, group []byte) []uint32 {
	var gids []uint32
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		gid, ok, err := numeric(f[2])
		if ok && err == nil && gid != primary && !slices.Contains(gids, gid) && len(gids) < 1024 {
			gids = append(gids, gid)
		}
	}
	return gids
}

// numeric reads s as an id. What looks like a number is one, or an error: never
// a name.
func numeric(s string) (id uint32, ok bool, err error) {
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxID {
		return 0, false, errs.New(errs.Invalid, fmt.Sprintf("invalid id %s: uids and gids must be in range 0-%d", s, maxID))
	}
	return uint32(n), true, nil
}

// mapped refuses ids that do not exist where the container will live: setuid
// would fail with EINVAL after everything has been made. Groups that only the
// image's file names are left out instead: alpine's root is in eight, and runs
// well without them.
func (h Host) mapped(id *identity) error {
	id.groups = slices.DeleteFunc(id.groups, func(g uint32) bool { return !inMap(h.GIDs, g) })
	what := ""
	for _, g := range append([]uint32{id.gid}, id.added...) {
		if !inMap(h.GIDs, g) {
			what = fmt.Sprintf("group id %d", g)
		}
	}
	if !inMap(h.UIDs, id.uid) {
		what = fmt.Sprintf("user id %d", id.uid)
	}
	if what == "" {
		return nil
	}
	err := errs.New(errs.Unsupported, what+" does not exist in your user namespace")
	if h.SingleID {
		return errs.WithHint(err, "You have no subordinate ids: 'cais doctor' says how root gives you some; or use --user 0.")
	}
	return errs.WithHint(err, "Your ranges in /etc/subuid and /etc/subgid are too small for it.")
}

func inMap(m []IDMap, id uint32) bool {
	if len(m) == 0 {
		return true
	}
	return slices.ContainsFunc(m, func(r IDMap) bool { return id >= r.Container && id-r.Container < r.Size })
}

// contiguous returns the highest id up to which, from 0, every id exists.
func contiguous(m []IDMap) uint32 {
	if len(m) == 0 {
		return maxID
	}
	next := uint32(0)
	for range m { // ranges may stand in any order
		for _, r := range m {
			if r.Container <= next && r.Size > next-r.Container {
				next = r.Container + r.Size
			}
		}
	}
	if next == 0 {
		return 0
	}
	return min(next-1, maxID)
}
