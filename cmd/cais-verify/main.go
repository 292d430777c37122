// Cais-verify checks an image's signatures made with GPG ("simple signing"), where
// policy.json asks for them (signedBy): cais runs it then, and otherwise does without
// OpenPGP and YAML. It reads a signature.Request from stdin, and ends with 0 if the
// image is signed as it says; else stdout says why it is not.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/signature"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdin); err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader) error {
	var req signature.Request
	d := json.NewDecoder(in)
	d.DisallowUnknownFields() // a newer cais's: what it asks for is not ours to skip
	if err := d.Decode(&req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return verify(ctx, req)
}

// verify finds one signature that is good; else it says why none is.
func verify(ctx context.Context, req signature.Request) error {
	ref, err := oci.Parse(req.Ref)
	if err != nil {
		return err
	}
	keys, err := keyring(req.Keyrings)
	if err != nil {
		return err
	}
	at, err := lookaside(req.ConfigDir, req.Fallback, ref)
	if err != nil {
		return err
	}
	client, err := newClient(req.CAs)
	if err != nil {
		return err
	}
	failed := fmt.Errorf("it is not signed: there is nothing at %s", at.Redacted())
	for _, digest := range req.Digests {
		for i := 1; i <= maxSignatures; i++ {
			sig, err := fetch(ctx, client, at, digest, i)
			if err != nil {
				return fmt.Errorf("get a signature: %w", err)
			}
			if sig == nil {
				break
			}
			payload, err := open(keys, sig)
			if err == nil {
				err = req.Identity.Check(payload, signature.Simple, digest, ref)
			}
			if err == nil {
				return nil
			}
			failed = err
		}
	}
	return failed
}

// keyring reads keys as gpg exports them, armored or not.
func keyring(texts [][]byte) (openpgp.EntityList, error) {
	var all openpgp.EntityList
	for _, text := range texts {
		read := openpgp.ReadKeyRing
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN PGP")) {
			read = openpgp.ReadArmoredKeyRing
		}
		keys, err := read(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("read the policy's keys: %w", err)
		}
		all = append(all, keys...)
	}
	if len(all) == 0 {
		return nil, errors.New("the policy names no key")
	}
	return all, nil
}

// open returns what was signed, if one of the keys signed it.
func open(keys openpgp.EntityList, sig []byte) ([]byte, error) {
	m, err := openpgp.ReadMessage(bytes.NewReader(sig), public(keys), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read the signature: %w", err)
	}
	if m.IsEncrypted || !m.IsSigned {
		return nil, errors.New("it is no signed message")
	}
	payload, err := io.ReadAll(io.LimitReader(m.UnverifiedBody, signature.MaxPayload+1))
	switch {
	case m.SignedBy == nil || errors.Is(m.SignatureError, pgperrors.ErrUnknownIssuer):
		return nil, fmt.Errorf("it was made with key %016X, which is not among the policy's", m.SignedByKeyId)
	case len(payload) > signature.MaxPayload:
		return nil, errors.New("what was signed is too long")
	case err != nil: // before the signature was come to, too
		return nil, fmt.Errorf("read the signature: %w", err)
	case m.SignatureError != nil:
		return nil, fmt.Errorf("the signature is bad: %w", m.SignatureError)
	case m.Signature == nil: // the body was read to its end, and none came
		return nil, errors.New("the signature is cut off")
	}
	return payload, nil
}

// public leaves out secret keys, which a keyring may hold: nothing is to be decrypted.
func public(keys openpgp.EntityList) openpgp.EntityList {
	for _, k := range keys {
		k.PrivateKey = nil
		for i := range k.Subkeys {
			k.Subkeys[i].PrivateKey = nil
		}
	}
	return keys
}
