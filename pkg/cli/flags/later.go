package flags

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/spf13/pflag"
)

// later are the flags that Docker and podman have and cais does not yet. They
// are defined, so that they read as they do there, and refused by name when
// used: nothing is accepted and ignored. A type of "bool" takes no value; a
// name after a comma is its short form; "!" hides a spelling from help.
const later = `
storage-opt list a quota on the container's own layer needs project quotas
health-startup-cmd string Docker has no such checks, and these are not here yet
health-startup-interval string Docker has no such checks, and these are not here yet
health-startup-retries string Docker has no such checks, and these are not here yet
health-startup-success string Docker has no such checks, and these are not here yet
health-startup-timeout string Docker has no such checks, and these are not here yet
health-log-destination string Docker has no such checks, and these are not here yet
health-max-log-count string Docker has no such checks, and these are not here yet
health-max-log-size string Docker has no such checks, and these are not here yet
use-api-socket bool there is no API socket yet
pod string there are no pods yet
systemd string systemd is not set up inside yet
sdnotify string systemd is not told yet
tz string set TZ with --env
env-host bool name the variables with --env
env-merge list name the variables with --env
http-proxy bool name the variables with --env
image-volume string image volumes are anonymous volumes
read-only-tmpfs bool name the directories with --tmpfs
requires list there are no dependencies between containers yet
rootfs bool it needs an image for now
passwd bool the image's file is used as it is
passwd-entry string the image's file is used as it is
group-entry string the image's file is used as it is
hostuser list the image's file is used as it is
cgroup-conf list the limits' own flags are there
preserve-fds string only stdin, stdout and stderr are handed on
preserve-fd list only stdin, stdout and stderr are handed on
pidfile string inspect shows the pid
conmon-pidfile string there is no conmon
personality string it stays the machine's
chrootdirs list it is for rootfs containers
hosts-file string /etc/hosts is written by cais
shm-size-systemd string systemd is not set up inside yet
decryption-key list encrypted images cannot be read yet
retry string pulls are retried as the registry says
retry-delay string pulls are retried as the registry says
init-path string --init brings its own
seccomp-policy string --security-opt seccomp=FILE is there
rdt-class string it needs a runtime that knows resctrl
`

// defineLater adds those flags to fs.
func defineLater(fs *pflag.FlagSet) {
	for line := range strings.Lines(strings.TrimSpace(later)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		name, short, _ := strings.Cut(f[0], ",")
		hidden := strings.HasPrefix(name, "!")
		name = strings.TrimPrefix(name, "!")
		define(fs, name, short, f[1], "Not supported yet: "+f[2], func(string) error { return nil })
		flag := fs.Lookup(name)
		flag.Hidden = hidden
		if f[1] == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
}

// usedLater returns the error for the first of those flags that was used.
func usedLater(fs *pflag.FlagSet) error {
	var err error
	fs.Visit(func(f *pflag.Flag) {
		reason, ok := strings.CutPrefix(f.Usage, "Not supported yet: ")
		if v, mine := f.Value.(*value); err == nil && ok && mine && (v.kind != "bool" || v.text != "false") {
			err = errs.New(errs.Unsupported, fmt.Sprintf("--%s is not supported yet: %s", f.Name, reason))
		}
	})
	return err
}
