package container

import (
	"context"
	"path/filepath"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/run"
)

// Size is what a container's own files take, in bytes: as ps -s shows it.
func Size(ctx context.Context, c *container.Container) (int64, error) {
	return run.TreeSize(ctx, filepath.Join(c.Dir, "upper"))
}

// Status is a container's status as ps shows it.
func Status(c *container.Container, now time.Time) string { return statusText(c, now) }
