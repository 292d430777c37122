package build

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// sandbox are the flags about where RUN's commands run: podman's, and the limits
// that Docker's classic builder had.
type sandbox struct {
	volumes, devices, capAdd, capDrop, security []string
	dns, dnsSearch, dnsOptions                  []string
	limits                                      plan.Resources
}

// limitNames are the limits that build has; run has more.
func limitNames() []string {
	return []string{"memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"}
}

func (x *sandbox) define(f *pflag.FlagSet) {
	list := func(p *[]string, name, short, usage string) { f.VarP(&listValue{p}, name, short, usage) }
	list(&x.volumes, "volume", "v", "Mount a `directory` in all RUNs: HOST:CONTAINER[:OPTIONS]")
	list(&x.devices, "device", "", "Give RUN a `device`: HOST[:CONTAINER][:rwm]")
	list(&x.capAdd, "cap-add", "", "Give RUN this `capability`")
	list(&x.capDrop, "cap-drop", "", "Take this `capability` from RUN")
	list(&x.security, "security-opt", "", "Security `options` of RUN: seccomp=PROFILE or unconfined, no-new-privileges, …")
	list(&x.dns, "dns", "", "Have RUN ask this name `server` instead of the host's")
	list(&x.dnsSearch, "dns-search", "", "Have RUN search this `domain`; . for none")
	list(&x.dnsOptions, "dns-option", "", "An `option` for RUN's resolver")
	all := pflag.NewFlagSet("limits", pflag.ContinueOnError)
	flags.Limits(all, &x.limits)
	for _, name := range limitNames() {
		f.AddFlag(all.Lookup(name))
	}
	f.Var(resourceValue{all}, "resource", "A limit for RUN: `NAME=VALUE[,…]`, such as memory=1g or cpu-quota=50000")
}

// resourceValue is buildx's --resource, which has the limits in one flag.
type resourceValue struct{ limits *pflag.FlagSet }

func (resourceValue) String() string { return "" }
func (resourceValue) Type() string   { return "list" }
func (v resourceValue) Set(s string) error {
	fields, err := csvFields(s)
	if err != nil {
		return err
	}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("invalid value %s, expected NAME=VALUE", f)
		}
		known := false
		for _, n := range limitNames() {
			known = known || n == name
		}
		if !known {
			return fmt.Errorf("unknown resource %q: it is one of %s", name, strings.Join(limitNames(), ", "))
		}
		if err := v.limits.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// apply puts what the flags say into a request. A mistake is Invalid.
func (x *sandbox) apply(req *build.Request) error {
	dir, _ := os.Getwd() // a directory that is gone matters only for relative paths
	env := flags.Env{Dir: dir}
	for _, s := range x.volumes {
		if src, rest, ok := strings.Cut(s, ":"); ok && src != "" && !filepath.IsAbs(src) && strings.Contains(src, "/") {
			s = filepath.Join(dir, src) + ":" + rest
		}
		m, err := flags.Volume(s, env)
		if err != nil {
			return err
		}
		if m.Type != "bind" {
			return errs.WithHint(errs.New(errs.Unsupported, fmt.Sprintf("--volume %s: a build has directories of the host, and no volumes", s)), "Use RUN --mount=type=cache for what is to outlive the build.")
		}
		if _, err := os.Stat(m.Source); err != nil {
			return errs.E("--volume "+s, errs.NotFound, err)
		}
		m.CreateSrc = false
		req.Mounts = append(req.Mounts, m)
	}
	for _, s := range x.devices {
		d, err := flags.Device(s)
		if err != nil {
			return err
		}
		req.Devices = append(req.Devices, d)
	}
	security, err := flags.Security(x.security, env)
	if err != nil {
		return err
	}
	req.Security = security
	for _, s := range x.dns {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return invalid("IP address is not correctly formatted: %s", s)
		}
		req.DNS.Servers = append(req.DNS.Servers, a.String())
	}
	for _, s := range x.dnsSearch {
		domain, err := flags.SearchDomain(s)
		if err != nil {
			return err
		}
		req.DNS.Search = append(req.DNS.Search, domain)
	}
	req.DNS.Options = x.dnsOptions
	req.CapAdd, req.CapDrop, req.Resources = x.capAdd, x.capDrop, x.limits
	return nil
}
