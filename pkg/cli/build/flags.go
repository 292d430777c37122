package build

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/units"
)

// options are build's flags as they were typed.
type options struct {
	tags, args, argFiles, labels, annotations, contexts []string
	file, target, ignoreFile                            string
	platforms                                           []string
	os, arch, variant                                   string
	noCache                                             bool
	noCacheFilter                                       []string
	pull                                                string
	pullAlways, pullNever                               bool

	network, cgroupParent string
	hosts                 []string
	ulimits               []graph.Ulimit
	shmSize               int64
	secrets, ssh, allow   []string

	outputs, cacheFrom, cacheTo []string
	push, load                  bool
	iidFile, metadataFile       string
	quiet                       bool
	progress                    string
	check                       bool
	call                        string
	attests                     []string
	provenance, sbom            string

	authFile, creds, certDir string
	tlsVerify                bool

	// podman's
	manifest, format  string
	jobs              int
	timestamp         string
	epoch             string
	rewriteTimestamp  bool
	unsetEnv          []string
	env               []string
	from              string
	logFile           string
	unsetLabels       []string
	squash, squashAll bool
	layers            bool
	sandbox           sandbox
}

// sizeValue is a flag of bytes.
type sizeValue struct{ p *int64 }

func (v sizeValue) String() string {
	if v.p == nil || *v.p == 0 {
		return ""
	}
	return fmt.Sprint(*v.p)
}
func (sizeValue) Type() string { return "bytes" }
func (v sizeValue) Set(s string) error {
	n, err := units.ParseSize(s)
	*v.p = n
	return err
}

type ulimitValue struct{ p *[]graph.Ulimit }

func (ulimitValue) String() string { return "" }
func (ulimitValue) Type() string   { return "ulimit" }
func (v ulimitValue) Set(s string) error {
	u, ok, err := flags.ParseUlimit(s)
	if ok {
		*v.p = append(*v.p, graph.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return err
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// define adds build's flags to f.
func (o *options) define(f *pflag.FlagSet) {
	list := func(p *[]string, name, short, usage string) { f.VarP(&listValue{p}, name, short, usage) }
	text := func(p *string, name, short, usage string) { f.StringVarP(p, name, short, "", usage) }

	list(&o.tags, "tag", "t", "Give the image this `name`, NAME[:TAG]")
	text(&o.file, "file", "f", "The Dockerfile's `path`, or - for stdin (default \"PATH/Dockerfile\")")
	text(&o.target, "target", "", "Build this `stage`")
	list(&o.args, "build-arg", "", "Set a build-time `variable`, NAME[=VALUE]")
	list(&o.labels, "label", "", "Give the image this `label`, NAME[=VALUE]")
	list(&o.annotations, "annotation", "", "Annotate the image: `[LEVEL:]NAME=VALUE`")
	list(&o.contexts, "build-context", "", "Another context: `NAME=VALUE`, a directory, URL, docker-image://… or oci-layout://…")
	list(&o.platforms, "platform", "", "Build for these `platforms`, OS/ARCH[/VARIANT], maybe several with commas")
	f.BoolVar(&o.noCache, "no-cache", false, "Use no earlier results")
	list(&o.noCacheFilter, "no-cache-filter", "", "Use no earlier results of these `stages`")
	f.StringVar(&o.pull, "pull", "", "Ask registries for newer base images: true, false, or podman's always, missing, never, newer")
	f.Lookup("pull").NoOptDefVal = "true"
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print the image's id alone")
	text(&o.iidFile, "iidfile", "", "Write the image's id to this `file`")
	text(&o.metadataFile, "metadata-file", "", "Write what was made, as JSON, to this `file`")
	f.StringVar(&o.progress, "progress", "auto", "How to show what happens: auto, plain, tty, quiet, rawjson, none")

	f.StringVar(&o.network, "network", "default", "The network of RUN: default, none or host")
	list(&o.hosts, "add-host", "", "A line of /etc/hosts: `HOST:IP`")
	f.Var(ulimitValue{&o.ulimits}, "ulimit", "A limit for RUN: NAME=SOFT[:HARD]")
	f.Var(sizeValue{&o.shmSize}, "shm-size", "The size of /dev/shm")
	text(&o.cgroupParent, "cgroup-parent", "", "The `cgroup` in which RUN makes its own")
	list(&o.secrets, "secret", "", "A secret for RUN --mount=type=secret: `id=NAME[,src=FILE|,env=VARIABLE]`")
	list(&o.ssh, "ssh", "", "An agent for RUN --mount=type=ssh: `default|ID[=SOCKET|KEY[,KEY]]`")
	list(&o.allow, "allow", "", "Allow what is not by default: `security.insecure`, network.host")

	list(&o.outputs, "output", "o", "What to make: a directory, - for a tar, or `type=image|registry|local|tar|oci|docker,…`")
	f.BoolVar(&o.push, "push", false, "Push the image: --output type=registry")
	f.BoolVar(&o.load, "load", false, "Put the image into the store, which is what happens anyway")
	list(&o.cacheFrom, "cache-from", "", "Use the `cache` of another build: an image's name, type=registry,ref=…, type=local,src=…")
	list(&o.cacheTo, "cache-to", "", "Keep a `cache` for other builds: type=inline, type=registry,ref=…, type=local,dest=…")
	f.BoolVar(&o.check, "check", false, "Look for mistakes in the Dockerfile, and build nothing")
	f.StringVar(&o.call, "call", "build", "What to do: build, check, outline or targets, maybe with ,format=json")
	text(&o.provenance, "provenance", "", "Provenance attestation; only false")
	text(&o.sbom, "sbom", "", "Bill of materials; only false")
	list(&o.attests, "attest", "", "Attestations; only disabled ones")

	text(&o.authFile, "authfile", "", "Read credentials from this `file`")
	text(&o.creds, "creds", "", "Use these `credentials`, USER[:PASSWORD]")
	text(&o.certDir, "cert-dir", "", "`Directory` of certificates for registries")
	f.BoolVar(&o.tlsVerify, "tls-verify", true, "Verify the registries' certificates")

	// podman's.
	list(&o.argFiles, "build-arg-file", "", "Read build-time variables from this `file`")
	text(&o.ignoreFile, "ignorefile", "", "Read this `file` instead of .dockerignore")
	text(&o.os, "os", "", "Build for this operating `system`")
	text(&o.arch, "arch", "", "Build for this `architecture`")
	text(&o.variant, "variant", "", "Build for this architecture's `variant`")
	f.BoolVar(&o.pullAlways, "pull-always", false, "The same as --pull=always")
	f.BoolVar(&o.pullNever, "pull-never", false, "The same as --pull=never")
	text(&o.manifest, "manifest", "", "Add the image to this list of images, or make it: `NAME`")
	text(&o.format, "format", "", "The manifest's `format`: oci or docker")
	f.IntVar(&o.jobs, "jobs", 0, "How many steps run at a time; 0 is as many as there are processors")
	text(&o.timestamp, "timestamp", "", "Give the image and its files this time: `SECONDS` since 1970")
	text(&o.epoch, "source-date-epoch", "", "Give the image this time: `SECONDS` since 1970")
	f.BoolVar(&o.rewriteTimestamp, "rewrite-timestamp", false, "Give files no later time than --source-date-epoch")
	text(&o.logFile, "logfile", "", "Write what happens to this `file` instead of stderr")

	for _, name := range []string{"pull-always", "pull-never", "os", "arch", "variant"} {
		f.Lookup(name).Hidden = true
	}
	list(&o.env, "env", "", "Set an environment `variable` in every stage, NAME[=VALUE]")
	list(&o.unsetEnv, "unsetenv", "", "Leave this `variable` out of the image")
	list(&o.unsetLabels, "unsetlabel", "", "Leave this `label` out of the image")
	f.BoolVar(&o.squash, "squash", false, "Make one layer of those that the build adds")
	f.BoolVar(&o.squashAll, "squash-all", false, "Make one layer of all, with those of the base image")
	f.BoolVar(&o.layers, "layers", true, "With =false: use no earlier results, and make one layer of those that the build adds")
	text(&o.from, "from", "", "Begin with this `image` instead of the first FROM's")
	o.sandbox.define(f)
	defineOthers(f)
}

// refuseAttests refuses attestations: none are made. One that is wanted only where it can
// be had (inline-only, which Docker's action for GitHub asks for by itself) is left out.
func (o *options) refuseAttests(warn func(string)) error {
	refused := errs.WithHint(errs.New(errs.Unsupported, "attestations (--attest, --provenance, --sbom) are not supported"),
		"Leave them out, or say --provenance=false --sbom=false.")
	for _, v := range []string{o.provenance, o.sbom} {
		if on, err := strconv.ParseBool(v); v != "" && (err != nil || on) {
			return refused
		}
	}
	for _, a := range o.attests {
		fields := strings.Split(a, ",")
		switch {
		case slices.Contains(fields, "disabled=true"):
		case slices.Contains(fields, "inline-only=true"):
			warn("no attestation is made: --attest " + a + " has no effect")
		default:
			return refused
		}
	}
	return nil
}

// listValue is a flag that may be repeated; each occurrence is one entry, commas
// and all.
type listValue struct{ p *[]string }

func (v *listValue) String() string {
	if v.p == nil || len(*v.p) == 0 {
		return ""
	}
	return fmt.Sprint(*v.p)
}
func (*listValue) Type() string { return "list" }
func (v *listValue) Set(s string) error {
	*v.p = append(*v.p, s)
	return nil
}

// others are flags that Docker and podman have and that do nothing here, with
// the reason: a line is "name[,short] type effect reason". The effect is
//
//	none   what it asks for is the case anyway, or it concerns a part that is not
//	       here: nothing is said
//	warn   it is said that it has no effect
//	later  it is refused, but for the value after "=" in the type
const others = `
compress bool warn there is no daemon to send the context to
rm bool=true none nothing is left of a step in any case
force-rm bool none nothing is left of a step in any case
isolation string warn there is one isolation on Linux
disable-content-trust bool=true later there is no content trust; policy.json asks for signatures
builder string none there is one builder
debug,D bool none it is cais's global flag
policy list later policy.json is read
inherit-labels bool=true later labels of the base image stay
inherit-annotations bool=true later the base image's are not taken
identity-label bool=false later there is none
userns string=host later the user's own namespace is used
userns-uid-map list later the user's own namespace is used
userns-gid-map list later the user's own namespace is used
userns-uid-map-user string later the user's own namespace is used
userns-gid-map-group string later the user's own namespace is used
group-add list later use USER user:group
cgroupns string=private later each step has its own
ipc string=private later each step has its own
pid string=private later each step has its own
uts string=private later each step has its own
runtime string later steps run without another runtime
runtime-flag list later steps run without another runtime
hooks-dir list later write RUN lines
http-proxy bool=true later proxies of the environment are handed on
retry string warn registries are asked again as they say
retry-delay string warn registries are asked again as they say
signature-policy string later policy.json is read
sign-by string later 'cosign sign' signs what was pushed
decryption-key list later decrypt the base image with skopeo copy first
cpp-flag list later run cpp first, and give its output with -f
omit-history bool=false later history is written
skip-unused-stages bool=true later stages that nobody needs are never built
all-platforms bool later name the platforms with --platform
logsplit bool=false later there is one log: --logfile
no-hosts bool=false later /etc/hosts is written, and not in the image
no-hostname bool=false later /etc/hostname is not written
stdin bool=false later RUN has no stdin: give it a heredoc or a secret
created-annotation bool later use --annotation
cache-ttl string later builder prune collects the cache
cw string later buildah mkcw makes one of an image
sbom-image-output string later let a scanner read the image
sbom-merge-strategy string later let a scanner read the image
sbom-output string later let a scanner read the image
sbom-purl-output string later let a scanner read the image
sbom-scanner-command list later let a scanner read the image
sbom-scanner-image string later let a scanner read the image
transient-mount list later use RUN --mount
transient-run-mounts bool=false later use RUN --mount
disable-compression bool=true none layers are compressed when they are pushed
os-version string later the base image's version of its system is kept
log-rusage bool=false later what steps use is not measured
rusage-logfile string later what steps use is not measured
layer-label list later only the last layer's image is kept: use --label
compat-volumes bool=false later changes below a VOLUME are kept
save-stages bool=false later stages are in the cache: build one with --target
stage-labels bool=false later stages are in the cache: build one with --target
`

type other struct {
	name, short, kind, usual, effect, reason string
}

func eachOther(do func(other)) {
	for line := range strings.Lines(strings.TrimSpace(others)) {
		w := strings.SplitN(strings.TrimSpace(line), " ", 4)
		x := other{effect: w[2], reason: w[3]}
		x.name, x.short, _ = strings.Cut(w[0], ",")
		x.kind, x.usual, _ = strings.Cut(w[1], "=")
		do(x)
	}
}

// otherValue keeps what was given, to be looked at when all flags are read.
type otherValue struct {
	kind, text string
}

func (v *otherValue) String() string { return v.text }
func (v *otherValue) Type() string   { return v.kind }
func (v *otherValue) Set(s string) error {
	v.text = s
	return nil
}

func defineOthers(f *pflag.FlagSet) {
	eachOther(func(x other) {
		usage := map[string]string{"none": "Accepted: ", "warn": "Without effect: ", "later": "Not supported yet: "}[x.effect] + x.reason
		if x.effect == "later" && x.usual != "" {
			usage = "Only " + x.usual + ": " + x.reason
		}
		f.VarP(&otherValue{kind: x.kind}, x.name, x.short, usage)
		fl := f.Lookup(x.name)
		fl.Hidden = true
		if x.kind == "bool" {
			fl.NoOptDefVal = "true"
		}
	})
}

// usedOthers refuses those of the others that were used and would have had an
// effect.
func usedOthers(f *pflag.FlagSet) error {
	var err error
	eachOther(func(x other) {
		fl := f.Lookup(x.name)
		if err != nil || !fl.Changed {
			return
		}
		v := fl.Value.String()
		if x.effect == "later" && v != x.usual && !(x.kind == "bool" && x.usual == "" && v == "false") {
			err = errs.New(errs.Unsupported, fmt.Sprintf("--%s is not supported by build: %s", x.name, x.reason))
		}
	})
	return err
}
