package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
)

// puller is what pull needs of the service.
type puller interface {
	Pull(ctx context.Context, req pull.Request) ([]pull.Result, error)
}

type pullOptions struct {
	refs       []string
	allTags    bool
	quiet      bool
	noName     bool // it is run's pull: Docker's prints no name
	policy     string
	platform   string
	os, arch   string
	variant    string
	retry      int
	retryDelay string
	registry   engine.PullerOptions
	tlsVerify  bool
	names      func(typed string) ([]oci.Reference, error) // what may be meant
	pulled     func(pull.Result)                           // notes that an image was pulled; may be nil
}

// NewPull makes "pull", "image pull".
func NewPull(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o pullOptions
	var keys []string
	var credsFD int
	var trust bool
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST] [NAME[:TAG|@DIGEST]...]",
		Short:             "Fetch images from a registry",
		Example:           "  cais pull debian\n  cais pull --platform linux/arm64 quay.io/podman/stable:latest",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !trust {
				return ui.Later("pull --disable-content-trust=false (Docker's content trust, which Docker has given up)", "Let policy.json ask for signatures, see containers-policy.json(5).")
			}
			if len(keys) > 0 {
				return ui.Later("pull --decryption-key", "'skopeo copy --decryption-key' to 'containers-storage:' decrypts on the way.")
			}
			if cmd.Flags().Changed("retry") || cmd.Flags().Changed("retry-delay") {
				return ui.Later("pull --retry: cais tries again by itself; setting how often", "Leave it out.")
			}
			o.refs, o.names = args, e.PullNames
			if credsFD > 2 { // a command that needs the image began this one
				if err := readCreds(&o.registry, credsFD); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("tls-verify") {
				o.registry.TLSVerify = &o.tlsVerify
			}
			if o.platform == "" {
				o.platform = e.Getenv("DOCKER_DEFAULT_PLATFORM")
			}
			reqs, err := o.requests() // refused before anything is opened
			if err != nil {
				return err
			}
			if len(reqs) > 1 || o.allTags { // what is up to date must be said once
				if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
					return ended(code, err)
				}
			}
			p, end, err := e.Puller(o.registry)
			if err != nil {
				return err
			}
			o.pulled = func(r pull.Result) {
				e.Note(imageEvent("pull", r.Ref.Familiar(), r.Ref.FamiliarName(), labelsOf(cmd.Context(), e, r.ID)))
			}
			err = errors.Join(pullAll(cmd.Context(), s, p, o, reqs), end())
			if errors.Is(err, engine.ErrOutside) { // there is something to unpack
				code, _, err := e.EnterUserNS(cmd.Context())
				return ended(code, err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&trust, "disable-content-trust", true, "Skip Docker's content trust")
	_ = f.MarkHidden("disable-content-trust")
	f.BoolVarP(&o.allTags, "all-tags", "a", false, "Fetch all tags of the repository")
	f.StringVar(&o.platform, "platform", "", "Fetch the image for `OS[/ARCH[/VARIANT]]`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print the image's name only")
	f.StringVar(&o.arch, "arch", "", "Fetch the image for this `architecture`")
	f.StringVar(&o.os, "os", "", "Fetch the image for this operating `system`")
	f.StringVar(&o.variant, "variant", "", "Fetch the image for this `variant` of the architecture")
	f.StringVar(&o.policy, "policy", "always", "When to ask the registry: always, missing, newer, never")
	f.StringSliceVar(&keys, "decryption-key", nil, "`Key` to decrypt the image")
	f.IntVar(&o.retry, "retry", 3, "How often to try again")
	f.StringVar(&o.retryDelay, "retry-delay", "", "How long to wait before trying again")
	f.IntVar(&credsFD, "creds-fd", -1, "Read the credentials from this descriptor")
	f.BoolVar(&o.noName, "no-name", false, "Do not print the image's name")
	_, _ = f.MarkHidden("creds-fd"), f.MarkHidden("no-name")
	registryFlags(f, &o.registry, &o.tlsVerify)
	storeFlags(f, &o.registry)
	_ = cmd.RegisterFlagCompletionFunc("policy", complete.Words("always", "missing", "newer", "never"))
	return cmd
}

// readCreds reads USER:PASSWORD from a descriptor.
func readCreds(o *engine.PullerOptions, fd int) error {
	f := os.NewFile(uintptr(fd), "creds")
	if f == nil {
		return errors.New("--creds-fd: no such descriptor")
	}
	data := make([]byte, 64<<10)
	n, err := f.ReadAt(data, 0)
	if err != nil && err != io.EOF {
		return errors.Join(err, f.Close())
	}
	o.Creds = string(data[:n])
	return f.Close()
}

// registryFlags are Podman's flags of every command that speaks to a registry.
func registryFlags(f *pflag.FlagSet, o *engine.PullerOptions, tlsVerify *bool) {
	f.StringVar(&o.AuthFile, "authfile", "", "Read credentials from this `file` only")
	f.StringVar(&o.CertDir, "cert-dir", "", "Read certificates and keys from this `directory`")
	f.StringVar(&o.Creds, "creds", "", "Log in as `USER:PASSWORD`")
	f.BoolVar(tlsVerify, "tls-verify", true, "Demand TLS with a certificate that can be verified")
}

// storeFlags are the flags of the commands that unpack layers.
func storeFlags(f *pflag.FlagSet, o *engine.PullerOptions) {
	f.BoolVar(&o.Unlimited, "unlimited", false, "Take layers that unpack to absurd sizes, too")
	f.BoolVar(&o.NoSync, "no-sync", false, "Do not wait for the disk: a power cut may cost the image")
}

// ended is how a command ends that has run in the user's namespace.
func ended(code int, err error) error {
	if err != nil {
		return err
	}
	if code != 0 {
		return &ui.ExitError{Code: code}
	}
	return nil
}

// requests are what the command line asks for.
func (o pullOptions) requests() ([]pull.Request, error) {
	policy, err := pull.ParsePolicy(o.policy, pull.Always)
	if err != nil {
		return nil, ui.Exit(ui.CodeUsage, err)
	}
	platform, err := o.wanted()
	if err != nil {
		return nil, err
	}
	var reqs []pull.Request
	for _, typed := range o.refs {
		refs, err := o.names(typed)
		if err != nil {
			return nil, err
		}
		if o.allTags && (refs[0].Tag != "" || refs[0].Digest != "") {
			return nil, errors.New("tag can't be used with --all-tags/-a")
		}
		reqs = append(reqs, pull.Request{Ref: refs[0], Or: refs[1:], Platform: platform, Policy: policy, AllTags: o.allTags})
	}
	return reqs, nil
}

// wanted is the platform that was asked for; nil if none was.
func (o pullOptions) wanted() (*oci.Platform, error) {
	if o.platform == "" && o.os == "" && o.arch == "" && o.variant == "" {
		return nil, nil
	}
	p := oci.HostPlatform()
	if o.platform != "" {
		if o.os != "" || o.arch != "" || o.variant != "" {
			return nil, ui.Exit(ui.CodeUsage, errors.New("--platform cannot be used with --os, --arch or --variant"))
		}
		var err error
		p, err = oci.ParsePlatform(o.platform, p)
		return &p, err
	}
	if o.os != "" {
		p.OS = o.os
	}
	if o.arch != "" {
		p.Architecture, p.Variant = o.arch, ""
	}
	if o.variant != "" {
		p.Variant = o.variant
	}
	p = p.Normalize()
	return &p, nil
}

// pullAll fetches one after the other: each uses the whole line already. Lines
// that scripts read go to Out, progress to Err.
func pullAll(ctx context.Context, s ui.Streams, p puller, o pullOptions, reqs []pull.Request) error {
	for _, req := range reqs {
		progress := ui.NewProgress(s)
		headed := "" // the image whose heading was printed last
		defaulted := o.quiet || o.allTags || req.Ref.Tag != "" || req.Ref.Digest != ""
		defaultTag := func() {
			if !defaulted {
				fmt.Fprintln(s.Err, "Using default tag: latest")
				defaulted = true
			}
		}
		head := func(ref oci.Reference) {
			if o.quiet || headed == ref.String() {
				return
			}
			defaultTag()
			headed = ref.String()
			fmt.Fprintln(s.Err, pullingFrom(ref))
		}
		if !o.quiet {
			req.Events = func(ev pull.Event) {
				if ev.Kind != pull.Pulling {
					progress.Pull(ev)
					return
				}
				progress.Close() // what is drawn stays above
				head(ev.Ref)
			}
		}
		results, err := p.Pull(ctx, req)
		progress.Close()
		for _, r := range results {
			if r.Digest != "" && o.pulled != nil {
				o.pulled(r)
			}
			if r.Digest != "" && !o.allTags { // it was asked for, though nothing came
				head(r.Ref)
			}
			if r.Warning != nil {
				fmt.Fprintln(s.Err, "WARNING: the registry was not asked, what is here is used:", r.Warning)
			}
			if !o.quiet && !o.allTags {
				if r.Digest != "" {
					fmt.Fprintln(s.Out, "Digest:", r.Digest)
				}
				fmt.Fprintln(s.Out, r.Status())
			}
			if !o.allTags {
				if !o.noName {
					fmt.Fprintln(s.Out, r.Ref.String())
				}
			} else if !o.quiet {
				fmt.Fprintln(s.Err, r.Status())
			}
		}
		if errors.Is(err, engine.ErrOutside) { // it is all said again
			return err
		}
		if err != nil {
			defaultTag()
			return err
		}
		if o.allTags {
			fmt.Fprintln(s.Out, req.Ref.Name())
		}
	}
	return nil
}

// pullingFrom is Docker's line at the beginning of an image.
func pullingFrom(ref oci.Reference) string {
	if ref.Digest != "" {
		return ref.Digest + ": Pulling from " + ref.Path
	}
	return ref.Tag + ": Pulling from " + ref.Path
}
