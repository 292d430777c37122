package flags

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/spf13/pflag"
)

// later are the flags that Docker and podman have and cais does not yet. They
// are defined, so that they read as they do there, and refused by name when
// used: nothing is accepted and ignored.
const later = `
storage-opt list a quota on the container's own layer needs project quotas
health-startup-cmd string give the container time with --health-start-period
health-startup-interval string give the container time with --health-start-period
health-startup-retries string give the container time with --health-start-period
health-startup-success string give the container time with --health-start-period
health-startup-timeout string give the container time with --health-start-period
health-log-destination string inspect shows the last five checks
health-max-log-count string inspect shows the last five checks
health-max-log-size string inspect shows the last five checks
use-api-socket bool there is no API socket yet
pod string share a container's namespaces with --network, --ipc and --pid container:NAME
pod-id-file string share a container's namespaces with --network, --ipc and --pid container:NAME
init-ctr string run it before the others
requires list start the other container first
rootfs bool make an image of the directory: tar -C DIR -c . | cais import -
hostuser list name the container's user with --passwd-entry, or mount a file with -v FILE:/etc/passwd
cgroup-conf list the limits' own flags are there
preserve-fds string only stdin, stdout and stderr are handed on
preserve-fd list only stdin, stdout and stderr are handed on
personality string it stays the machine's: start the command with setarch
chrootdirs list it is for rootfs containers
hosts-file string mount it with -v FILE:/etc/hosts, or name hosts with --add-host
hooks-dir list use a runtime that runs hooks, with a bundle of its own: cais oci
shm-size-systemd string give --tmpfs /run:size=N
decryption-key list decrypt the image with skopeo copy first
retry string pulls are retried as the registry says
retry-delay string pulls are retried as the registry says
init-path string --init brings its own
seccomp-policy string --security-opt seccomp=FILE is there
rdt-class string it needs a runtime that knows resctrl
interface-name string name it with --network NAME:interface_name=
`

// Refuse defines flags that another engine has for a command, a line each: name, type
// and what to do instead. [Refused] is to be asked whether one was used.
func Refuse(fs *pflag.FlagSet, list string) {
	for line := range strings.Lines(strings.TrimSpace(list)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		define(fs, f[0], "", f[1], notYet+f[2], func(string) error { return nil })
		flag := fs.Lookup(f[0])
		flag.Hidden = true
		if f[1] == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
}

const notYet = "Not supported yet: "

// Refused returns the error for the first of those flags that was used.
func Refused(fs *pflag.FlagSet) error {
	var err error
	fs.Visit(func(f *pflag.Flag) {
		reason, ok := strings.CutPrefix(f.Usage, notYet)
		if v, mine := f.Value.(*value); err == nil && ok && mine && (v.kind != "bool" || v.text != "false") {
			err = errs.New(errs.Unsupported, fmt.Sprintf("--%s is not supported yet: %s", f.Name, reason))
		}
	})
	return err
}
