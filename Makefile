# What a person types. Each target works on a fresh clone with Go, git and make
# alone, as an ordinary user, and offline once the modules are there; newmachine,
# e2e-root and bench need more and say so.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=

GO_NEEDED := 1.26.8

# The version is the nearest tag, and a plain word outside a git tree.
VERSION := $(or $(shell git describe --tags --match 'v*' --dirty 2>/dev/null | sed 's/^v//'),0.1.0-dev)
COMMIT  := $(or $(shell git rev-parse --short=7 HEAD 2>/dev/null),unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null)

export CGO_ENABLED := 0

LDFLAGS    := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
BUILDFLAGS := -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

# The linter's version is part of the tree, so that everybody sees the same findings.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# test/gotest runs `go test`, shows its output and fails on a skip that is not
# in test/gotest/skips.txt.
GOTEST := $(GO) run ./test/gotest

.PHONY: all build check-tools demo test setup unit e2e e2e-root lint newmachine oci-suite test-vm fidelity fidelity-build real torture \
	race fuzz bench cover man completions golden startup deps sizes install ci clean help

all: build

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

check-tools:
	@missing=; \
	command -v git >/dev/null 2>&1 || missing="$$missing git"; \
	if ! command -v $(GO) >/dev/null 2>&1; then \
		missing="$$missing go(>=$(GO_NEEDED))"; \
	else \
		have=$$($(GO) env GOVERSION | sed 's/^go//; s/[ -].*//'); \
		[ "$$(printf '%s\n%s\n' $(GO_NEEDED) "$$have" | sort -V | head -n1)" = $(GO_NEEDED) ] || \
			missing="$$missing go(>=$(GO_NEEDED),_found_$$have)"; \
	fi; \
	if [ -n "$$missing" ]; then \
		echo "make: missing:$$missing" | tr _ ' ' >&2; \
		echo "Debian's git: apt-get install git. Go: https://go.dev/dl/" >&2; \
		exit 1; \
	fi

build: check-tools ## bin/cais, static and reproducible
	$(GO) build $(BUILDFLAGS) -o bin/ ./cmd/...

demo: build ## the main job, shown
	$(GO) run ./test/demo -cais bin/cais

test: setup ## every test this host allows
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory e2e
	@$(MAKE) --no-print-directory e2e-root
	@$(MAKE) --no-print-directory lint

setup: check-tools ## as root: the packages and users that the tests want
	@sh test/setup/setup.sh

unit: check-tools ## unit, kernel and arch tests
	$(GOTEST) ./cmd/... ./pkg/... ./docs/... ./test/arch/... ./test/golden/... ./test/gotest/...

e2e: build ## scripts against the program, as who you are
	$(GOTEST) -timeout 15m ./test/e2e/...

e2e-root: build ## the scripts again as ordinary users, and what needs root
	@if [ "$$(id -u)" = 0 ]; then \
		CAIS_E2E=root $(GOTEST) -timeout 15m ./test/e2e/...; \
	else \
		echo "e2e-root: needs root, not run"; \
	fi

lint: check-tools ## gofmt, vet, staticcheck, tidy, architecture
	@bad=$$(gofmt -s -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt -s:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	@if $(GO) list -m honnef.co/go/tools@$(lastword $(subst @, ,$(STATICCHECK))) >/dev/null 2>&1; then \
		echo "$(GO) run $(STATICCHECK) ./..."; $(GO) run $(STATICCHECK) ./...; \
	else \
		echo "lint: staticcheck is not in the module cache and cannot be fetched, not run"; \
	fi
	$(GO) mod tidy -diff
	$(GO) test ./test/arch/...

test-vm: build ## in a guest, as root: systemd, cgroup v2, logout, reboot, NFS
	CAIS_VM=1 $(GO) test -count=1 -timeout 40m -v ./test/vm

oci-suite: build ## as root: OCI runtime-tools' programs and the view inside, against crun and runc
	cd test/ociconf && $(GO) test -count=1 -timeout 20m ./...

newmachine: check-tools ## README's commands in a fresh Debian root, as root and as a user
	sh test/newmachine/newmachine.sh

# A module of its own: it links BuildKit, which the program must not.
fidelity: check-tools ## Dockerfiles' plans and configs compared with BuildKit's own
	cd test/buildkit && $(GO) test -mod=mod ./...

real: build ## images as people have them, built and run without root, from the internet's packages
	CAIS_E2E_REAL=1 $(GO) test -timeout 40m -run 'TestReal$$' ./test/e2e

fidelity-build: check-tools ## as root, with runc: what buildkitd makes of the corpus, compared with what is recorded
	cd test/buildkit && CAIS_BUILDKITD=1 $(GO) test -mod=mod -timeout 30m -run TestTrees ./...

torture: build ## the long fault runs
	CAIS_TORTURE=1 $(GOTEST) -timeout 60m -run 'Kill|TestScripts|TestTorture' ./test/e2e/...

# With cgo the store's library would want btrfs' headers for a driver that is
# never used here.
race: check-tools ## the race detector, which needs cgo and a C compiler
	CGO_ENABLED=1 $(GO) test -race -tags exclude_graphdriver_btrfs ./pkg/...

fuzz: check-tools ## each fuzz target for 30 s
	@$(GO) list -f '{{$$p := .ImportPath}}{{range .TestGoFiles}}{{$$p}} {{$$.Dir}}/{{.}}{{"\n"}}{{end}}' ./pkg/... | \
	while read -r pkg file; do \
		sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file" | while read -r f; do \
			echo "== $$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime 30s "$$pkg" </dev/null || exit 1; \
		done || exit 1; \
	done

bench: build ## all figures as ratios into docs/benchmarks.md
	$(GO) run ./test/bench -cais bin/cais -o docs/benchmarks.md

cover: check-tools ## coverage of unit tests and scripts, merged
	rm -rf bin/cover && mkdir -p bin/cover/unit bin/cover/e2e
	$(GO) test -cover -coverpkg=./... ./cmd/... ./pkg/... -args -test.gocoverdir=$(CURDIR)/bin/cover/unit
	$(GO) build $(BUILDFLAGS) -cover -coverpkg=./... -o bin/cover/cais ./cmd/cais
	CAIS_E2E_BIN=$(CURDIR)/bin/cover/cais GOCOVERDIR=$(CURDIR)/bin/cover/e2e $(GO) test ./test/e2e/...
	$(GO) tool covdata percent -i=bin/cover/unit,bin/cover/e2e
	$(GO) tool covdata textfmt -i=bin/cover/unit,bin/cover/e2e -o bin/cover/profile
	$(GO) tool cover -func=bin/cover/profile | tail -n1

man: check-tools ## docs/man from the commands
	$(GO) test ./docs/man/gen -update

completions: build ## bin/completions
	@mkdir -p bin/completions
	bin/cais completion bash >bin/completions/cais.bash
	bin/cais completion zsh >bin/completions/_cais
	bin/cais completion fish >bin/completions/cais.fish

golden: check-tools ## rewrite every golden file; review the diff
	$(GO) test $$($(GO) list -f '{{range .TestImports}}{{if eq . "cais.dev/cais/test/golden"}}{{$$.ImportPath}}{{"\n"}}{{end}}{{end}}' ./...) -update

startup: build ## what package inits cost, for commands and for the monitor
	@for role in cais cais-monitor; do \
		echo "== $$role"; \
		( exec -a $$role env GODEBUG=inittrace=1 true ) 2>/dev/null; \
		GODEBUG=inittrace=1 bash -c "exec -a $$role bin/cais --version" 2>&1 </dev/null | \
			awk '$$1=="init" {n++; ms+=$$5; kb+=$$8/1024; print} END {printf "%d inits, %.3f ms, %.0f kB\n", n, ms, kb}' | sort -k5 -n | tail -n 15; \
	done

deps: check-tools ## rewrite the lists of linked packages
	$(GO) test ./test/arch -run 'TestDependencies|TestRole' -update

sizes: check-tools ## files, functions and packages beyond the usual size
	@$(GO) run ./test/sizes

install: build completions ## DESTDIR= PREFIX=: the program, man pages, completions
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(wildcard bin/cais bin/cais-*) $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	@for p in docs/man/*.1; do [ -e "$$p" ] && install -m 644 "$$p" $(DESTDIR)$(PREFIX)/share/man/man1/; done; true
	install -D -m 644 bin/completions/cais.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cais
	install -D -m 644 bin/completions/_cais $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_cais
	install -D -m 644 bin/completions/cais.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/cais.fish

ci: ## what the CI runs
	.ci/run

clean:
	rm -rf bin
