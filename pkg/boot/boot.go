// Package boot has cais started after a reboot, for containers that are to run
// always: by a unit of systemd's, the system's or the user's, and by cron where
// there is no systemd.
package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
)

// Options say for whom, and what to start.
type Options struct {
	UID     int
	User    string
	Home    string
	Config  string   // XDG_CONFIG_HOME; "": ~/.config
	Command []string // the program and its global flags, absolute
	Environ []string // CAIS_ROOT and the like, that the command needs: "NAME=value"
	Systemd bool     // it runs this machine

	// Root is put before the paths of files; tests have another than "".
	Root string
	// Run runs a program with input and returns its output.
	Run func(ctx context.Context, input string, args ...string) (string, error)
}

const (
	unit = "cais-boot.service"
	mark = "# cais-boot"
)

// Run runs a program.
func Run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.String(), nil
}

// dirs are where the unit goes, and the target that wants it.
func (o Options) dirs() (units, wants string) {
	if o.UID == 0 {
		units = filepath.Join(o.Root, "/etc/systemd/system")
		return units, filepath.Join(units, "multi-user.target.wants")
	}
	config := o.Config
	if config == "" {
		config = filepath.Join(o.Home, ".config")
	}
	units = filepath.Join(o.Root, config, "systemd/user")
	return units, filepath.Join(units, "default.target.wants")
}

// Unit is the text of the unit.
func (o Options) Unit() string {
	var b strings.Builder
	b.WriteString("[Unit]\nDescription=Containers of cais that are to run always\n")
	if o.UID == 0 {
		b.WriteString("Wants=network-online.target\nAfter=network-online.target\n")
	}
	b.WriteString("\n[Service]\nType=oneshot\nRemainAfterExit=yes\nDelegate=yes\n")
	for _, e := range o.Environ {
		fmt.Fprintf(&b, "Environment=%s\n", quote(e))
	}
	fmt.Fprintf(&b, "ExecStart=%s system boot start\nExecStop=%s system boot stop\n", quoteAll(o.Command), quoteAll(o.Command))
	target := "default.target"
	if o.UID == 0 {
		target = "multi-user.target"
	}
	fmt.Fprintf(&b, "TimeoutStartSec=infinity\n\n[Install]\nWantedBy=%s\n", target)
	return b.String()
}

// quote writes a word as systemd reads it: systemd.syntax(7).
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(s) + `"`
}

func quoteAll(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, quote(w))
	}
	return strings.Join(out, " ")
}

// Enable has the containers started after each reboot. It says what it did, and
// what is left to do by somebody with more rights.
func Enable(ctx context.Context, o Options) (did string, err error) {
	if !o.Systemd {
		return o.cron(ctx, true)
	}
	units, wants := o.dirs()
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(units, unit)
	if err := atomicfile.Write(file, []byte(o.Unit()), 0o644, true); err != nil {
		return "", err
	}
	link := filepath.Join(wants, unit)
	if err := os.Symlink(strings.TrimPrefix(file, o.Root), link); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	o.reload(ctx)
	if _, err := os.Lstat(filepath.Join(o.Root, "/var/lib/systemd/linger", o.User)); o.UID != 0 && err != nil {
		if _, err := o.Run(ctx, "", "loginctl", "enable-linger"); err != nil {
			err = errs.WithHint(errs.E("have your user manager started at boot", errs.Denied, err), "Ask for: sudo loginctl enable-linger "+o.User)
			return "", errors.Join(err, remove(link), remove(file))
		}
	}
	return "wrote " + file, nil
}

// reload tells systemd; without a session it looks at its next start.
func (o Options) reload(ctx context.Context) {
	args := []string{"systemctl", "daemon-reload"}
	if o.UID != 0 {
		args = []string{"systemctl", "--user", "daemon-reload"}
	}
	_, _ = o.Run(ctx, "", args...)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Disable undoes Enable. What never was enabled is no error. Linger stays: others
// may want it.
func Disable(ctx context.Context, o Options) error {
	if !o.Systemd {
		_, err := o.cron(ctx, false)
		return err
	}
	units, wants := o.dirs()
	err := errors.Join(remove(filepath.Join(wants, unit)), remove(filepath.Join(units, unit)))
	o.reload(ctx)
	return err
}

// Enabled says whether the containers are started after a reboot.
func Enabled(ctx context.Context, o Options) bool {
	if !o.Systemd {
		table, err := o.Run(ctx, "", "crontab", "-l")
		return err == nil && strings.Contains(table, mark)
	}
	_, wants := o.dirs()
	_, err := os.Lstat(filepath.Join(wants, unit))
	return err == nil
}

// cron puts a line into the user's table, or takes it out.
func (o Options) cron(ctx context.Context, on bool) (string, error) {
	table, err := o.Run(ctx, "", "crontab", "-l")
	if errors.Is(err, exec.ErrNotFound) {
		return "", errs.WithHint(errs.New(errs.Unsupported, "there is neither systemd nor cron to start containers after a reboot"),
			"Have this run at boot: "+strings.Join(o.Command, " ")+" system boot start")
	}
	if err != nil {
		table = "" // no table yet
	}
	var lines []string
	for line := range strings.Lines(table) {
		if !strings.Contains(line, mark) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	if on {
		var words []string
		for _, w := range append(append([]string{}, o.Environ...), o.Command...) {
			words = append(words, "'"+strings.NewReplacer("'", `'\''`, "%", `\%`).Replace(w)+"'")
		}
		command := strings.Join(words, " ")
		if len(o.Environ) > 0 {
			command = "env " + command
		}
		lines = append(lines, "@reboot "+command+" system boot start "+mark)
	}
	if _, err := o.Run(ctx, strings.Join(append(lines, ""), "\n"), "crontab", "-"); err != nil {
		return "", err
	}
	return "added a line to your crontab", nil
}
