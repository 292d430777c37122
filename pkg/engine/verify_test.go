package engine

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/signature"
	"cais.dev/cais/test/faultproxy"
)

// What the policy wants signed comes in only with a signature by its key, of this
// image and this name.
func TestPolicySigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyPath := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := faultproxy.Registry()
	srv := httptest.NewServer(reg)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	img := faultproxy.NewImage("linux/amd64", nil, faultproxy.NewLayer("a", "b"))
	for _, repo := range []string{"signed", "unsigned", "othername"} {
		faultproxy.Push(reg, repo, "1", img)
	}
	sign := func(repo, name string) {
		payload := []byte(fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, img.Manifest.Digest))
		sum := sha256.Sum256(payload)
		sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		blob := faultproxy.NewBlob(signature.MediaType, payload)
		blob.Annotations = map[string]string{signature.Annotation: base64.StdEncoding.EncodeToString(sig)}
		conf := faultproxy.NewBlob(oci.TypeOCIConfig, []byte("{}"))
		raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.TypeOCIManifest, "config": conf.Descriptor, "layers": []oci.Descriptor{blob.Descriptor}})
		if err != nil {
			t.Fatal(err)
		}
		faultproxy.PushBlob(reg, repo, blob)
		faultproxy.PushBlob(reg, repo, conf)
		faultproxy.PushManifest(reg, repo, signature.Tag(img.Manifest.Digest), faultproxy.NewBlob(oci.TypeOCIManifest, raw))
	}
	sign("signed", host+"/signed")
	sign("othername", host+"/signed")
	conf := filepath.Join(dir, "config", "containers")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	read := func(requirement string) *config.Policy {
		t.Helper()
		text := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[%s]}}}`, host, requirement)
		if err := os.WriteFile(filepath.Join(conf, "policy.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := config.ReadPolicy(config.Env{Home: dir, Getenv: func(name string) string {
			return map[string]string{"XDG_CONFIG_HOME": filepath.Join(dir, "config")}[name]
		}}, os.DirFS("/"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	c := registry.New(registry.Options{})
	defer c.Close()
	e := New(Options{Getenv: func(string) string { return "" }})
	try := func(p *config.Policy, repo string) error {
		t.Helper()
		ref, err := oci.Parse(host + "/" + repo + ":1")
		if err != nil {
			t.Fatal(err)
		}
		if err := allow(p, "docker", ref.String()); err != nil {
			return err
		}
		return e.Verify(t.Context(), c, p, ref, []string{img.Manifest.Digest})
	}
	p := read(fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":"matchRepository"}}`, keyPath))
	for repo, complain := range map[string]string{"signed": "", "unsigned": "it is not signed", "othername": "of the name"} {
		err := try(p, repo)
		if complain == "" && err != nil || complain != "" && (errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), complain)) {
			t.Errorf("%s: %v", repo, err)
		}
	}
	if err := p.Check("docker", host+"/signed:1"); errs.KindOf(err) != errs.Denied {
		t.Errorf("who does not verify is not refused: %v", err)
	}
	// GPG's signatures are for a program of their own, whose word is taken.
	signedBy := fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":[%q],"signedIdentity":{"type":"matchRepository"}}`, keyPath)
	if err := try(read(signedBy), "signed"); errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "cais-verify, which would check it, is not installed") {
		t.Errorf("without the program: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(self), signature.Program)
	t.Cleanup(func() { _ = os.Remove(program) })
	for script, complain := range map[string]string{
		"cat >" + filepath.Join(dir, "request"): "",
		"echo no; exit 1":                       "no signature that it wants: no",
		"echo killed":                           "killed",
		"exit 1":                                "exit status 1",
	} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		err := try(read(signedBy), "unsigned")
		if complain == "" && err != nil || complain != "" && (errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), complain)) {
			t.Errorf("%s: %v", script, err)
		}
	}
	var req signature.Request
	if asked, err := os.ReadFile(filepath.Join(dir, "request")); err != nil || json.Unmarshal(asked, &req) != nil ||
		req.Ref != host+"/unsigned:1" || req.Digests[0] != img.Manifest.Digest || !strings.Contains(string(req.Keyrings[0]), "PUBLIC KEY") || req.Identity.Type != "matchRepository" {
		t.Errorf("it was asked %s, %v", asked, err)
	}
	// What cannot be checked is refused, whatever else is signed.
	for _, requirement := range []string{
		fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q,"rekorPublicKeyPath":"/x"}`, keyPath),
		fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q},{"type":"signedBy","keyType":"GPGKeys"}`, keyPath),
		`{"type":"sigstoreSigned","fulcio":{}}`,
		fmt.Sprintf(`{"type":"signedBy","keyType":"X509Certificates","keyPath":%q}`, keyPath),
		fmt.Sprintf(`{"type":"sigstoreSigned","keyType":"GPGKeys","keyPath":%q}`, keyPath),
		`{"type":"sigstoreSigned"}`,
		`{"type":"sigstoreSigned","keyPath":"/nosuch"}`,
	} {
		if err := try(read(requirement), "signed"); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s: %v", requirement, err)
		}
	}
}
