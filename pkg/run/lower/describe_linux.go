package lower

import "strings"

// Capabilities are the capabilities by number, without CAP_.
func Capabilities() []string { return capNames() }

// MountOptions are the options of a mount that are not its file system's own.
func MountOptions() []string {
	return strings.Fields("async atime bind defaults dev diratime exec loud mand noatime nodev nodiratime noexec nomand norelatime nosuid " +
		"nosymfollow private rbind relatime rexec rnodev rnodiratime rnoexec rnosuid rnosymfollow ro rprivate rro rrw rshared rslave " +
		"rsuid runbindable rw shared silent slave strictatime suid symfollow unbindable")
}
