// Package flags reads Docker's flags and the small languages of their values
// into what the services take.
package flags

import (
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"github.com/spf13/pflag"
)

// RunOptions are what run and create do with a container, beyond what it is.
type RunOptions struct {
	Name        string // --name; empty: one is made up
	Detach      bool
	Attach      []string // -a: stdin, stdout, stderr; empty: what the flags imply
	SigProxy    bool
	Pull        string // always, missing, never, newer
	Quiet       bool   // no progress while pulling
	Platform    string // os[/arch[/variant]], from --platform, --os, --arch, --variant, $DOCKER_DEFAULT_PLATFORM
	Replace     bool   // remove a container of that name first
	RemoveImage bool   // --rmi
	CIDFile     string

	// How the registry is spoken to, when the image must be pulled.
	AuthFile  string
	Creds     string
	TLSVerify *bool
}

// Env is what flags are read against: the caller's environment and directory.
type Env struct {
	LookupEnv func(key string) (string, bool)
	Dir       string // working directory, for relative bind sources
	Home      string // to say what an unexpanded ~ would have been
}

// RunFlags are the flags of run and create.
type RunFlags struct {
}

// Run defines the flags of run, or of create when run is false, in fs.
func Run(fs *pflag.FlagSet, run bool) *RunFlags {
	return &RunFlags{}
}

// Request returns what the flags ask for. args are what follows the flags: the
// image and the command. A mistake is Invalid, with Docker's words.
func (f *RunFlags) Request(args []string, env Env) (plan.Request, RunOptions, error) {
	return plan.Request{}, RunOptions{}, errs.New(errs.Unsupported, "flags are not written yet")
}
