package plan

import (
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// IDMapped says that the mount shows other owners than its source has. A volume
// that does is not filled from the image, whose owners here are those outside.
func (m Mount) IDMapped() bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return o == "idmap" || strings.HasPrefix(o, "idmap=") })
}

// idmap gives m the owners that a mount option idmap asks for: alone it makes them
// those of the container's user namespace, else it lists them.
func (b *builder) idmap(m *specs.Mount, options []string) error {
	for _, o := range options {
		text, listed := strings.CutPrefix(o, "idmap=")
		switch {
		case !listed && o != "idmap":
			continue
		case b.host.Rootless || b.inUserNS:
			return errs.WithHint(errs.New(errs.Unsupported, "mount option idmap: the kernel maps the owners of a file system only for the machine's root"),
				"Use the option U, which changes the owners, or --userns=keep-id.")
		case !listed && !b.in.IDs.Own():
			return errs.WithHint(errs.New(errs.Invalid, "mount option idmap: the container has no user namespace of its own"),
				"Add --userns=auto or --uidmap, or list the ids: idmap=uids=0-1000-1;gids=0-1000-1.")
		case !listed:
			m.UIDMappings, m.GIDMappings = specMaps(b.in.IDs.UIDs), specMaps(b.in.IDs.GIDs)
			return nil
		}
		for part := range strings.SplitSeq(text, ";") {
			kind, list, _ := strings.Cut(part, "=")
			var err error
			switch kind {
			case "uids":
				m.UIDMappings, err = mountIDs(list, b.in.IDs.UIDs)
			case "gids":
				m.GIDMappings, err = mountIDs(list, b.in.IDs.GIDs)
			default:
				err = fmt.Errorf("%q is neither uids nor gids", kind)
			}
			if err != nil {
				return errs.E("mount option "+o, errs.Invalid, err)
			}
		}
		if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
			return errs.New(errs.Invalid, "mount option "+o+": both uids and gids are needed")
		}
		return nil
	}
	return nil
}

// mountIDs reads FILE-SEEN-SIZE triples with # between: which ids of the file system
// are seen as which of the machine, or, behind an @, of the container.
func mountIDs(text string, own []IDMap) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for triple := range strings.SplitSeq(text, "#") {
		var r IDMap
		plain, inside := strings.CutPrefix(triple, "@")
		if _, err := fmt.Sscanf(plain+".", "%d-%d-%d.", &r.Container, &r.Host, &r.Size); err != nil || r.Size == 0 {
			return nil, fmt.Errorf("%q is not FILE-SEEN-SIZE", triple)
		}
		if inside && len(own) > 0 {
			first, ok := Map(own, r.Host)
			last, lastOK := Map(own, r.Host+r.Size-1)
			if !ok || !lastOK || last-first != r.Size-1 {
				return nil, fmt.Errorf("%q is not within one range of the container's ids", triple)
			}
			r.Host = first
		}
		list = append(list, specMaps([]IDMap{r})...)
	}
	return list, nil
}
