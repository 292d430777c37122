package plan

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Entries are the lines of passwd and group that name the container's user and
// group, of which the image's files know only the numbers: those of --passwd-entry
// and --group-entry, and with --passwd podman's. They are empty if none is wanted.
func Entries(req Request, workdir string, passwd, group []byte) (user, grp string) {
	name, group1, _ := strings.Cut(req.User, ":")
	uid, ok, err := numeric(name)
	if !ok || err != nil || req.Passwd == "false" {
		return "", ""
	}
	gid, _, _ := numeric(group1) // none, and a name, are no number: group 0, or one that is known
	if (req.Passwd == "true" || req.PasswdEntry != "") && !hasID(passwd, uid) {
		user = req.passwdEntry(strconv.Itoa(int(uid)), "container user", uid, gid, workdir)
	}
	if (req.Passwd == "true" || req.GroupEntry != "") && !hasID(group, gid) {
		line := req.GroupEntry
		if line == "" {
			line = "$GROUPNAME:x:$GID:$USERLIST"
		}
		grp = strings.NewReplacer("$GROUPNAME", fmt.Sprint(gid), "$GID", fmt.Sprint(gid), "$USERLIST", fmt.Sprint(uid)).Replace(line) + "\n"
	}
	return user, grp
}

// passwdEntry is --passwd-entry for a user, or the line that podman makes.
func (r Request) passwdEntry(name, full string, uid, gid uint32, home string) string {
	line := r.PasswdEntry
	if line == "" {
		line = "$USERNAME:*:$UID:$GID:$NAME:$HOME:/bin/sh"
	}
	if strings.ContainsAny(home, ":\n\x00") { // the image says where
		home = "/"
	}
	return strings.NewReplacer("$USERNAME", name, "$UID", fmt.Sprint(uid), "$GID", fmt.Sprint(gid), "$NAME", full, "$HOME", home).Replace(line) + "\n"
}

// hasID reports whether a passwd or group file has an entry of that number.
func hasID(file []byte, id uint32) bool {
	for line := range bytes.Lines(file) {
		f := strings.Split(string(line), ":")
		if n, ok, err := numeric(strings.TrimSpace(f[min(2, len(f)-1)])); len(f) > 2 && ok && err == nil && n == id {
			return true
		}
	}
	return false
}
