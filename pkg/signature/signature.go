// Package signature checks sigstore's signatures of images, as cosign makes them
// with a key: what containers-policy.json(5) calls sigstoreSigned, and what is asked
// of the program that checks GPG's, signedBy. It opens nothing. Certificates of Fulcio
// and logs of Rekor are not among it.
package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// MediaType is that of a signature's payload in a registry; Annotation holds the
// signature itself.
const (
	MediaType  = "application/vnd.dev.cosign.simplesigning.v1+json"
	Annotation = "dev.cosignproject.cosign/signature"
)

// MaxPayload is how long a payload may be, in bytes.
const MaxPayload = 1 << 20

// Tag is where a registry keeps the signatures of what has this digest.
func Tag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// Identity says which name a signature must be of. The zero value is
// matchRepoDigestOrExact.
type Identity struct {
	Type             string `json:"type"`
	DockerReference  string `json:"dockerReference"`
	DockerRepository string `json:"dockerRepository"`
	Prefix           string `json:"prefix"`
	SignedPrefix     string `json:"signedPrefix"`
}

// matches reports whether a signature of the name signed is one of ref.
func (i Identity) matches(ref oci.Reference, signed string) (bool, error) {
	got, err := oci.Parse(signed)
	if err != nil {
		return false, nil // no name that could match
	}
	exact := func(want oci.Reference) bool {
		return got.Name() == want.Name() && got.Tag == want.Tag && got.Digest == want.Digest && got.Tag+got.Digest != ""
	}
	switch i.Type {
	case "", "matchRepoDigestOrExact":
		if ref.Digest != "" {
			return got.Name() == ref.Name(), nil
		}
		return exact(ref), nil
	case "matchExact":
		return exact(ref), nil
	case "matchRepository":
		return got.Name() == ref.Name(), nil
	case "exactReference":
		want, err := oci.Parse(i.DockerReference)
		return err == nil && exact(want), err
	case "exactRepository":
		want, err := oci.Parse(i.DockerRepository)
		return err == nil && got.Name() == want.Name(), err
	case "remapIdentity":
		if rest, ok := strings.CutPrefix(ref.Name(), i.Prefix); ok && (rest == "" || rest[0] == '/') && i.Prefix != "" && i.SignedPrefix != "" {
			mapped, err := oci.Parse(i.SignedPrefix + rest)
			if err != nil {
				return false, err
			}
			mapped.Tag, mapped.Digest = ref.Tag, ref.Digest
			ref = mapped
		}
		return Identity{}.matches(ref, signed)
	}
	return false, errs.New(errs.Unsupported, fmt.Sprintf("signedIdentity %q is not one that cais knows", i.Type))
}

// Keys are public keys of which one must have signed.
type Keys []crypto.PublicKey

// ParseKeys reads public keys in PEM.
func ParseKeys(text []byte) (Keys, error) {
	var keys Keys
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "PUBLIC KEY" {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("a %q where a PUBLIC KEY is wanted", block.Type))
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errs.E("", errs.Invalid, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errs.New(errs.Invalid, "no public key in PEM form")
	}
	return keys, nil
}

// Verify checks one signature: that one of the keys made it of the payload, that
// the payload is about digest, and that it names what identity wants for ref.
func (k Keys) Verify(payload []byte, signature string, digest string, ref oci.Reference, identity Identity) error {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return errs.New(errs.Invalid, "the signature is not base64")
	}
	sum := sha256.Sum256(payload)
	good := false
	for _, key := range k {
		switch key := key.(type) {
		case *ecdsa.PublicKey:
			good = good || ecdsa.VerifyASN1(key, sum[:], sig)
		case ed25519.PublicKey:
			good = good || ed25519.Verify(key, payload, sig)
		case *rsa.PublicKey:
			good = good || rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
		}
	}
	if !good {
		return errs.New(errs.Denied, "it was not made with the key that the policy names")
	}
	return identity.Check(payload, cosign, digest, ref)
}

// What payloads say that they are.
const (
	cosign = "cosign container image signature"
	Simple = "atomic container signature" // signed with GPG
)

// Check checks what a good signature was made of: that it is of the kind, about digest,
// and names what is wanted for ref.
func (i Identity) Check(payload []byte, kind, digest string, ref oci.Reference) error {
	signedDigest, signedName, err := parsePayload(payload, kind)
	if err != nil {
		return errs.E("the signature's payload", errs.Invalid, err)
	}
	if signedDigest != digest {
		return errs.New(errs.Denied, fmt.Sprintf("it is of %s", signedDigest))
	}
	ok, err := i.matches(ref, signedName)
	if err != nil {
		return err
	}
	if !ok {
		return errs.New(errs.Denied, fmt.Sprintf("it is of the name %s", signedName))
	}
	return nil
}

// parsePayload reads what was signed. What is said twice, or is unknown where it
// could change the meaning, is refused.
func parsePayload(raw []byte, kind string) (digest, name string, err error) {
	var doc struct {
		Critical *struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
		} `json:"critical"`
		Optional json.RawMessage `json:"optional"`
	}
	if err := noDuplicates(json.NewDecoder(bytes.NewReader(raw)), 0); err != nil {
		return "", "", err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return "", "", err
	}
	if doc.Critical == nil || doc.Critical.Type != kind {
		return "", "", fmt.Errorf("it is no %q", kind)
	}
	if err := oci.ValidateDigest(doc.Critical.Image.Digest); err != nil {
		return "", "", err
	}
	return doc.Critical.Image.Digest, doc.Critical.Identity.Reference, nil
}

// noDuplicates refuses objects that have a key twice: two readers would see two
// documents.
func noDuplicates(d *json.Decoder, depth int) error {
	if depth > 20 {
		return errors.New("it is nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			if name = strings.ToLower(name); seen[name] { // as encoding/json reads names
				return fmt.Errorf("it says %q twice", name)
			}
			seen[name] = true
		}
		if err := noDuplicates(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
