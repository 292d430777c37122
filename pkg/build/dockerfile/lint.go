package dockerfile

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"cais.dev/cais/pkg/oci"
)

// newLinter returns the rules with what "# check=", or the build argument of that
// purpose, says of them.
func newLinter(text []byte, opts Options) (*linter.Linter, error) {
	var at []parser.Range
	say, ok := opts.BuildArgs["BUILDKIT_DOCKERFILE_CHECK"]
	if !ok {
		say, _, at, _ = parser.ParseDirective("check", text)
	}
	cfg, err := linter.ParseLintOptions(say)
	if err != nil {
		return nil, parser.WithLocation(fmt.Errorf("failed to parse check options: %w", err), at)
	}
	cfg.Warn = func(rule, description, url, msg string, at []parser.Range) {
		if opts.Warn != nil {
			opts.Warn(Warning{Rule: rule, Description: description, URL: url, Message: msg, Lines: toRanges(at)})
		}
	}
	return linter.New(cfg), nil
}

// suggestAny adds to err what the first of words may have meant.
func suggestAny(err error, words map[string]struct{}, options []string) error {
	for _, w := range slices.Sorted(maps.Keys(words)) {
		if ok, wrapped := suggest.WrapErrorMaybe(err, w, options, true); ok {
			return wrapped
		}
	}
	return err
}

func lintStageNames(stages []instructions.Stage, lint *linter.Linter) {
	seen := map[string]bool{}
	for _, s := range stages {
		switch s.Name {
		case "":
			continue
		case "context", scratch:
			lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// lintCasing finds commands that are not written as most are.
func lintCasing(stages []instructions.Stage, lint *linter.Linter) {
	type word struct {
		name string
		at   []parser.Range
	}
	var all []word
	for _, s := range stages {
		all = append(all, word{s.OrigCmd, s.Location})
		for _, cmd := range s.Commands {
			all = append(all, word{cmd.Name(), cmd.Location()})
		}
	}
	lower := 0
	for _, w := range all {
		switch w.name {
		case strings.ToLower(w.name):
			lower++
		case strings.ToUpper(w.name):
			lower--
		}
	}
	want, form := "uppercase", strings.ToUpper
	if lower > 0 {
		want, form = "lowercase", strings.ToLower
	}
	for _, w := range all {
		if w.name != form(w.name) {
			lint.Run(&linter.RuleConsistentInstructionCasing, w.at, linter.RuleConsistentInstructionCasing.Format(w.name, want))
		}
	}
}

// lintFromArgs finds variables of FROM that no ARG before it declares.
func lintFromArgs(known, unmatched map[string]struct{}, at []parser.Range, lint *linter.Linter) {
	for _, k := range slices.Sorted(maps.Keys(unmatched)) {
		if _, ok := known[k]; ok {
			continue
		}
		meant, _ := suggest.Search(k, slices.Sorted(maps.Keys(known)), true)
		lint.Run(&linter.RuleUndefinedArgInFrom, at, linter.RuleUndefinedArgInFrom.Format(k, meant))
	}
}

// lintUndefined finds variables that nothing sets.
func lintUndefined(cmd instructions.Command, s *stage, unmatched map[string]struct{}, lint *linter.Linter) {
	for _, k := range slices.Sorted(maps.Keys(unmatched)) {
		declared := slices.ContainsFunc(s.args, func(a instructions.KeyValuePairOptional) bool { return a.Key == k })
		if declared || k == "BUILDKIT_SBOM_SCAN_CONTEXT" || k == "BUILDKIT_SBOM_SCAN_STAGE" {
			continue
		}
		meant, _ := suggest.Search(k, s.env.Keys(), true)
		lint.Run(&linter.RuleUndefinedVar, cmd.Location(), linter.RuleUndefinedVar.Format(k, meant))
	}
}

// lintPlatform finds a --platform that says what holds anyway, or the same for
// every build.
func lintPlatform(def instructions.Stage, word shell.ProcessWordResult, globals environ, lint *linter.Linter) {
	if len(word.Matched) == 1 && len(word.Unmatched) == 0 {
		_, ok := word.Matched["TARGETPLATFORM"]
		if v, _ := globals.Get("TARGETPLATFORM"); ok && v == word.Result {
			lint.Run(&linter.RuleRedundantTargetPlatform, def.Location, linter.RuleRedundantTargetPlatform.Format(def.Platform))
		}
	}
	if len(word.Matched) > 0 || len(word.Unmatched) > 0 {
		return
	}
	p, err := oci.ParsePlatform(word.Result, oci.HostPlatform())
	if err != nil || strings.Contains(def.Name, p.OS) || strings.Contains(def.Name, p.Architecture) {
		return // the stage's name says it: then it is meant
	}
	lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, def.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(word.Result))
}

func lintBasePlatform(name string, want, got oci.Platform, at []parser.Range, lint *linter.Linter) {
	if got.OS == "" && got.Architecture == "" {
		return // the config does not say
	}
	want, got = want.Normalize(), got.Normalize()
	if want.OS != got.OS || want.Architecture != got.Architecture {
		lint.Run(&linter.RuleInvalidBaseImagePlatform, at, linter.RuleInvalidBaseImagePlatform.Format(name, want.String(), got.String()))
	}
}

// lintDefaultBases finds FROM lines that mean nothing unless build arguments are
// given.
func lintDefaultBases(stages []instructions.Stage, lex *shell.Lex, env environ, args []instructions.ArgCommand, lint *linter.Linter) {
	env, _, err := globalArgs(env, lex, args, nil)
	if err != nil {
		return // told soon, as an error
	}
	for _, s := range stages {
		word, err := lex.ProcessWordWithMatches(s.BaseName, env)
		if err != nil {
			return
		}
		if _, err := oci.Parse(word.Result); err != nil {
			lint.Run(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
		}
	}
}

func lintPair(cmd instructions.Command, kv instructions.KeyValuePair, lint *linter.Linter) {
	if kv.NoDelim {
		lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(cmd.Name()))
	}
}

// lintOnce finds commands of which the last counts; last is where the one before was.
func lintOnce(cmd instructions.Command, last *[]parser.Range, lint *linter.Linter) {
	if *last != nil {
		lint.Run(&linter.RuleMultipleInstructionsDisallowed, *last, linter.RuleMultipleInstructionsDisallowed.Format(cmd.Name()))
	}
	*last = cmd.Location()
}

// lintSecret finds names that sound like a secret's. Words of a name are what
// underscores part.
func lintSecret(instruction, key string, at []parser.Range, lint *linter.Linter) {
	secret := false
	for _, w := range strings.Split(strings.ToLower(key), "_") {
		switch w {
		case "public", "file", "version":
			return
		case "apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token":
			secret = true
		}
	}
	if secret {
		lint.Run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, key))
	}
}

// lintIgnored finds sources that the ignore file leaves out.
func (c *converter) lintIgnored(src string, k *copying, lint *linter.Linter) {
	if c.opts.Ignored == nil {
		return
	}
	clean := path.Clean(src)
	verb := map[string]string{"ADD": "Add", "COPY": "Copy"}[k.verb]
	ask := strings.TrimPrefix(path.Join("/", clean), "/")
	if ask == "" {
		ask = "."
	}
	if c.opts.Ignored(ask) {
		lint.Run(&linter.RuleCopyIgnoredFile, k.cmd.Location(), linter.RuleCopyIgnoredFile.Format(verb, clean))
	}
}
