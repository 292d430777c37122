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
