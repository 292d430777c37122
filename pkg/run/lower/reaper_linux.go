package lower

import "cais.dev/cais/pkg/errs"

func (b *builder) reaper() error {
	return errs.New(errs.Unsupported, "--init is not supported yet")
}
