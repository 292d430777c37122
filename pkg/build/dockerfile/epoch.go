package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"cais.dev/cais/pkg/build/gitref"
	"cais.dev/cais/pkg/build/graph"
)

const epochArg = "SOURCE_DATE_EPOCH"

// readEpoch finds the time that SOURCE_DATE_EPOCH says, as a number of seconds,
// or as the name of something that has a time.
func (c *converter) readEpoch(ctx context.Context) error {
	v, ok := c.opts.BuildArgs[epochArg]
	if !ok {
		v, _ = c.globals.Get(epochArg)
	}
	if v == "" {
		return nil
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		t := time.Unix(n, 0).UTC()
		c.epoch = &t
		return nil
	}
	op, err := c.epochSource(v)
	if err != nil {
		return err
	}
	if c.opts.Epoch == nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH=%s: only a number of seconds can be given here", v)
	}
	t, err := c.opts.Epoch(ctx, op)
	if err != nil || t == nil {
		return err
	}
	c.epoch = t
	// What commands see is the number.
	s := strconv.FormatInt(t.Unix(), 10)
	args := make(map[string]string, len(c.opts.BuildArgs))
	for k, v := range c.opts.BuildArgs {
		args[k] = v
	}
	if ok {
		args[epochArg] = s
	}
	c.opts.BuildArgs = args
	if _, ok := c.globals.Get(epochArg); ok {
		c.globals = c.globals.with(epochArg, s)
	}
	return nil
}

// epochSource is what name has the time of: the context, a named one, or a
// stage FROM scratch with one remote ADD.
func (c *converter) epochSource(name string) (graph.Op, error) {
	if name == "context" {
		return &graph.Local{Name: name}, nil
	}
	if strings.HasPrefix(c.namedContext(name, nil), "local:") {
		return &graph.Local{Name: name}, nil
	}
	for _, s := range c.file {
		if strings.EqualFold(s.Name, name) {
			op, err := c.epochStage(s)
			return op, parser.WithLocation(err, s.Location)
		}
	}
	return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH: %s", name)
}

func (c *converter) epochStage(s instructions.Stage) (op graph.Op, err error) {
	env := c.globals.without(epochArg)
	base, _, err := c.lex.ProcessWord(s.BaseName, env)
	if err != nil {
		return nil, err
	}
	if base != scratch {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must use FROM scratch")
	}
	for _, cmd := range s.Commands {
		switch ic := cmd.(type) {
		case *instructions.ArgCommand:
			for _, a := range ic.Args {
				if v, ok := c.opts.BuildArgs[a.Key]; ok {
					env = env.with(a.Key, v)
				} else if a.Value != nil {
					v, _, err := c.lex.ProcessWord(*a.Value, env)
					if err != nil {
						return nil, err
					}
					env = env.with(a.Key, v)
				}
			}
		case *instructions.AddCommand:
			if op != nil || len(ic.SourcePaths) != 1 || len(ic.SourceContents) != 0 {
				return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
			}
			if op, err = c.epochAdd(ic, env); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported %s instruction", cmd.Name())
		}
	}
	if op == nil {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
	}
	return op, nil
}

func (c *converter) epochAdd(ic *instructions.AddCommand, env environ) (graph.Op, error) {
	src, _, err := c.lex.ProcessWord(ic.SourcePaths[0], env)
	if err != nil {
		return nil, err
	}
	sum, _, err := c.lex.ProcessWord(ic.Checksum, env)
	if err != nil {
		return nil, err
	}
	if r, err := gitref.Parse(src); err == nil && !r.Bare {
		return gitSource(r, ic.KeepGitDir, sum)
	}
	if isURL(src) {
		return httpSource(src, sum)
	}
	return nil, errors.New("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
}
