package userns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/run/launch"
	"golang.org/x/sys/unix"
)

// IDMap maps Count ids from Inside (U's) to Outside (the host's).
type IDMap struct{ Inside, Outside, Count uint32 }

// Mapping is what U maps.
type Mapping struct {
	UIDs, GIDs []IDMap
	// Single says that only the user's own id is mapped, so that a container has
	// no other. Why says for want of what.
	Single bool
	Why    string
	// Own says that we may write it ourselves: root of a container, whose ids stay
	// what they are.
	Own bool
}

// Map returns what U's map will be for the user uid: root is the user himself,
// then come all ranges of /etc/subuid and /etc/subgid, in the files' order, as
// podman does. Without such ranges, or without the programs that may map them,
// it is the single id.
func Map(uid int) (Mapping, error) {
	if uid == 0 {
		return same()
	}
	gid := OuterGID()
	m := Mapping{Single: true,
		UIDs: []IDMap{{0, uint32(uid), 1}}, GIDs: []IDMap{{0, uint32(gid), 1}}}
	names := []string{strconv.Itoa(uid)}
	if n := userName("/etc/passwd", uid); n != "" {
		names = append(names, n)
	}
	u, err := subordinate("/etc/subuid", names)
	if err != nil {
		return Mapping{}, err
	}
	g, err := subordinate("/etc/subgid", names)
	if err != nil {
		return Mapping{}, err
	}
	if m.Why = whySingle(u, g); m.Why != "" {
		return m, nil
	}
	m.Single = false
	m.UIDs, m.GIDs = appendRanges(m.UIDs, u), appendRanges(m.GIDs, g)
	return m, nil
}

// same maps every id that there is here to itself.
func same() (Mapping, error) {
	m := Mapping{Own: true}
	for file, to := range map[string]*[]IDMap{"/proc/self/uid_map": &m.UIDs, "/proc/self/gid_map": &m.GIDs} {
		text, err := os.ReadFile(file)
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(text)) {
			var inside, outside, count uint32
			if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil {
				*to = append(*to, IDMap{inside, inside, count})
			}
		}
	}
	m.Single = len(m.UIDs) == 1 && m.UIDs[0].Count == 1
	return m, nil
}

// whySingle says what keeps the ranges u and g from being mapped; "" if nothing.
func whySingle(u, g []IDMap) string {
	if len(u) == 0 || len(g) == 0 {
		return "the user has no lines in /etc/subuid and /etc/subgid"
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := launch.LookHelper(name)
		if err != nil {
			return name + " is not installed"
		}
		if why := HelperProblem(path); why != "" {
			return name + " " + why
		}
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && n == 1 {
		return "no_new_privs keeps newuidmap from working"
	}
	return ""
}

// HelperProblem says what keeps the helper at path from working; "" if nothing.
func HelperProblem(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "cannot be looked at: " + err.Error()
	}
	if n, err := unix.Getxattr(path, "security.capability", nil); st.Mode()&os.ModeSetuid == 0 && (err != nil || n == 0) {
		return "is neither set-uid nor has capabilities"
	}
	return ""
}

// Subordinate returns how many ids a file, /etc/subuid or /etc/subgid, gives to uid.
func Subordinate(file string, uid int) int {
	names := []string{strconv.Itoa(uid)}
	if n := userName("/etc/passwd", uid); n != "" {
		names = append(names, n)
	}
	ranges, err := subordinate(file, names)
	if err != nil {
		return 0
	}
	sum := 0
	for _, r := range ranges {
		sum += int(r.Count)
	}
	return sum
}

// FreeID returns the first id above all that these files give to anybody, and above
// those that useradd gives to people.
func FreeID(files ...string) int {
	free := 100000
	for _, file := range files {
		ranges, _ := subordinate(file, nil) // a file that cannot be read gives nothing
		for _, r := range ranges {
			free = max(free, int(r.Outside)+int(r.Count))
		}
	}
	return free
}

func appendRanges(m, ranges []IDMap) []IDMap {
	next := m[len(m)-1].Inside + m[len(m)-1].Count
	for _, r := range ranges {
		if next+r.Count < next { // beyond 32 bits
			break
		}
		m = append(m, IDMap{next, r.Outside, r.Count})
		next += r.Count
	}
	return m
}

// subordinate returns the ranges that a file of the form name:first:count gives
// to one of names, or to anybody if there are none. A line that makes no sense is
// nobody's.
func subordinate(path string, names []string) ([]IDMap, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the subordinate ids: %w", err)
	}
	defer f.Close()
	var ranges []IDMap
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(fields) != 3 {
			continue
		}
		if len(names) > 0 && !slices.Contains(names, fields[0]) {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			ranges = append(ranges, IDMap{0, uint32(first), uint32(count)})
		}
	}
	return ranges, nil
}

// userName finds the name of uid in a passwd file; "" if it has none.
func userName(path string, uid int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Split(s.Text(), ":")
		if len(fields) > 2 && fields[2] == strconv.Itoa(uid) {
			return fields[0]
		}
	}
	return ""
}

// Ranges returns the ranges that a file, /etc/subuid or /etc/subgid, gives to the
// user of that name, in the file's order: Outside and Count.
func Ranges(file, name string) ([]IDMap, error) { return subordinate(file, []string{name}) }

// Name is the name of the user uid in /etc/passwd; "" if he has none.
func Name(uid int) string { return userName("/etc/passwd", uid) }
