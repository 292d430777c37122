package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// end is one end of "image scp".
type end struct {
	user, host, port string // no host: this machine; no user: the present one
	image            string
}

// parseEnd reads [[USER@]HOST[:PORT]::][IMAGE]. A bare name is an image, as
// Podman takes it.
func parseEnd(s string) (end, error) {
	at, image, ok := strings.Cut(s, "::")
	if !ok {
		return end{image: s}, nil
	}
	e := end{image: image}
	if at == "" {
		return e, errs.New(errs.Invalid, fmt.Sprintf("%q names no machine before ::", s))
	}
	u, err := url.Parse("ssh://" + strings.TrimPrefix(at, "ssh://"))
	if err != nil || u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") {
		return e, errs.New(errs.Invalid, fmt.Sprintf("%q is not [USER@]HOST[:PORT]", at))
	}
	e.user, e.host, e.port = u.User.Username(), u.Hostname(), u.Port()
	if e.host == "localhost" && e.port == "" {
		e.host = ""
	}
	return e, nil
}

// NewScp makes "image scp".
func NewScp(e *engine.Engine, s ui.Streams) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "scp [OPTIONS] IMAGE|[USER@]HOST::IMAGE [[USER@]HOST::[NAME]]",
		Short: "Copy an image between users and machines",
		Long: "Copy an image between users of this machine, and between machines by ssh, where cais has to be\n" +
			"installed. USER@localhost is another user here: root may copy to and from all, others by sudo.",
		Example:           "  cais image scp debian server.example.com::\n  sudo cais image scp debian jane@localhost::",
		ValidArgsFunction: complete.Images(e, 1),
		Args:              ui.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseEnd(args[0])
			if err != nil {
				return err
			}
			to := end{}
			if len(args) > 1 {
				if to, err = parseEnd(args[1]); err != nil {
					return err
				}
			}
			if from.image == "" {
				return ui.Exit(ui.CodeUsage, errors.New("the source names no image"))
			}
			return scp(cmd.Context(), e, s, from, to)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print less; what load prints is printed anyway")
	return cmd
}

// scp joins a save there to a load here.
func scp(ctx context.Context, e *engine.Engine, s ui.Streams, from, to end) (err error) {
	save, err := from.command(ctx, e, "save", from.image)
	if err != nil {
		return err
	}
	load, err := to.command(ctx, e, "load")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	save.Stdout, save.Stderr = w, s.Err
	load.Stdin, load.Stdout, load.Stderr = r, io.MultiWriter(s.Out, &said), s.Err
	err = start(save)
	if err == nil {
		if err = start(load); err != nil {
			_ = r.Close()
			_ = save.Cancel()
			_ = save.Wait() // it was ended here
		}
	}
	_, _ = r.Close(), w.Close()
	if err != nil {
		return err
	}
	sent, loaded := save.Wait(), load.Wait()
	if sent != nil { // load has nothing of its own to tell then
		return failed("save", sent)
	}
	if loaded != nil {
		return failed("load", loaded)
	}
	if to.image == "" {
		return nil
	}
	_, id, ok := strings.Cut(strings.TrimSpace(said.String()), ": ")
	if !ok || strings.Contains(id, "\n") {
		return errs.New(errs.Invalid, "the image was copied, and is not one that a name can be given to")
	}
	id = strings.TrimPrefix(id, "ID: ")
	tag, err := to.command(ctx, e, "tag", id, to.image)
	if err != nil {
		return err
	}
	tag.Stderr = s.Err
	return failed("tag", tag.Run())
}

// start starts cmd. Only sudo and ssh may be missing.
func start(cmd *exec.Cmd) error {
	err := cmd.Start()
	if errors.Is(err, exec.ErrNotFound) {
		return errs.WithHint(errs.New(errs.NotFound, cmd.Args[0]+" is not installed"), "Install it; root needs neither sudo nor ssh to copy between users of this machine.")
	}
	return err
}

// failed is what a command that has told its error leaves to say.
func failed(verb string, err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return errs.New(errs.Invalid, fmt.Sprintf("%s: exit status %d", verb, exit.ExitCode()))
	}
	return err
}

// command is a command of cais at this end.
func (p end) command(ctx context.Context, e *engine.Engine, words ...string) (*exec.Cmd, error) {
	if p.host != "" {
		args := []string{"-T"}
		if p.port != "" {
			args = append(args, "-p", p.port)
		}
		at := p.host
		if p.user != "" {
			at = p.user + "@" + p.host
		}
		args = append(args, "--", at, "cais")
		for _, w := range words {
			args = append(args, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		return exec.CommandContext(ctx, "ssh", args...), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if p.user == "" || p.user == me.Username {
		return exec.CommandContext(ctx, self, append(e.GlobalFlags(), words...)...), nil
	}
	them, err := user.Lookup(p.user)
	if err != nil {
		return nil, errs.E("", errs.NotFound, err)
	}
	if me.Uid != "0" {
		return exec.CommandContext(ctx, "sudo", append([]string{"-H", "-u", p.user, "--", self}, words...)...), nil
	}
	uid, err := strconv.ParseUint(them.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(them.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, words...)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=" + them.HomeDir, "USER=" + them.Username, "LOGNAME=" + them.Username, "PATH=" + e.Getenv("PATH")}
	if dir := "/run/user/" + them.Uid; exists(dir) {
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups(them)}}
	return cmd, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// groups are a user's further groups; none if they cannot be told.
func groups(u *user.User) []uint32 {
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var list []uint32
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			list = append(list, uint32(n))
		}
	}
	return list
}
