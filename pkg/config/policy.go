package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Policy is what containers-policy.json(5) allows. cais knows "accept", "reject",
// sigstore's signatures made with a key, and GPG's; everything else that would have to
// be verified is refused, never skipped.
type Policy struct {
	file       string
	Default    []requirement                       `json:"default"`
	Transports map[string]map[string][]requirement `json:"transports"`
}

type requirement struct {
	Type string `json:"type"`
	raw  json.RawMessage
}

// UnmarshalJSON keeps what the type will know how to read.
func (r *requirement) UnmarshalJSON(raw []byte) error {
	type plain requirement
	if err := json.Unmarshal(raw, (*plain)(r)); err != nil {
		return err
	}
	r.raw = bytes.Clone(raw)
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return err
	}
	if r.Type == "insecureAcceptAnything" && len(keys) > 1 { // what else it says could forbid
		return fmt.Errorf("the requirement %s has more than its type", raw)
	}
	return nil
}

// Signed is a requirement of type sigstoreSigned or signedBy: a signature of the
// image made with one of the keys. Identity is signedIdentity as it stands.
type Signed struct {
	GPG      bool     // signedBy
	Keys     [][]byte // in PEM, or keyrings of GPG
	Identity json.RawMessage
}

// Signatures returns what must be verified before what transport and scope mean
// may come in, besides all that is accepted as it is. verifiable is false if
// there is more to it than that: then [Policy.Check] refuses.
func (p *Policy) Signatures(root fs.FS, transport, scope string) (all []Signed, verifiable bool, err error) {
	if p == nil {
		return nil, true, nil
	}
	reqs, _ := p.requirements(transport, scope)
	for _, r := range reqs {
		switch r.Type {
		case "insecureAcceptAnything":
		case "sigstoreSigned", "signedBy":
			s, ok, err := r.signed(root)
			if err != nil || !ok {
				return nil, false, err
			}
			all = append(all, s)
		default:
			return nil, false, nil
		}
	}
	return all, len(reqs) > 0, nil
}

// signed reads the keys of a requirement. ok is false if it is about more than
// keys.
func (r requirement) signed(root fs.FS) (s Signed, ok bool, err error) {
	var doc struct {
		Type           string          `json:"type"`
		KeyType        string          `json:"keyType"`
		KeyPath        string          `json:"keyPath"`
		KeyPaths       []string        `json:"keyPaths"`
		KeyData        []byte          `json:"keyData"`
		KeyDatas       [][]byte        `json:"keyDatas"`
		SignedIdentity json.RawMessage `json:"signedIdentity"`
	}
	d := json.NewDecoder(bytes.NewReader(r.raw))
	d.DisallowUnknownFields() // fulcio, pki, rekor: not ours to skip
	if err := d.Decode(&doc); err != nil {
		return s, false, nil //nolint:nilerr // Check refuses it by its type
	}
	s.GPG = doc.Type == "signedBy"
	if want := map[bool]string{true: "GPGKeys"}[s.GPG]; doc.KeyType != want {
		return s, false, nil
	}
	s.Identity = doc.SignedIdentity
	s.Keys = doc.KeyDatas
	if len(doc.KeyData) > 0 {
		s.Keys = append(s.Keys, doc.KeyData)
	}
	if doc.KeyPath != "" {
		doc.KeyPaths = append(doc.KeyPaths, doc.KeyPath)
	}
	for _, path := range doc.KeyPaths {
		key, err := readFile(root, path)
		if err != nil {
			return s, false, errs.WithHint(errs.E("read the policy's key", errs.Denied, err), "Nothing is pulled while the key cannot be read.")
		}
		s.Keys = append(s.Keys, key)
	}
	return s, len(s.Keys) > 0, nil
}

// ReadPolicy reads the user's policy, else the system's; nil, which allows all,
// if there is none. A file that is there but cannot be read is an error.
func ReadPolicy(e Env, root fs.FS) (*Policy, error) {
	for _, f := range []string{path.Join(e.configHome(), "containers/policy.json"), "/etc/containers/policy.json"} {
		if !path.IsAbs(f) {
			continue
		}
		raw, err := readFile(root, f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errs.WithHint(errs.E("read policy", errs.Denied, err), "Nothing is pulled while the policy cannot be read.")
		}
		p := &Policy{file: f}
		if err := p.decode(raw); err != nil {
			return nil, errs.WithHint(errs.E("read "+f, errs.Invalid, err), "Nothing is pulled while the policy cannot be understood: see containers-policy.json(5).")
		}
		return p, nil
	}
	return nil, nil
}

// decode refuses keys that it does not know: what they say could forbid.
func (p *Policy) decode(raw []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return err
	}
	for k := range keys {
		if k != "default" && k != "transports" {
			return fmt.Errorf("unknown key %q", k)
		}
	}
	return json.Unmarshal(raw, p)
}

// Check refuses what p does not allow to come in by transport: "docker" is a
// registry, with scope the reference in normal form; "docker-archive" and
// "oci-archive" are files, with scope their path or "". A nil p allows all.
func (p *Policy) Check(transport, scope string) error {
	if p == nil {
		return nil
	}
	reqs, where := p.requirements(transport, scope)
	if len(reqs) == 0 {
		return p.refuse(scope, fmt.Sprintf("%s says nothing (%s)", p.file, where))
	}
	for _, r := range reqs {
		switch r.Type {
		case "insecureAcceptAnything":
		case "reject":
			return p.refuse(scope, fmt.Sprintf("%s rejects it (%s)", p.file, where))
		default:
			return p.refuse(scope, fmt.Sprintf("%s wants %q (%s), which cais cannot check", p.file, r.Type, where))
		}
	}
	return nil
}

func (p *Policy) refuse(scope, why string) error {
	return errs.WithHint(errs.New(errs.Denied, fmt.Sprintf("policy does not allow %s: %s", scope, why)),
		"See containers-policy.json(5); the user's ~/.config/containers/policy.json comes before the system's.")
}

// requirements returns the list for the most specific scope: the reference,
// then its repository and what is above it, host wildcards, the transport's
// default, the default.
func (p *Policy) requirements(transport, scope string) (reqs []requirement, where string) {
	scopes := p.Transports[transport]
	s := scope
	for s != "" {
		if r, ok := scopes[s]; ok {
			return r, s
		}
		i := strings.LastIndexByte(s, '/')
		if i < 0 { // the registry: without its port it would be another
			break
		}
		if j := max(strings.LastIndexByte(s, '@'), strings.LastIndexByte(s, ':')); j > i {
			i = j // the digest, the tag
		}
		s = s[:i]
	}
	host, _, _ := strings.Cut(scope, "/")
	for dot := strings.IndexByte(host, '.'); dot >= 0; {
		if r, ok := scopes["*"+host[dot:]]; ok {
			return r, "*" + host[dot:]
		}
		next := strings.IndexByte(host[dot+1:], '.')
		if next < 0 {
			break
		}
		dot += 1 + next
	}
	if r, ok := scopes[""]; ok {
		return r, transport
	}
	return p.Default, "default"
}

// SignaturePlaces are registries.d, the user's if there is one, and where signatures
// are that it says nothing about: see containers-registries.d(5).
func SignaturePlaces(e Env, root fs.FS) (configDir, fallback string) {
	configDir, fallback = "/etc/containers/registries.d", "/var/lib/containers/sigstore"
	if e.UID != 0 {
		fallback = path.Join(e.Home, ".local/share/containers/sigstore")
	}
	own := path.Join(e.configHome(), "containers/registries.d")
	if st, err := fs.Stat(root, strings.TrimPrefix(own, "/")); err == nil && st.IsDir() {
		configDir = own
	}
	return configDir, fallback
}
