package plan

import (
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Health is how a container is probed: the request's, and what it leaves open the
// image's, then Docker's defaults; nil if it is not.
func Health(req Request, img oci.Config) *oci.Healthcheck {
	h := MergeHealth(req.Health, img.Healthcheck)
	if h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil
	}
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{{&h.Interval, 30 * time.Second}, {&h.Timeout, 30 * time.Second}, {&h.StartInterval, 5 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if h.Retries == 0 {
		h.Retries = 3
	}
	return h
}

// MergeHealth is over, and what that leaves open under; nil if both are.
func MergeHealth(over, under *oci.Healthcheck) *oci.Healthcheck {
	if over == nil && under == nil {
		return nil
	}
	var h oci.Healthcheck
	if under != nil {
		h = *under
	}
	if over == nil {
		return &h
	}
	if len(over.Test) > 0 {
		h.Test = over.Test
	}
	for _, d := range [][2]*time.Duration{
		{&h.Interval, &over.Interval}, {&h.Timeout, &over.Timeout}, {&h.StartPeriod, &over.StartPeriod}, {&h.StartInterval, &over.StartInterval},
	} {
		if *d[1] != 0 {
			*d[0] = *d[1]
		}
	}
	if over.Retries != 0 {
		h.Retries = over.Retries
	}
	return &h
}

// HealthCommand is what a probe executes; nil for none.
func HealthCommand(h *oci.Healthcheck, img oci.Config) []string {
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		shell := img.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(append([]string(nil), shell...), h.Test[1])
	}
	return nil
}

func checkHealth(req Request) error {
	switch req.HealthOnFailure {
	case "", "none", "kill", "stop", "restart":
	default:
		return errs.New(errs.Invalid, "invalid --health-on-failure "+req.HealthOnFailure+": want none, kill, restart or stop")
	}
	h := req.Health
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < time.Millisecond {
			return errs.New(errs.Invalid, d.name+" in Healthcheck cannot be less than 1ms")
		}
	}
	if h.Retries < 0 {
		return errs.New(errs.Invalid, "Retries in Healthcheck cannot be negative")
	}
	return nil
}
