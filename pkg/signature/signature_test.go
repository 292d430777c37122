package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"cais.dev/cais/pkg/oci"
)

var digest = "sha256:" + strings.Repeat("a", 64)

func payload(digest, name string) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":{"x":1}}`, name, digest)
}

func parse(t *testing.T, s string) oci.Reference {
	t.Helper()
	r, err := oci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func encode(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestVerify(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key crypto.Signer, text string) string {
		sum := sha256.Sum256([]byte(text))
		in, opts := sum[:], crypto.SignerOpts(crypto.SHA256)
		if _, is := key.(ed25519.PrivateKey); is {
			in, opts = []byte(text), crypto.Hash(0)
		}
		sig, err := key.Sign(rand.Reader, in, opts)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sig)
	}
	repo := Identity{Type: "matchRepository"}
	good := payload(digest, "r.test/app")
	for _, c := range []struct {
		name          string
		keys          []byte
		payload, sig  string
		identity      Identity
		ref, complain string
	}{
		{"ecdsa", encode(t, &ec.PublicKey), good, sign(ec, good), repo, "r.test/app:1", ""},
		{"ed25519", encode(t, edPublic), good, sign(ed, good), repo, "r.test/app:1", ""},
		{"rsa", encode(t, &rs.PublicKey), good, sign(rs, good), repo, "r.test/app:1", ""},
		{"one of two keys", append(encode(t, &other.PublicKey), encode(t, &ec.PublicKey)...), good, sign(ec, good), repo, "r.test/app:1", ""},
		{"another key", encode(t, &other.PublicKey), good, sign(ec, good), repo, "r.test/app:1", "not made with the key"},
		{"changed payload", encode(t, &ec.PublicKey), good + " ", sign(ec, good), repo, "r.test/app:1", "not made with the key"},
		{"another digest", encode(t, &ec.PublicKey), payload("sha256:"+strings.Repeat("b", 64), "r.test/app"), sign(ec, payload("sha256:"+strings.Repeat("b", 64), "r.test/app")), repo, "r.test/app:1", "it is of sha256:bbb"},
		{"another name", encode(t, &ec.PublicKey), good, sign(ec, good), repo, "r.test/other:1", "of the name r.test/app"},
		{"no base64", encode(t, &ec.PublicKey), good, "!", repo, "r.test/app:1", "not base64"},
		{"twice", encode(t, &ec.PublicKey), strings.Replace(good, `"type"`, `"Type":"x","type"`, 1), sign(ec, strings.Replace(good, `"type"`, `"Type":"x","type"`, 1)), repo, "r.test/app:1", "twice"},
		{"unknown", encode(t, &ec.PublicKey), strings.Replace(good, `"type"`, `"more":1,"type"`, 1), sign(ec, strings.Replace(good, `"type"`, `"more":1,"type"`, 1)), repo, "r.test/app:1", "unknown field"},
	} {
		keys, err := ParseKeys(c.keys)
		if err != nil {
			t.Fatal(err)
		}
		err = keys.Verify([]byte(c.payload), c.sig, digest, parse(t, c.ref), c.identity)
		if c.complain == "" && err != nil || c.complain != "" && (err == nil || !strings.Contains(err.Error(), c.complain)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, bad := range []string{"", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParseKeys([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
}

func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		identity    Identity
		ref, signed string
		want        bool
	}{
		{Identity{}, "r.test/a:1", "r.test/a:1", true},
		{Identity{}, "r.test/a:1", "r.test/a:2", false},
		{Identity{}, "r.test/a:1", "r.test/a", false},
		{Identity{}, "r.test/a@" + digest, "r.test/a:2", true},
		{Identity{Type: "matchExact"}, "r.test/a@" + digest, "r.test/a:2", false},
		{Identity{Type: "matchRepository"}, "r.test/a:1", "r.test/a", true},
		{Identity{Type: "matchRepository"}, "r.test/a:1", "r.test/b", false},
		{Identity{Type: "matchRepository"}, "r.test/a:1", "Not A Name", false},
		{Identity{Type: "exactReference", DockerReference: "r.test/b:1"}, "r.test/a:1", "r.test/b:1", true},
		{Identity{Type: "exactRepository", DockerRepository: "r.test/b"}, "r.test/a:1", "r.test/b:9", true},
		{Identity{Type: "remapIdentity", Prefix: "mirror.test", SignedPrefix: "r.test"}, "mirror.test/a:1", "r.test/a:1", true},
		{Identity{Type: "remapIdentity", Prefix: "mirror.test", SignedPrefix: "r.test"}, "other.test/a:1", "r.test/a:1", false},
	} {
		got, err := c.identity.matches(parse(t, c.ref), c.signed)
		if err != nil || got != c.want {
			t.Errorf("%+v: %s signed as %s: %v, %v", c.identity, c.ref, c.signed, got, err)
		}
	}
	if _, err := (Identity{Type: "new"}).matches(parse(t, "r.test/a:1"), "r.test/a:1"); err == nil {
		t.Error("an unknown identity is no error")
	}
}
