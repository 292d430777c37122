package source

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the signature that old servers ask for
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"cais.dev/cais/pkg/errs"
)

// signer is a private key as an agent needs it.
type signer struct {
	key     crypto.Signer
	blob    []byte // the public key, in ssh's form
	comment string
}

var errEncrypted = errors.New("it is encrypted")

// parseKey reads an unencrypted private key: OpenSSH's own form, PKCS #1, PKCS #8
// or SEC 1.
func parseKey(data []byte) (*signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it is no private key")
	}
	if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, encrypted()
	}
	var key any
	var err error
	comment := ""
	switch block.Type {
	case "OPENSSH PRIVATE KEY":
		key, comment, err = parseOpenSSH(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it is %q, no private key", block.Type)
	}
	if errors.Is(err, errEncrypted) {
		return nil, encrypted()
	}
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("keys of type %T are not supported", key)
	}
	blob, err := publicBlob(s.Public())
	if err != nil {
		return nil, err
	}
	return &signer{s, blob, comment}, nil
}

func encrypted() error {
	return errs.WithHint(errEncrypted, "Add the key to an agent with ssh-add, and give that by --ssh default.")
}

// parseOpenSSH reads openssh-key-v1 (OpenSSH's PROTOCOL.key).
func parseOpenSSH(b []byte) (key any, comment string, err error) {
	const magic = "openssh-key-v1\x00"
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, "", errors.New("unknown form of key")
	}
	r := wireReader{b[len(magic):], nil}
	cipher := string(r.string())
	r.string() // how the passphrase makes a key
	r.string()
	n := r.uint32()
	r.string() // the public key
	private := r.string()
	if r.err != nil {
		return nil, "", r.err
	}
	if cipher != "none" {
		return nil, "", errEncrypted
	}
	if n != 1 {
		return nil, "", fmt.Errorf("it has %d keys, not one", n)
	}
	r = wireReader{private, nil}
	if first, second := r.uint32(), r.uint32(); first != second {
		return nil, "", errors.New("it is damaged")
	}
	switch kind := string(r.string()); kind {
	case "ssh-ed25519":
		r.string()
		priv := r.string()
		if len(priv) != ed25519.PrivateKeySize {
			return nil, "", errors.New("it is damaged")
		}
		key = ed25519.PrivateKey(priv)
	case "ssh-rsa":
		v := make([]*big.Int, 6) // n, e, d, 1/q mod p, p, q
		for i := range v {
			v[i] = new(big.Int).SetBytes(r.string())
		}
		if r.err != nil || !v[1].IsInt64() || v[1].Int64() > 1<<31-1 || v[0].BitLen() > 16384 {
			return nil, "", errors.New("it is damaged")
		}
		k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: v[0], E: int(v[1].Int64())}, D: v[2], Primes: []*big.Int{v[4], v[5]}}
		if err := k.Validate(); err != nil {
			return nil, "", err
		}
		k.Precompute()
		key = k
	case "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521":
		curve := map[string]elliptic.Curve{"nistp256": elliptic.P256(), "nistp384": elliptic.P384(), "nistp521": elliptic.P521()}[string(r.string())]
		r.string() // the point
		d := new(big.Int).SetBytes(r.string())
		if curve == nil || r.err != nil {
			return nil, "", errors.New("it is damaged")
		}
		size := (curve.Params().BitSize + 7) / 8
		if d.BitLen() > size*8 {
			return nil, "", errors.New("it is damaged")
		}
		k, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, size)))
		if err != nil {
			return nil, "", err
		}
		key = k
	default:
		return nil, "", fmt.Errorf("keys of type %q are not supported", kind)
	}
	comment = string(r.string())
	return key, comment, r.err
}

// mpint appends n as ssh writes integers.
func mpint(b []byte, n *big.Int) []byte {
	v := n.Bytes()
	if len(v) > 0 && v[0]&0x80 != 0 {
		v = append([]byte{0}, v...)
	}
	return wireString(b, v)
}

func publicBlob(p crypto.PublicKey) ([]byte, error) {
	switch p := p.(type) {
	case ed25519.PublicKey:
		return wireString(wireString(nil, []byte("ssh-ed25519")), p), nil
	case *rsa.PublicKey:
		return mpint(mpint(wireString(nil, []byte("ssh-rsa")), big.NewInt(int64(p.E))), p.N), nil
	case *ecdsa.PublicKey:
		name, err := curveName(p)
		if err != nil {
			return nil, err
		}
		point, err := p.Bytes()
		if err != nil {
			return nil, err
		}
		return wireString(wireString(wireString(nil, []byte("ecdsa-sha2-"+name)), []byte(name)), point), nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", p)
}

func curveName(p *ecdsa.PublicKey) (string, error) {
	switch p.Curve.Params().BitSize {
	case 256:
		return "nistp256", nil
	case 384:
		return "nistp384", nil
	case 521:
		return "nistp521", nil
	}
	return "", errors.New("its curve is not supported")
}

// sign signs data; flags choose RSA's hash (RFC 8332).
func (s *signer) sign(data []byte, flags uint32) ([]byte, error) {
	switch key := s.key.(type) {
	case ed25519.PrivateKey:
		return wireString(wireString(nil, []byte("ssh-ed25519")), ed25519.Sign(key, data)), nil
	case *rsa.PrivateKey:
		format, hash, sum := "ssh-rsa", crypto.SHA1, []byte(nil)
		switch {
		case flags&4 != 0:
			h := sha512.Sum512(data)
			format, hash, sum = "rsa-sha2-512", crypto.SHA512, h[:]
		case flags&2 != 0:
			h := sha256.Sum256(data)
			format, hash, sum = "rsa-sha2-256", crypto.SHA256, h[:]
		default:
			h := sha1.Sum(data) //nolint:gosec // see above
			sum = h[:]
		}
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, hash, sum)
		return wireString(wireString(nil, []byte(format)), sig), err
	case *ecdsa.PrivateKey:
		name, err := curveName(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		var sum []byte
		switch name {
		case "nistp256":
			h := sha256.Sum256(data)
			sum = h[:]
		case "nistp384":
			h := sha512.Sum384(data)
			sum = h[:]
		default:
			h := sha512.Sum512(data)
			sum = h[:]
		}
		r, q, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			return nil, err
		}
		return wireString(wireString(nil, []byte("ecdsa-sha2-"+name)), mpint(mpint(nil, r), q)), nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", s.key)
}
