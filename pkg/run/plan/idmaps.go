package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

// IDs is how the ids of a container's own user namespace lie in the namespace
// that containers are made in. The zero value is a container without one.
type IDs struct {
	UIDs []IDMap `json:"uids,omitempty"`
	GIDs []IDMap `json:"gids,omitempty"`
}

// Own says that there is such a namespace.
func (m IDs) Own() bool { return len(m.UIDs) > 0 }

// Plain says that every id is what it is outside: files need no other owner.
func (m IDs) Plain() bool { return plain(m.UIDs) && plain(m.GIDs) }

func plain(maps []IDMap) bool {
	return !slices.ContainsFunc(maps, func(r IDMap) bool { return r.Container != r.Host })
}

// parseIDMap reads CONTAINER:HOST[:SIZE].
func parseIDMap(text string) (IDMap, error) {
	parts := strings.Split(text, ":")
	n := [3]uint32{2: 1}
	ok := len(parts) == 2 || len(parts) == 3
	for i := 0; ok && i < len(parts); i++ {
		v, err := strconv.ParseUint(parts[i], 10, 32)
		ok, n[i] = err == nil && v <= 1<<32-1, uint32(v)
	}
	if !ok || n[2] == 0 || uint64(n[0])+uint64(n[2]) > 1<<32-1 || uint64(n[1])+uint64(n[2]) > 1<<32-1 {
		return IDMap{}, errs.New(errs.Invalid, fmt.Sprintf("invalid id mapping %q: want CONTAINER:HOST:SIZE", text))
	}
	return IDMap{Container: n[0], Host: n[1], Size: n[2]}, nil
}

// parseIDMaps reads the values of --uidmap or --gidmap. A host id written @N is
// one of the machine's: for an ordinary user, a name for one of his own.
func parseIDMaps(texts []string, outer []IDMap) ([]IDMap, error) {
	var list []IDMap
	for _, t := range texts {
		for _, one := range strings.Split(t, ",") {
			at := strings.Contains(one, ":@")
			r, err := parseIDMap(strings.Replace(one, ":@", ":", 1))
			if err != nil {
				return nil, err
			}
			if at {
				if r.Host, err = ours(r, outer); err != nil {
					return nil, err
				}
			}
			if slices.ContainsFunc(list, func(x IDMap) bool {
				return overlap(x.Container, x.Size, r.Container, r.Size) || overlap(x.Host, x.Size, r.Host, r.Size)
			}) {
				return nil, errs.New(errs.Invalid, "id mappings overlap: "+one)
			}
			list = append(list, r)
		}
	}
	return list, nil
}

func overlap(a, n, b, m uint32) bool {
	return uint64(a) < uint64(b)+uint64(m) && uint64(b) < uint64(a)+uint64(n)
}

// ours is the number that the machine's id r.Host has where containers are made.
func ours(r IDMap, outer []IDMap) (uint32, error) {
	if len(outer) == 0 {
		return r.Host, nil
	}
	for _, o := range outer {
		if r.Host >= o.Host && uint64(r.Host)+uint64(r.Size) <= uint64(o.Host)+uint64(o.Size) {
			return o.Container + (r.Host - o.Host), nil
		}
	}
	return 0, errs.New(errs.Invalid, fmt.Sprintf("the host's ids %d to %d are not yours", r.Host, r.Host+r.Size-1))
}

// exist refuses ids that are not there outside.
func exist(ids IDs, host Host) error {
	for _, side := range []struct{ want, have []IDMap }{{ids.UIDs, host.UIDs}, {ids.GIDs, host.GIDs}} {
		for _, r := range side.want {
			if !covered(r.Host, r.Size, side.have) {
				err := errs.New(errs.Unsupported, fmt.Sprintf("ids %d to %d do not exist in your user namespace", r.Host, r.Host+r.Size-1))
				return errs.WithHint(err, addIDs)
			}
		}
	}
	return nil
}

func covered(first, size uint32, maps []IDMap) bool {
	if len(maps) == 0 {
		return true
	}
	for size > 0 {
		i := slices.IndexFunc(maps, func(r IDMap) bool { return first >= r.Container && first-r.Container < r.Size })
		if i < 0 {
			return false
		}
		n := min(size, maps[i].Size-(first-maps[i].Container))
		first, size = first+n, size-n
	}
	return true
}

func same(maps []IDMap) []IDMap {
	if len(maps) == 0 {
		return []IDMap{{Size: 1<<32 - 1}}
	}
	out := make([]IDMap, len(maps))
	for i, r := range maps {
		out[i] = IDMap{Container: r.Container, Host: r.Container, Size: r.Size}
	}
	return out
}

// room finds size host ids of pool that are not used.
func room(size uint32, pool, used []IDMap) (uint32, bool) {
	for _, p := range pool {
		for at := p.Host; uint64(at)+uint64(size) <= uint64(p.Host)+uint64(p.Size); {
			i := slices.IndexFunc(used, func(r IDMap) bool { return overlap(at, size, r.Host, r.Size) })
			if i < 0 {
				return at, true
			}
			next := used[i].Host + used[i].Size
			if next <= at {
				break
			}
			at = next
		}
	}
	return 0, false
}

func specMaps(maps []IDMap) []specs.LinuxIDMapping {
	out := make([]specs.LinuxIDMapping, len(maps))
	for i, r := range maps {
		out[i] = specs.LinuxIDMapping{ContainerID: r.Container, HostID: r.Host, Size: r.Size}
	}
	return out
}

// Map is the id outside of a container's id.
func Map(maps []IDMap, id uint32) (uint32, bool) {
	for _, r := range maps {
		if id >= r.Container && id-r.Container < r.Size {
			return r.Host + (id - r.Container), true
		}
	}
	return id, len(maps) == 0
}

// Inside returns what turns the owners that files have for us into those that the
// container sees; nil: they are equal. What is nobody's there keeps its number.
func (i IDs) Inside() func(uid, gid uint32) (uint32, uint32) {
	if !i.Own() || i.Plain() {
		return nil
	}
	uids, gids := Turn(i.UIDs), Turn(i.GIDs)
	return func(uid, gid uint32) (uint32, uint32) {
		u, _ := Map(uids, uid)
		g, _ := Map(gids, gid)
		return u, g
	}
}

// Turn is the map the other way round.
func Turn(maps []IDMap) []IDMap {
	out := make([]IDMap, len(maps))
	for i, r := range maps {
		out[i] = IDMap{Container: r.Host, Host: r.Container, Size: r.Size}
	}
	return out
}

// Ours are ids of the machine as the namespace names them that containers are made in.
func Ours(maps []IDMap, host []IDMap) ([]IDMap, error) {
	out := slices.Clone(maps)
	for i, r := range out {
		var err error
		if out[i].Host, err = ours(r, host); err != nil {
			return nil, err
		}
	}
	return out, nil
}
