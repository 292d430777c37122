package build

import (
	"context"
	"errors"
	"fmt"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// metadata is what finding base images needs of registries.
type metadata interface {
	Manifest(ctx context.Context, ref oci.Reference) (oci.Document, error)
	Config(ctx context.Context, ref oci.Reference, d oci.Descriptor) ([]byte, error)
}

// Local is an image that the store has.
type Local struct {
	Digest string // of its manifest
	Config oci.Image
}

// Pull says when registries are asked about base images.
type Pull string

// The ways to ask.
const (
	PullMissing Pull = "missing" // for what is not here
	PullAlways  Pull = "always"
	PullNewer   Pull = "newer" // what is here will do if they do not answer
	PullNever   Pull = "never"
)

// Bases finds base images: a [dockerfile.Resolver].
type Bases struct {
	// Local returns the image that the store has under a name in normal form; nil if it has
	// none for the platform.
	Local    func(ctx context.Context, name string, p oci.Platform) (*Local, error)
	Registry metadata
	// Layout finds an image of an OCI layout: DIR[:TAG][@DIGEST].
	Layout func(ctx context.Context, layout string, p oci.Platform) (dockerfile.Base, error)
	// Allow refuses what the policy does not allow, Verify what lacks the signatures
	// that it wants, by the digests of the index, if there is one, and the manifest.
	Allow    func(transport, scope string) error
	Verify   func(ctx context.Context, ref oci.Reference, digests []string) error
	Pull     Pull
	Progress *progress.Log
}

// Resolve finds what an image is.
func (r *Bases) Resolve(ctx context.Context, img dockerfile.Image) (base dockerfile.Base, err error) {
	if img.Layout != "" {
		step := r.Progress.Step("[internal] load metadata for oci-layout://" + img.Layout)
		defer func() { step.Done(err) }()
		return r.Layout(ctx, img.Layout, img.Platform)
	}
	ref, err := oci.Parse(img.Ref)
	if err != nil {
		return base, err
	}
	ref = ref.WithDefaultTag()
	step := r.Progress.Step("[internal] load metadata for " + ref.String())
	defer func() { step.Done(err) }()
	local, err := r.Local(ctx, ref.String(), img.Platform)
	if err != nil {
		return base, err
	}
	here := func() dockerfile.Base { return dockerfile.Base{Digest: local.Digest, Config: local.Config} }
	switch {
	case local != nil && (r.Pull == PullMissing || r.Pull == PullNever || r.Pull == ""):
		return here(), nil
	case r.Pull == PullNever:
		return base, errs.New(errs.NotFound, "not found: the image is not here, and --pull=never")
	}
	base, err = r.remote(ctx, ref, img.Platform)
	if err != nil && local != nil && r.Pull == PullNewer && ctx.Err() == nil {
		step.Warn("the registry was not asked: " + err.Error())
		return here(), nil
	}
	if err != nil && ctx.Err() == nil { // buildkitd's words, which people look for
		err = errs.E("failed to resolve source metadata for "+ref.String(), errs.KindOf(err), err)
	}
	return base, err
}

func (r *Bases) remote(ctx context.Context, ref oci.Reference, p oci.Platform) (base dockerfile.Base, err error) {
	if err := r.Allow("docker", ref.String()); err != nil {
		return base, err
	}
	doc, err := r.Registry.Manifest(ctx, ref)
	if err != nil {
		return base, err
	}
	m, index, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return base, err
	}
	digests := []string{doc.Digest}
	if index != nil {
		i := oci.Select(index.Manifests, p)
		if i < 0 {
			return base, errs.New(errs.NotFound, fmt.Sprintf("no match for platform in manifest: %s is not there", p))
		}
		if doc, err = r.Registry.Manifest(ctx, ref.WithDigest(index.Manifests[i].Digest)); err != nil {
			return base, err
		}
		if m, _, err = oci.ParseManifest(doc.Data, doc.MediaType); err != nil {
			return base, err
		}
		if m == nil {
			return base, errs.New(errs.Invalid, "an index inside of an index")
		}
		digests = append(digests, doc.Digest)
	}
	if err := r.Verify(ctx, ref, digests); err != nil {
		return base, err
	}
	raw, err := r.Registry.Config(ctx, ref, m.Config)
	if err != nil {
		return base, err
	}
	conf, err := oci.ParseImage(raw)
	if err != nil {
		return base, err
	}
	if len(conf.RootFS.DiffIDs) != len(m.Layers) {
		return base, errors.New("its config and its manifest have different numbers of layers")
	}
	return dockerfile.Base{Digest: doc.Digest, Config: *conf}, nil
}
