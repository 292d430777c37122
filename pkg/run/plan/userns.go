package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

// UserMode is --userns, read.
type UserMode struct {
	Kind   string // "", host, private, auto, keep-id, nomap, container, ns
	Target string // of container and ns

	Size       uint32 // of auto; 0: as many as the image's files name
	UID, GID   *uint32
	UIDs, GIDs []IDMap // what auto is to have, too
}

// ParseUserMode reads --userns.
func ParseUserMode(text string) (UserMode, error) {
	bad := errs.New(errs.Invalid, fmt.Sprintf("--userns: invalid USER mode: %s", text))
	kind, rest, valued := strings.Cut(text, ":")
	m := UserMode{Kind: kind}
	switch kind {
	case "", "host", "private", "nomap":
		if valued {
			return m, bad
		}
		return m, nil
	case "container", "ns":
		m.Target = rest
		if rest == "" || kind == "ns" && !strings.HasPrefix(rest, "/") {
			return m, bad
		}
		return m, nil
	case "auto", "keep-id":
		if !valued {
			return m, nil
		}
	default:
		return m, bad
	}
	for o := range strings.SplitSeq(rest, ",") {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return m, errs.New(errs.Invalid, fmt.Sprintf("--userns: invalid option %q: want KEY=VALUE", o))
		}
		if err := m.option(kind+" "+key, value); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *UserMode) option(key, value string) error {
	number := func() (uint32, error) {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n > maxID {
			return 0, errs.New(errs.Invalid, fmt.Sprintf("--userns: invalid value for %q: %s", strings.Fields(key)[1], value))
		}
		return uint32(n), nil
	}
	var err error
	switch key {
	case "auto size", "keep-id size":
		m.Size, err = number()
	case "keep-id uid", "keep-id gid":
		var n uint32
		n, err = number()
		if key == "keep-id uid" {
			m.UID = &n
		} else {
			m.GID = &n
		}
	case "auto uidmapping", "auto gidmapping":
		var r IDMap
		if r, err = parseIDMap(value); err != nil {
			return err
		}
		if key == "auto uidmapping" {
			m.UIDs = append(m.UIDs, r)
		} else {
			m.GIDs = append(m.GIDs, r)
		}
	default:
		kind, name, _ := strings.Cut(key, " ")
		return errs.New(errs.Invalid, fmt.Sprintf("--userns: unknown option specified for %s: %q", kind, name))
	}
	return err
}

// IDInputs are what [DecideIDs] needs besides the request.
type IDInputs struct {
	Passwd, Group []byte
	Taken         []IDs   // of the other containers
	AutoUIDs      []IDMap // root: what auto may take, by host ids; Container is ignored
	AutoGIDs      []IDMap
	SubUIDs       []IDMap // the ranges of --subuidname, in host ids
	SubGIDs       []IDMap
}

// DecideIDs returns the ids of the container's own user namespace, if the
// request has it made one; those of a joined one are the other container's.
func DecideIDs(req Request, host Host, in IDInputs) (IDs, error) {
	mode, err := ParseUserMode(req.UserNS)
	if err != nil {
		return IDs{}, err
	}
	explicit := len(req.UIDMaps)+len(req.GIDMaps) > 0 || req.SubUIDName != "" || req.SubGIDName != ""
	if explicit && mode.Kind != "" && mode.Kind != "private" {
		return IDs{}, errs.New(errs.Invalid, fmt.Sprintf("--userns=%s cannot be used together with --uidmap, --gidmap, --subuidname or --subgidname", req.UserNS))
	}
	var ids IDs
	switch {
	case explicit:
		ids, err = explicitIDs(req, host, in)
	case mode.Kind == "private":
		ids, err = privateIDs(host)
	case mode.Kind == "keep-id":
		ids, err = keepIDs(mode, host)
	case mode.Kind == "nomap":
		ids, err = noMap(host)
	case mode.Kind == "auto":
		ids, err = autoIDs(mode, host, in)
	default:
		return IDs{}, nil
	}
	if err != nil {
		return IDs{}, err
	}
	if !inMap(ids.UIDs, 0) || !inMap(ids.GIDs, 0) {
		return IDs{}, errs.New(errs.Unsupported, "a user namespace without an id 0 cannot be set up: map container id 0")
	}
	return ids, exist(ids, host)
}

const addIDs = "Ask root for ids that nobody else has: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER"

func explicitIDs(req Request, host Host, in IDInputs) (ids IDs, err error) {
	if ids.UIDs, err = parseIDMaps(req.UIDMaps, host.UIDs); err != nil {
		return ids, err
	}
	if ids.GIDs, err = parseIDMaps(req.GIDMaps, host.GIDs); err != nil {
		return ids, err
	}
	for _, sub := range []struct {
		name   string
		ranges []IDMap
		outer  []IDMap
		to     *[]IDMap
	}{{req.SubUIDName, in.SubUIDs, host.UIDs, &ids.UIDs}, {req.SubGIDName, in.SubGIDs, host.GIDs, &ids.GIDs}} {
		if sub.name == "" || len(*sub.to) > 0 {
			continue
		}
		next := uint32(0)
		for _, r := range sub.ranges {
			h, err := ours(r, sub.outer)
			if err != nil {
				return ids, err
			}
			*sub.to = append(*sub.to, IDMap{Container: next, Host: h, Size: r.Size})
			next += r.Size
		}
		if next == 0 {
			return ids, errs.New(errs.Invalid, fmt.Sprintf("no subordinate ids of %q: /etc/subuid and /etc/subgid name none", sub.name))
		}
	}
	if len(ids.GIDs) == 0 {
		ids.GIDs = ids.UIDs
	}
	if len(ids.UIDs) == 0 {
		ids.UIDs = ids.GIDs
	}
	return ids, nil
}

// privateIDs are those of the namespace that containers are made in.
func privateIDs(host Host) (IDs, error) {
	if !host.Rootless && len(host.UIDs) == 0 {
		return IDs{}, errs.New(errs.Invalid, "--userns=private: must provide at least one UID or GID mapping to configure a user namespace")
	}
	return IDs{same(host.UIDs), same(host.GIDs)}, nil
}

// keepIDs gives the caller, who is 0 outside, the id that he has on the machine:
// those below move up by one.
func keepIDs(m UserMode, host Host) (IDs, error) {
	if !host.Rootless {
		if m.UID != nil || m.GID != nil {
			return IDs{}, errs.New(errs.Unsupported, "--userns=keep-id with options is for ordinary users: root has no id to keep")
		}
		return IDs{same(host.UIDs), same(host.GIDs)}, nil
	}
	if host.SingleID {
		err := errs.New(errs.Unsupported, "--userns=keep-id needs subordinate ids, and you have none")
		return IDs{}, errs.WithHint(err, addIDs)
	}
	uid, gid := uint32(host.UID), uint32(host.GID)
	if m.UID != nil {
		uid = *m.UID
	}
	if m.GID != nil {
		gid = *m.GID
	}
	keep := func(id uint32, outer []IDMap) []IDMap {
		last := contiguous(outer)
		if m.Size > 0 {
			last = min(last, m.Size-1)
		}
		if id == 0 {
			return []IDMap{{0, 0, last + 1}}
		}
		below := min(id, last)
		list := []IDMap{{0, 1, below}, {id, 0, 1}}
		if last > id {
			list = append(list, IDMap{id + 1, id + 1, last - id})
		}
		return list
	}
	return IDs{keep(uid, host.UIDs), keep(gid, host.GIDs)}, nil
}

// noMap leaves the caller out.
func noMap(host Host) (IDs, error) {
	if !host.Rootless {
		return IDs{}, errs.WithHint(errs.New(errs.Unsupported, "nomap is only supported in rootless mode"), "Use --userns=auto: none of its ids is one of yours.")
	}
	u, g := contiguous(host.UIDs), contiguous(host.GIDs)
	if host.SingleID || u == 0 || g == 0 {
		return IDs{}, errs.WithHint(errs.New(errs.Unsupported, "--userns=nomap needs subordinate ids, and you have none"), addIDs)
	}
	return IDs{[]IDMap{{0, 1, u}}, []IDMap{{0, 1, g}}}, nil
}

// autoIDs takes ids that no other container has.
func autoIDs(m UserMode, host Host, in IDInputs) (IDs, error) {
	if host.SingleID {
		return IDs{}, errs.WithHint(errs.New(errs.Unsupported, "--userns=auto needs subordinate ids, and you have none"), addIDs)
	}
	need := m.Size
	if need == 0 {
		need = max(needed(in.Passwd, in.Group), 1024)
		for _, r := range slices.Concat(m.UIDs, m.GIDs) {
			need = max(need, r.Container+r.Size)
		}
	}
	pick := func(given, pool []IDMap, taken func(IDs) []IDMap) ([]IDMap, error) {
		used := slices.Clone(given)
		for _, t := range in.Taken {
			used = append(used, taken(t)...)
		}
		list := slices.Clone(given)
		for first := uint32(0); first < need; { // the gaps between what was given
			end := need
			inside := false
			for _, r := range given {
				if first >= r.Container && first < r.Container+r.Size {
					first, inside = r.Container+r.Size, true
				} else if r.Container > first {
					end = min(end, r.Container)
				}
			}
			if inside {
				continue
			}
			at, ok := room(end-first, pool, used)
			if !ok {
				err := errs.New(errs.Unsupported, fmt.Sprintf("--userns=auto: could not find %d ids that no container uses", end-first))
				return nil, errs.WithHint(err, "Remove containers made with it, ask for fewer with auto:size=N, or add ids in /etc/subuid and /etc/subgid.")
			}
			r := IDMap{Container: first, Host: at, Size: end - first}
			list, used = append(list, r), append(used, r)
			first = end
		}
		return list, nil
	}
	poolU, poolG := in.AutoUIDs, in.AutoGIDs
	if host.Rootless || len(poolU) == 0 {
		poolU, poolG = []IDMap{{Host: 1, Size: contiguous(host.UIDs)}}, []IDMap{{Host: 1, Size: contiguous(host.GIDs)}}
	}
	u, err := pick(m.UIDs, poolU, func(t IDs) []IDMap { return t.UIDs })
	if err != nil {
		return IDs{}, err
	}
	g, err := pick(m.GIDs, poolG, func(t IDs) []IDMap { return t.GIDs })
	return IDs{u, g}, err
}

// needed is one more than the highest id that an image's files name, as far as
// it is an ordinary one.
func needed(passwd, group []byte) uint32 {
	top := uint32(0)
	for _, file := range [][]byte{passwd, group} {
		for line := range strings.Lines(string(file)) {
			f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
			for i := 2; i < min(len(f), 4); i++ {
				if id, ok, err := numeric(f[i]); ok && err == nil && id < 65536 && id != 65534 {
					top = max(top, id+1)
				}
			}
		}
	}
	return top
}

// Nested is h for what lives in a user namespace of its own with these ids.
func (h Host) Nested(ids IDs) Host {
	if !ids.Own() {
		return h
	}
	h.InUserNS, h.RaiseLimits = true, false
	h.UIDs, h.GIDs = ids.UIDs, ids.GIDs
	h.SingleID = len(ids.UIDs) == 1 && ids.UIDs[0].Size == 1
	return h
}

// userNamespace adds the container's own user namespace, or another's.
func (b *builder) userNamespace() error {
	if !b.in.IDs.Own() {
		return nil
	}
	mode, err := ParseUserMode(b.req.UserNS)
	if err != nil {
		return err
	}
	switch mode.Kind {
	case "container":
		p := b.in.Namespaces["user"]
		if p == "" {
			return errs.New(errs.Conflict, fmt.Sprintf("cannot join the user namespace of container %s: it is not running", mode.Target))
		}
		b.add(specs.UserNamespace, p)
	case "ns":
		b.add(specs.UserNamespace, mode.Target)
	default:
		b.add(specs.UserNamespace, "")
	}
	l := b.spec.Linux
	l.UIDMappings, l.GIDMappings = specMaps(b.in.IDs.UIDs), specMaps(b.in.IDs.GIDs)
	b.host = b.host.Nested(b.in.IDs)
	return nil
}

// KeepID is who a container with keep-id runs as, if nothing else was asked:
// "UID:GID" and the line of passwd that names him.
func KeepID(req Request, host Host, name, workdir string, passwd []byte) (user, line string) {
	m, err := ParseUserMode(req.UserNS)
	if err != nil || m.Kind != "keep-id" || !host.Rootless {
		return "", ""
	}
	uid, gid := uint32(host.UID), uint32(host.GID)
	if m.UID != nil {
		uid = *m.UID
	}
	if m.GID != nil {
		gid = *m.GID
	}
	user = fmt.Sprintf("%d:%d", uid, gid)
	if id, entry, err := findUser(strconv.Itoa(int(uid)), passwd); err != nil || entry != "" || id.uid != uid {
		return user, ""
	}
	if req.Passwd == "false" || name == "" || strings.ContainsAny(name+workdir, ":\n\x00") {
		return user, ""
	}
	return user, req.passwdEntry(name, name, uid, gid, workdir)
}
