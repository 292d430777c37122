package image

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
)

// one is Docker's way to read a name.
func one(typed string) ([]oci.Reference, error) {
	ref, err := oci.Parse(typed)
	return []oci.Reference{ref}, err
}

type pullFunc func(req pull.Request) ([]pull.Result, error)

func (f pullFunc) Pull(_ context.Context, req pull.Request) ([]pull.Result, error) { return f(req) }

func TestPullSays(t *testing.T) {
	fetched := func(req pull.Request) ([]pull.Result, error) {
		req.Ref = req.Ref.WithDefaultTag()
		if req.Events != nil {
			req.Events(pull.Event{Kind: pull.Pulling, Ref: req.Ref})
			req.Events(pull.Event{Kind: pull.Preparing, Layer: "aaaaaaaaaaaa"})
			req.Events(pull.Event{Kind: pull.Complete, Layer: "aaaaaaaaaaaa"})
		}
		return []pull.Result{{Ref: req.Ref, Digest: dig, New: true}}, nil
	}
	here := func(req pull.Request) ([]pull.Result, error) {
		return []pull.Result{{Ref: req.Ref.WithDefaultTag(), Digest: dig, Warning: errors.New("no network")}}, nil
	}
	fails := func(pull.Request) ([]pull.Result, error) { return nil, errors.New("no such registry") }
	tests := []struct {
		name           string
		o              pullOptions
		p              pullFunc
		stdout, stderr string
		err            string
	}{
		{"new", pullOptions{refs: []string{"busybox"}}, fetched,
			"Digest: " + dig + "\nStatus: Downloaded newer image for busybox:latest\ndocker.io/library/busybox:latest\n",
			"Using default tag: latest\nlatest: Pulling from library/busybox\naaaaaaaaaaaa: Pulling fs layer\naaaaaaaaaaaa: Pull complete\n", ""},
		{"quiet", pullOptions{refs: []string{"busybox"}, quiet: true}, fetched, "docker.io/library/busybox:latest\n", "", ""},
		{"up to date", pullOptions{refs: []string{"quay.io/a:1"}}, here,
			"Digest: " + dig + "\nStatus: Image is up to date for quay.io/a:1\nquay.io/a:1\n",
			"1: Pulling from a\nWARNING: the registry was not asked, what is here is used: no network\n", ""},
		{"all tags", pullOptions{refs: []string{"busybox"}, allTags: true, quiet: true}, fetched, "docker.io/library/busybox\n", "", ""},
		{"failure", pullOptions{refs: []string{"a", "b"}}, fails, "", "Using default tag: latest\n", "no such registry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.names = one
			reqs, err := tt.o.requests()
			if err != nil {
				t.Fatal(err)
			}
			var out, stderr bytes.Buffer
			err = pullAll(t.Context(), ui.Streams{Out: &out, Err: &stderr}, tt.p, tt.o, reqs)
			if err == nil {
				err = errors.New("")
			}
			if out.String() != tt.stdout || stderr.String() != tt.stderr || err.Error() != tt.err {
				t.Errorf("stdout %q, stderr %q, error %q; want %q, %q, %q", out.String(), stderr.String(), err, tt.stdout, tt.stderr, tt.err)
			}
		})
	}
}

func TestPullRequests(t *testing.T) {
	tests := []struct {
		o        pullOptions
		platform string // of the request; "" is none
		err      string
	}{
		{pullOptions{refs: []string{"a"}}, "", ""},
		{pullOptions{refs: []string{"a"}, platform: "linux/aarch64"}, "linux/arm64", ""},
		{pullOptions{refs: []string{"a"}, arch: "arm", variant: "v6", os: "linux"}, "linux/arm/v6", ""},
		{pullOptions{refs: []string{"a"}, platform: "linux/arm64", arch: "arm"}, "", "--platform cannot be used with"},
		{pullOptions{refs: []string{"a"}, policy: "sometimes"}, "", `invalid pull policy "sometimes"`},
		{pullOptions{refs: []string{"a:1"}, allTags: true}, "", "tag can't be used with --all-tags/-a"},
		{pullOptions{refs: []string{"BAD"}}, "", "invalid reference format"},
		{pullOptions{refs: []string{"a"}, platform: "///"}, "", "///"},
	}
	for _, tt := range tests {
		tt.o.names = one
		reqs, err := tt.o.requests()
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: %v, want %q", tt.o, err, tt.err)
			}
			continue
		}
		var got *oci.Platform
		if err == nil {
			got = reqs[0].Platform
		}
		if err != nil || (got == nil) != (tt.platform == "") || got != nil && got.String() != tt.platform {
			t.Errorf("%+v: %v, %v; want %s", tt.o, got, err, tt.platform)
		}
	}
}

type loadFunc func(req pull.LoadRequest) ([]pull.Loaded, error)

func (f loadFunc) Load(_ context.Context, req pull.LoadRequest) ([]pull.Loaded, error) { return f(req) }

func TestLoadSaysWhatItDidBesideAFailure(t *testing.T) {
	ref, err := oci.Parse("busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	l := loadFunc(func(pull.LoadRequest) ([]pull.Loaded, error) {
		return []pull.Loaded{{Names: []oci.Reference{ref}, ID: idA}, {ID: idB}}, errors.New("the third is broken")
	})
	var out bytes.Buffer
	err = load(t.Context(), ui.Streams{Out: &out}, l, pull.LoadRequest{}, false, func(pull.Loaded) {})
	if want := "Loaded image: busybox:1\nLoaded image ID: sha256:" + idB + "\n"; out.String() != want || err == nil {
		t.Errorf("printed %q, %v; want %q and the error", out.String(), err, want)
	}
}
