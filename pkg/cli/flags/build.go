package flags

import "cais.dev/cais/pkg/run/plan"

// Volume reads one -v, SRC:DST[:OPTIONS]; paths that are not absolute begin at
// env.Dir.
func Volume(s string, env Env) (plan.Mount, error) { return parseVolume(s, env) }

// Device reads one --device, HOST[:CONTAINER][:rwm].
func Device(s string) (plan.Device, error) { return parseDevice(s) }

// Security reads all --security-opt.
func Security(opts []string, env Env) (plan.Security, error) { return parseSecurity(opts, env) }

// SearchDomain reads one --dns-search.
func SearchDomain(s string) (string, error) { return searchDomain(s) }
