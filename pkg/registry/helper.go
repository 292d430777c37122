package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
)

// RunHelper asks the program docker-credential-<name> for server's credentials:
// the server's name on stdin, JSON on stdout. It is what [config.AuthSource]
// wants as Helper.
func RunHelper(ctx context.Context, name, server string) (config.Credentials, error) {
	var c config.Credentials
	out, err := runHelper(ctx, name, "get", server)
	if err != nil || out == nil {
		return c, err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return c, errs.E("", errs.Invalid, fmt.Errorf("docker-credential-%s: %w", name, err))
	}
	if answer.Username == "<token>" {
		c.IdentityToken = answer.Secret
		return c, nil
	}
	c.Username, c.Password = answer.Username, answer.Secret
	return c, nil
}

// TellHelper has the program docker-credential-<name> store or erase what text
// says, which it reads on stdin. That there is nothing to erase is no error.
func TellHelper(ctx context.Context, name, verb, text string) error {
	_, err := runHelper(ctx, name, verb, text)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.WithHint(errs.E("", errs.NotFound, fmt.Errorf("the credential helper docker-credential-%s is not installed", name)),
			"Install it, or take credsStore and credHelpers out of the file.")
	}
	return err
}

// runHelper runs a helper and returns what it printed; nil without an error is
// its word for "none".
func runHelper(ctx context.Context, name, verb, text string) ([]byte, error) {
	if strings.ContainsAny(name, "/\x00") {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("credential helper %q: not a name", name))
	}
	program, err := exec.LookPath("docker-credential-" + name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it may ask the user for a passphrase
	defer cancel()
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(text)
	cmd.WaitDelay = time.Second // a child of it may keep the pipes open
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		// Helpers say on stdout why they fail, and have one text for "none".
		said := strings.TrimSpace(out.String() + errOut.String())
		if strings.Contains(said, "credentials not found") {
			return nil, nil
		}
		hint := "Repair the helper, or take it out of the file."
		if verb == "get" {
			hint = fmt.Sprintf("Repair the helper, or take it out of the file; to try it: echo %s | docker-credential-%s get.", text, name)
		}
		return nil, errs.WithHint(errs.E("", errs.Denied, fmt.Errorf("docker-credential-%s: %w: %s", name, err, said)), hint)
	}
	return append([]byte{}, out.Bytes()...), nil
}
