package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/signature"
)

// allow is the policy's word on what verify can check later.
func allow(p *config.Policy, transport, scope string) error {
	if transport == "docker" {
		_, verifiable, err := p.Signatures(os.DirFS("/"), transport, scope)
		if err != nil || verifiable {
			return err
		}
	}
	return p.Check(transport, scope)
}

// AllowFile is the policy's word on an archive or a directory, which no signature
// goes with.
func (e *Engine) AllowFile(transport, path string) error {
	env, err := e.registryEnv()
	if err != nil {
		return err
	}
	policy, err := config.ReadPolicy(env, os.DirFS("/"))
	if err != nil {
		return err
	}
	if path, err = absolute(path); err != nil {
		return err
	}
	return policy.Check(transport, path)
}

// Verify checks that the policy allows an image in a registry, and that it is signed
// as that wants it: every requirement, by a signature of one of the digests.
func (e *Engine) Verify(ctx context.Context, c *registry.Client, p *config.Policy, ref oci.Reference, digests []string) error {
	wanted, verifiable, err := p.Signatures(os.DirFS("/"), "docker", ref.String())
	if err != nil {
		return err
	}
	if !verifiable {
		return p.Check("docker", ref.String())
	}
	if len(wanted) == 0 {
		return nil
	}
	var found []signed
	if slices.ContainsFunc(wanted, func(w config.Signed) bool { return !w.GPG }) {
		if found, err = signatures(ctx, c, ref, digests); err != nil {
			return err
		}
	}
	for _, w := range wanted {
		hint := "See containers-policy.json(5); 'cosign verify' tells what signatures there are."
		if w.GPG {
			hint = "See containers-policy.json(5), and containers-registries.d(5) for where signatures are looked for."
			err = e.signedBy(ctx, c, w, ref, digests)
		} else {
			err = satisfied(w, found, ref)
		}
		if err != nil {
			return errs.WithHint(errs.E("", errs.Denied, fmt.Errorf("policy does not allow %s: no signature that it wants: %w", ref, err)), hint)
		}
	}
	return nil
}

// signedBy has a program of its own look for a signature made with GPG.
func (e *Engine) signedBy(ctx context.Context, c *registry.Client, w config.Signed, ref oci.Reference, digests []string) error {
	identity, err := identityOf(w)
	if err != nil {
		return err
	}
	env, err := e.registryEnv()
	if err != nil {
		return err
	}
	certs, err := c.Certs(ref.Domain) // who runs a registry often runs the server with its signatures, too
	if err != nil {
		return err
	}
	req := signature.Request{Ref: ref.String(), Digests: digests, Keyrings: w.Keys, Identity: identity, CAs: certs.CAs}
	req.ConfigDir, req.Fallback = config.SignaturePlaces(env, os.DirFS("/"))
	doc, err := json.Marshal(req)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(self), signature.Program))
	cmd.Stdin = bytes.NewReader(doc)
	why, err := cmd.Output()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s, which would check it, is not installed beside %s", signature.Program, self)
	}
	if len(why) > 0 {
		return errors.New(strings.TrimSpace(string(why)))
	}
	return err
}

func identityOf(w config.Signed) (identity signature.Identity, err error) {
	if len(w.Identity) > 0 {
		if err := json.Unmarshal(w.Identity, &identity); err != nil {
			return identity, fmt.Errorf("the policy's signedIdentity: %w", err)
		}
	}
	return identity, nil
}

// signed is a signature that was found.
type signed struct {
	digest, signature string
	payload           []byte
}

// maxSignatures bounds what a registry can make us look at.
const maxSignatures = 100

// signatures gets what cosign left in the repository.
func signatures(ctx context.Context, c *registry.Client, ref oci.Reference, digests []string) ([]signed, error) {
	var all []signed
	for _, digest := range digests {
		at := ref.WithTag(signature.Tag(digest))
		at.Digest = ""
		doc, err := c.Manifest(ctx, at)
		if errs.KindOf(err) == errs.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get the signatures: %w", err)
		}
		m, _, err := oci.ParseManifest(doc.Data, doc.MediaType)
		if err != nil || m == nil {
			return nil, errors.Join(errs.New(errs.Invalid, "the signatures are no manifest"), err)
		}
		for _, l := range m.Layers[:min(len(m.Layers), maxSignatures)] {
			if l.MediaType != signature.MediaType || l.Size > signature.MaxPayload {
				continue
			}
			payload, err := blob(ctx, c, at, l)
			if err != nil {
				return nil, fmt.Errorf("get a signature: %w", err)
			}
			all = append(all, signed{digest, l.Annotations[signature.Annotation], payload})
		}
	}
	return all, nil
}

func blob(ctx context.Context, c *registry.Client, ref oci.Reference, d oci.Descriptor) ([]byte, error) {
	r, err := c.Blob(ctx, ref, d, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, signature.MaxPayload))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if got := oci.Digest(data); got != d.Digest {
		return nil, &oci.DigestError{What: "signature", Want: d.Digest, Got: got, Bytes: int64(len(data))}
	}
	return data, nil
}

// satisfied finds one signature that meets a requirement; else it says why none
// does.
func satisfied(w config.Signed, found []signed, ref oci.Reference) error {
	var keys signature.Keys
	for _, text := range w.Keys {
		k, err := signature.ParseKeys(text)
		if err != nil {
			return fmt.Errorf("the policy's key: %w", err)
		}
		keys = slices.Concat(keys, k)
	}
	identity, err := identityOf(w)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return errors.New("it is not signed")
	}
	var failed error
	for _, s := range found {
		err := keys.Verify(s.payload, s.signature, s.digest, ref, identity)
		if err == nil {
			return nil
		}
		failed = err
	}
	return failed
}
