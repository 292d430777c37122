// Package secret holds the commands about secrets, spelled as Docker's of a swarm
// and Podman's.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/secret"
)

// driver is the only one: files of this machine.
const driver = "file"

func open(e *engine.Engine) (secret.Store, error) {
	p, err := e.Paths()
	if err == nil {
		err = e.Prepare()
	}
	return secret.In(p.Root), err
}

// NewCreate makes "secret create".
func NewCreate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var labels []string
	var env, replace, ignore bool
	var by string
	cmd := &cobra.Command{
		Use:     "create [OPTIONS] SECRET FILE|-",
		Short:   "Keep a secret, from a file or from stdin, for containers to use",
		Example: "  printf hidden | cais secret create password -\n  cais run --rm --secret password busybox cat /run/secrets/password",
		Args:    ui.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if by != driver {
				return errs.WithHint(errs.New(errs.Unsupported, "invalid driver "+by), "Leave --driver out: secrets are files.")
			}
			data, err := read(e, s.In, args[1], env)
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			sec := secret.Secret{ID: container.NewID()[:25], Name: args[0], Created: now, Updated: now, Data: data}
			if sec.Labels, err = flags.KeyValues("label", labels); err != nil {
				return err
			}
			store, err := open(e)
			if err != nil {
				return err
			}
			if err := store.Create(cmd.Context(), &sec, replace, ignore); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, sec.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&by, "driver", "d", driver, "Where it is kept: file")
	f.StringArrayVarP(&labels, "label", "l", nil, "Set metadata: `KEY=VALUE`")
	f.BoolVar(&env, "env", false, "FILE is a variable of the environment, whose value is the secret")
	f.BoolVar(&replace, "replace", false, "Give a secret that is there this content")
	f.BoolVar(&ignore, "ignore", false, "Do not mind if it is there already")
	cmd.MarkFlagsMutuallyExclusive("replace", "ignore")
	return cmd
}

// read returns the secret that from names. One byte too many is read, to be refused.
func read(e *engine.Engine, in io.Reader, from string, env bool) ([]byte, error) {
	if env {
		v := e.Getenv(from)
		if v == "" {
			return nil, errs.New(errs.Invalid, "cannot create store secret data: environment variable "+from+" is not set, or empty")
		}
		return []byte(v), nil
	}
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("read the secret: %w", err)
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, secret.MaxSize))
}

// shown is what inspect prints: Docker's keys, with Podman's driver.
type shown struct {
	ID         string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Spec       spec
	SecretData string `json:",omitempty"`
}

type spec struct {
	Name   string
	Driver struct {
		Name    string
		Options map[string]string
	}
	Labels map[string]string
}

// NewInspect makes "secret inspect".
func NewInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	var pretty, data bool
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] SECRET [SECRET...]",
		Short:             "Show what is known of secrets, but for what they are",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Secrets(e, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			if pretty {
				format = "ID:              {{.ID}}\nName:            {{.Spec.Name}}\nDriver:          {{.Spec.Driver.Name}}\n" +
					"Created at:      {{.CreatedAt}}\nUpdated at:      {{.UpdatedAt}}"
			}
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) { return Inspect(e, ref, data) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	f.BoolVar(&pretty, "pretty", false, "Print it for people")
	f.BoolVar(&data, "showsecret", false, "Show the secret itself, too")
	cmd.MarkFlagsMutuallyExclusive("pretty", "format")
	return cmd
}

// Inspect returns what is known of the secret that ref means; what it is only with data.
func Inspect(e *engine.Engine, ref string, data bool) (any, error) {
	store, err := open(e)
	if err != nil {
		return nil, err
	}
	sec, err := store.Find(ref)
	if err != nil {
		return nil, err
	}
	v := &shown{ID: sec.ID, CreatedAt: sec.Created, UpdatedAt: sec.Updated}
	v.Spec.Name, v.Spec.Labels, v.Spec.Driver.Name = sec.Name, sec.Labels, driver
	if data {
		v.SecretData = string(sec.Data)
	}
	return v, nil
}

// NewExists makes "secret exists", which answers with its exit code.
func NewExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("SECRET", complete.Secrets(e, 1), func(_ context.Context, ref string) error {
		store, err := open(e)
		if err == nil {
			_, err = store.Find(ref)
		}
		return err
	})
}

// NewRm makes "secret rm".
func NewRm(e *engine.Engine, s ui.Streams) *cobra.Command {
	var all, ignore bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] SECRET [SECRET...]",
		Short: "Remove secrets; containers that have one keep it",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		ValidArgsFunction: complete.Secrets(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := open(e)
			if err != nil {
				return err
			}
			if all {
				list, err := store.List()
				if err != nil {
					return err
				}
				for _, sec := range list {
					args = append(args, sec.ID)
				}
			}
			var failed []error
			for _, ref := range args {
				id, err := store.Remove(cmd.Context(), ref)
				switch {
				case err == nil:
					fmt.Fprintln(s.Out, id)
				case !ignore || errs.KindOf(err) != errs.NotFound:
					failed = append(failed, err)
				}
			}
			return errors.Join(failed...)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "All secrets")
	f.BoolVarP(&ignore, "ignore", "i", false, "Do not mind those that do not exist")
	return cmd
}
