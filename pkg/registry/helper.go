package registry

import (
	"bytes"
	"context"
	"encoding/json"
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
	if strings.ContainsAny(name, "/\x00") {
		return c, errs.New(errs.Invalid, fmt.Sprintf("credential helper %q: not a name", name))
	}
	program, err := exec.LookPath("docker-credential-" + name)
	if err != nil {
		return c, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it may ask the user for a passphrase
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second // a child of it may keep the pipes open
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		// Helpers say on stdout why they fail, and have one text for "none".
		text := strings.TrimSpace(out.String() + errOut.String())
		if strings.Contains(text, "credentials not found") {
			return c, nil
		}
		return c, errs.WithHint(errs.E("", errs.Denied, fmt.Errorf("docker-credential-%s: %w: %s", name, err, text)),
			fmt.Sprintf("Repair the helper, or take it out of the file; to try it: echo %s | docker-credential-%s get.", server, name))
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return c, errs.E("", errs.Invalid, fmt.Errorf("docker-credential-%s: %w", name, err))
	}
	if answer.Username == "<token>" {
		c.IdentityToken = answer.Secret
		return c, nil
	}
	c.Username, c.Password = answer.Username, answer.Secret
	return c, nil
}
