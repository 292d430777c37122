package system

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

type loginOptions struct {
	server         string
	user, password string
	stdin          bool
	getLogin       bool
	verbose        bool
	registry       engine.PullerOptions
	tlsVerify      bool
}

// NewLogin makes "login".
func NewLogin(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o loginOptions
	var secret, compat string
	cmd := &cobra.Command{
		Use:               "login [OPTIONS] [SERVER]",
		Short:             "Log in to a registry, which is Docker Hub if none is named",
		Example:           "  cais login registry.example.com\n  echo $TOKEN | cais login -u me --password-stdin ghcr.io",
		Args:              ui.MaxArgs(1),
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			if secret != "" {
				return ui.Later("login --secret", "Give the password on stdin: --password-stdin.")
			}
			f := cmd.Flags()
			if f.Changed("tls-verify") {
				o.registry.TLSVerify = &o.tlsVerify
			}
			if len(args) > 0 {
				o.server = args[0]
			}
			if compat != "" {
				if o.registry.AuthFile != "" {
					return ui.Exit(ui.CodeUsage, errors.New("--authfile and --compat-auth-file are mutually exclusive"))
				}
				o.registry.AuthFile = compat
			}
			switch {
			case f.Changed("password") && o.password == "" && !o.stdin:
				return errors.New("password is empty")
			case f.Changed("password") && o.password != "-":
				fmt.Fprintln(s.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
				if o.stdin {
					return errors.New("--password and --password-stdin are mutually exclusive")
				}
			case o.password == "-":
				o.password, o.stdin = "", true
			}
			if o.stdin {
				if o.user == "" {
					return errors.New("the --password-stdin option requires --username to be set")
				}
				var err error
				if o.password, err = readPassword(s.In); err != nil {
					return err
				}
			}
			return login(cmd.Context(), e, s, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.user, "username", "u", "", "Username")
	f.StringVarP(&o.password, "password", "p", "", "Password, or - for stdin; others on this machine can see it")
	f.BoolVar(&o.stdin, "password-stdin", false, "Take the password from stdin")
	f.BoolVar(&o.getLogin, "get-login", false, "Print who is logged in")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "Say where the credentials are kept")
	f.StringVar(&secret, "secret", "", "Take the password from this `secret`")
	f.StringVar(&compat, "compat-auth-file", "", "Write Docker's configuration `file`; it is what --authfile does, too")
	f.StringVar(&o.registry.AuthFile, "authfile", "", "Keep credentials in this `file`")
	f.StringVar(&o.registry.CertDir, "cert-dir", "", "Read certificates and keys from this `directory`")
	f.BoolVar(&o.tlsVerify, "tls-verify", true, "Demand TLS with a certificate that can be verified")
	return cmd
}

// maxPassword bounds what is read; tokens are long, but not that long.
const maxPassword = 64 << 10

// readPassword reads all of stdin but the newline at its end.
func readPassword(in io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxPassword))
	if err != nil {
		return "", err
	}
	p := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if p == "" {
		return "", errors.New("password is empty")
	}
	return p, nil
}

func login(ctx context.Context, e *engine.Engine, s ui.Streams, o loginOptions) error {
	host, key, err := config.Server(o.server)
	if err != nil {
		return err
	}
	source, err := e.Credentials(o.registry)
	if err != nil {
		return err
	}
	if o.getLogin {
		return getLogin(ctx, s, source, host)
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return err
	}
	defer client.Close()
	known, err := stored(ctx, source, host)
	if err != nil && o.user == "" && o.password == "" {
		return err
	}
	if o.user == "" && o.password == "" && !known.Anonymous() {
		fmt.Fprintf(s.Out, "Authenticating with existing credentials... [Username: %s]\n", known.Username)
		err := client.Login(ctx, host, known)
		if err == nil {
			fmt.Fprintln(s.Out, "\nLogin Succeeded")
			return nil
		}
		if errs.KindOf(err) != errs.Denied || !s.InTerminal() {
			return err
		}
		fmt.Fprintf(s.Err, "Login did not succeed, error: %v\n", err)
	}
	if o.user == "" || o.password == "" {
		if !s.InTerminal() {
			return errors.New("cannot perform an interactive login from a non-TTY device")
		}
		if err := prompt(ctx, s, &o, known.Username); err != nil {
			return err
		}
	}
	creds := config.Credentials{Username: o.user, Password: o.password, Source: "login"}
	if err := client.Login(ctx, host, creds); err != nil {
		return err
	}
	file := e.AuthFile(source)
	where, err := file.Set(ctx, host, key, creds)
	if err != nil {
		return fmt.Errorf("save the credentials: %w", err)
	}
	if where.Path != "" {
		fmt.Fprintf(s.Err, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n", where.Path)
	}
	if o.verbose {
		fmt.Fprintln(s.Out, "Used: ", file.Path)
	}
	fmt.Fprintln(s.Out, "Login Succeeded")
	return nil
}

// stored are the credentials that there are for a registry.
func stored(ctx context.Context, source config.AuthSource, host string) (config.Credentials, error) {
	return source.Find(ctx, host+"/x")
}

func getLogin(ctx context.Context, s ui.Streams, source config.AuthSource, host string) error {
	c, err := stored(ctx, source, host)
	if err != nil {
		return err
	}
	if c.Anonymous() {
		return errs.New(errs.NotFound, "not logged into "+host)
	}
	fmt.Fprintln(s.Out, c.Username)
	return nil
}

// prompt asks on the terminal for what is missing.
func prompt(ctx context.Context, s ui.Streams, o *loginOptions, user string) error {
	in := bufio.NewReader(s.In)
	ask := func(question string) (string, error) {
		fmt.Fprint(s.Out, question)
		return ui.Answer(ctx, s, in)
	}
	var err error
	if o.user == "" {
		question := "Username: "
		if user != "" {
			question = "Username (" + user + "): "
		}
		if o.user, err = ask(question); err != nil {
			return err
		}
		if o.user == "" {
			o.user = user
		}
		if o.user == "" {
			return errors.New("username is empty")
		}
	}
	if o.password == "" {
		restore, err := sys.NoEcho(int(s.InFile().Fd()))
		if err != nil {
			return err
		}
		o.password, err = ask("Password: ")
		if ctx.Err() == nil {
			fmt.Fprintln(s.Out) // the one that was typed is not shown
		}
		if err := errors.Join(err, restore()); err != nil {
			return err
		}
		if o.password == "" {
			return errors.New("password is empty")
		}
	}
	return nil
}

// NewLogout makes "logout".
func NewLogout(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o engine.PullerOptions
	var all bool
	var compat string
	cmd := &cobra.Command{
		Use:               "logout [OPTIONS] [SERVER]",
		Short:             "Forget the credentials of a registry, which is Docker Hub if none is named",
		ValidArgsFunction: complete.None,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MaxArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if compat != "" {
				o.AuthFile = compat
			}
			source, err := e.Credentials(o)
			if err != nil {
				return err
			}
			file := e.AuthFile(source)
			if all {
				if err := file.EraseAll(cmd.Context()); err != nil {
					return err
				}
				fmt.Fprintln(s.Out, "Removed login credentials for all registries")
				return nil
			}
			typed := ""
			if len(args) > 0 {
				typed = args[0]
			}
			return logout(cmd.Context(), s, source, file, typed)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Forget the credentials of all registries")
	f.StringVar(&o.AuthFile, "authfile", "", "Forget what is in this `file`")
	f.StringVar(&compat, "compat-auth-file", "", "Forget what is in this `file`, too")
	_ = f.MarkHidden("compat-auth-file")
	return cmd
}

func logout(ctx context.Context, s ui.Streams, source config.AuthSource, file config.AuthFile, typed string) error {
	host, key, err := config.Server(typed)
	if err != nil {
		return err
	}
	if _, err := file.Erase(ctx, host, key); err != nil {
		return err
	}
	// Docker says so of what it had none of, too; the Hub is its URL.
	fmt.Fprintf(s.Out, "Removing login credentials for %s\n", key)
	if left, err := stored(ctx, source, host); err == nil && !left.Anonymous() {
		fmt.Fprintf(s.Err, "WARNING! Credentials for %s are still in %s.\n", host, left.Source)
	}
	return nil
}
