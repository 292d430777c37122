package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/signature"
)

const (
	digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other  = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("t", "", "t@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Now().Add(-2 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ring(t *testing.T, key *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := key.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func armored(t *testing.T, key *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		_, err = w.Write(ring(t, key))
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func payload(name, digest string) string {
	return fmt.Sprintf(`{"critical":{"type":%q,"image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{"creator":"test","timestamp":1}}`, signature.Simple, digest, name)
}

func sign(t *testing.T, key *openpgp.Entity, text string, c *packet.Config) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := openpgp.Sign(&b, key, nil, c)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVerify(t *testing.T) {
	good, stranger := newKey(t), newKey(t)
	const name = "r.example/ns/app:1"
	expired := &packet.Config{SigLifetimeSecs: 1, Time: func() time.Time { return time.Now().Add(-time.Hour) }}
	whole := sign(t, good, payload(name, digest), nil)
	bad := bytes.Clone(whole)
	bad[len(bad)-5] ^= 1
	var literal bytes.Buffer
	w, err := packet.SerializeLiteral(struct {
		*bytes.Buffer
		nopCloser
	}{Buffer: &literal}, true, "", 0)
	if err == nil {
		_, err = w.Write([]byte(payload(name, digest)))
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	var secret bytes.Buffer
	e, err := openpgp.Encrypt(&secret, openpgp.EntityList{good}, good, nil, nil)
	if err == nil {
		_, err = e.Write([]byte(payload(name, digest)))
	}
	if err != nil || e.Close() != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		sigs [][]byte
		says string // empty: it is let in
	}{
		{"good", [][]byte{whole}, ""},
		{"the second one", [][]byte{sign(t, stranger, payload(name, digest), nil), whole}, ""},
		{"none", nil, "it is not signed: there is nothing at "},
		{"another key", [][]byte{sign(t, stranger, payload(name, digest), nil)}, "which is not among the policy's"},
		{"another image", [][]byte{sign(t, good, payload(name, other), nil)}, "it is of " + other},
		{"another name", [][]byte{sign(t, good, payload("r.example/ns/else:1", digest), nil)}, "it is of the name r.example/ns/else:1"},
		{"cosign's words", [][]byte{sign(t, good, strings.Replace(payload(name, digest), "atomic container", "cosign container image", 1), nil)}, "it is no"},
		{"said twice", [][]byte{sign(t, good, strings.Replace(payload(name, digest), `"optional"`, `"critical":{},"optional"`, 1), nil)}, "twice"},
		{"changed", [][]byte{bad}, "bad"},
		{"cut", [][]byte{whole[:len(whole)-20]}, "signature"},
		{"not signed at all", [][]byte{literal.Bytes()}, "it is no signed message"},
		{"encrypted", [][]byte{secret.Bytes()}, "signature"},
		{"garbage", [][]byte{[]byte("garbage")}, "read the signature"},
		{"expired", [][]byte{sign(t, good, payload(name, digest), expired)}, "the signature is bad"},
		{"too long", [][]byte{sign(t, good, payload(name, digest)+strings.Repeat(" ", signature.MaxPayload), nil)}, "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, sig := range tt.sigs {
				path := filepath.Join(dir, "ns/app@"+strings.Replace(digest, ":", "=", 1), fmt.Sprintf("signature-%d", i+1))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, sig, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for form, keys := range map[string][]byte{"binary": ring(t, good), "armored": armored(t, good)} {
				err := verify(t.Context(), signature.Request{Ref: name, Digests: []string{other, digest}, Keyrings: [][]byte{keys}, ConfigDir: filepath.Join(dir, "nosuch"), Fallback: dir})
				if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
					t.Errorf("%s keys: %v, want %q", form, err, tt.says)
				}
			}
		})
	}
	for _, keys := range [][][]byte{nil, {[]byte("no key")}, {{}}} {
		if err := verify(t.Context(), signature.Request{Ref: name, Digests: []string{digest}, Keyrings: keys, Fallback: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "policy") {
			t.Errorf("keys %q: %v", keys, err)
		}
	}
	if err := run(t.Context(), strings.NewReader(`{"ref":"x","newer":true}`)); err == nil {
		t.Error("a request with more than is known is not refused")
	}
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

func TestLookaside(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml":    "default-docker:\n  sigstore: http://default.x/s\ndocker:\n  r.x:\n    lookaside: https://r.x/sigs/\n  r.x/ns/app:\n    lookaside: file:///sigs\n",
		"b.yaml":    "docker:\n  r.x:5000/ns:\n    lookaside-staging: file:///write\n  r.x/ns/app:2:\n    lookaside: /two\n",
		"c.ignored": "docker: [",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for typed, want := range map[string]string{
		"r.x/ns/app:1": "file:///sigs/ns/app", "r.x/ns/app:2": "file:///two/ns/app", "r.x/ns/apple": "https://r.x/sigs/ns/apple",
		"r.x/ns/app@" + digest: "file:///sigs/ns/app", "busybox": "http://default.x/s/library/busybox", "r.x:5000/ns/app": "file:///fall/ns/app", "r.x:5000/app": "http://default.x/s/app",
	} {
		ref, err := oci.Parse(typed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := lookaside(dir, "/fall", ref); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", typed, got, err, want)
		}
	}
	for text, want := range map[string]string{"docker:\n  r.x:\n    lookaside: x\n": "r.x is told in another file, too", "default-docker: {}\n": "default-docker is told", "docker: [": "z.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, "z.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := lookaside(dir, "/fall", oci.Reference{Domain: "r.x", Path: "a"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A server that does not say 404 has not said that there are no more signatures.
func TestLookasideServer(t *testing.T) {
	key := newKey(t)
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/base/ns/app@"+strings.Replace(digest, ":", "=", 1)+"/signature-1" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(sign(t, key, payload("r.x/ns/app:1", digest), nil))
	}))
	defer srv.Close()
	req := signature.Request{Ref: "r.x/ns/app:1", Digests: []string{digest}, Keyrings: [][]byte{ring(t, key)}, Fallback: srv.URL + "/base"}
	if err := verify(t.Context(), req); err != nil {
		t.Error(err)
	}
	status = http.StatusInternalServerError
	if err := verify(t.Context(), req); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("from a broken server: %v", err)
	}
	req.Fallback = "ftp://x"
	if err := verify(t.Context(), req); err == nil || !strings.Contains(err.Error(), "wants file, http or https") {
		t.Error(err)
	}
}

// A server with a certificate of the registry's authority is believed, others are not;
// one that does not answer is not waited for.
func TestLookasideServerTLS(t *testing.T) {
	key := newKey(t)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(sign(t, key, payload("r.x/ns/app:1", digest), nil))
	}))
	defer srv.Close()
	req := signature.Request{Ref: "r.x/ns/app:1", Digests: []string{digest}, Keyrings: [][]byte{ring(t, key)}, Fallback: srv.URL}
	if err := verify(t.Context(), req); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the authority: %v", err)
	}
	req.CAs = [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}
	if err := verify(t.Context(), req); err != nil {
		t.Error(err)
	}
	if req.CAs[0] = []byte("none"); verify(t.Context(), req) == nil {
		t.Error("a CA file without a certificate is not refused")
	}

	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	c, err := newClient(nil)
	if err != nil || c.Timeout != patience {
		t.Fatalf("a client with %v, %v", c.Timeout, err)
	}
	c.Timeout = time.Millisecond
	at, err := url.Parse(slow.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t.Context(), c, at, digest, 1); !os.IsTimeout(err) {
		t.Errorf("of a server that does not answer: %v", err)
	}
}

// GPG's own messages and keyrings are read.
func TestGPG(t *testing.T) {
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		t.Skip("gpg is not installed")
	}
	home, err := os.MkdirTemp("", "gpg") // its agent's socket wants a short name
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	do := func(in string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(gpg, append([]string{"--homedir", home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"}, args...)...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %q: %v", args, err)
		}
		return out
	}
	defer exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() //nolint:errcheck // it may not run
	do("", "--quick-generate-key", "t@example.org", "rsa2048")
	text := payload("r.x/app:1", digest)
	got, err := open(must(keyring([][]byte{do("", "--export")})), do(text, "--sign"))
	if err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
