# Tenure. `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Programs, checks and tests are compiled alike, so that nothing is compiled twice.
export CGO_ENABLED := 0
export GOFLAGS ?= -trimpath
# sudo forgets where Go usually is.
export PATH := $(PATH):/usr/local/go/bin

BIN     := bin
CACHE   := .cache
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X tenure/internal/daemon.Version=$(VERSION) -X main.version=$(VERSION)
LINT    := $(CACHE)/golangci-lint

.PHONY: help
help: ## Show this list.
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build tenured, tenure, tenure-run and snapctl into bin/, static.
	@mkdir -p $(BIN)
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

# Where "make install" installs, below DESTDIR.
PREFIX ?= /usr/local
# Where polkit looks for actions, whatever the prefix.
POLKIT_ACTIONS ?= /usr/share/polkit-1/actions
.PHONY: install
install: build ## Install programs, units of systemd and actions of polkit below DESTDIR, for PREFIX (/usr/local).
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BIN)/tenured $(BIN)/tenure $(BIN)/tenure-run $(BIN)/snapctl
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/*.service packaging/*.socket
	install -D -m 0644 -t $(DESTDIR)$(POLKIT_ACTIONS) packaging/*.policy

.PHONY: deps
deps: ## Install the Debian packages that building and testing need.
	@./scripts/deps

.PHONY: examples
examples: deps build ## Build the example snaps into .cache/examples/, and fetch what else tests need into .cache/.
	@$(MAKE) --no-print-directory -C examples
	@./scripts/stock-snap >/dev/null
	@./scripts/stock-snap trixie >/dev/null
	@./scripts/public-client >/dev/null

.PHONY: demo
demo: examples ## Show the main job: a VM and a database live through refreshes.
	@./scripts/demo

.PHONY: test
test: examples ## Run all tests, end-to-end ones natively and under systemd (SUPERVISORS=native: only so), and check that nothing is left.
	@./scripts/run-tests

.PHONY: crash
crash: examples ## Kill the daemon at everything that it does in every operation, go on over what fails, and print a table.
	TENURE_CRASH=all go test ./internal/refresh -run '^TestCrash' -count=1 -v
	TENURE_CRASH=all go test ./test -run '^TestCrash' -count=1 -parallel 4 -timeout 120m -v

SOAK_TIME ?= 2h
SOAK_SNAPS ?= 40
# The seed of a run that is to be had again; drawn and printed where there is none.
SOAK_SEED ?= $(shell date +%s)
.PHONY: soak
soak: ## Random operations and faults on 40 snaps (SOAK_SNAPS) with 200 services for SOAK_TIME (2h), against a model; SOAK_SEED repeats a run.
	SOAK_SEED=$(SOAK_SEED) SOAK_SNAPS=$(SOAK_SNAPS) SOAK_TIME=$(SOAK_TIME) go test ./test/soak -run '^TestSoak$$' -count=1 -timeout 0 -v

CUTS  ?= 300
READS ?= 5000
TROUBLES ?= 200
.PHONY: power
power: ## Cut the power at CUTS (300) moments and start on what is left, read READS (5000) more, and have the disk refuse something TROUBLES (200) times; SEED repeats.
	SEED=$${SEED:-$$RANDOM} CUTS=$(CUTS) READS=$(READS) TROUBLES=$(TROUBLES) go test ./test/powercut -run '^TestPowerCuts$$' -count=1 -timeout 60m -v

.PHONY: soak-web
soak-web: examples ## Refresh web servers 50 times each under full load, and count what fails.
	go test ./test -tags soak -run '^TestSoak' -count=1 -timeout 15m -v

.PHONY: lint
lint: $(LINT) ## Check formatting, vet (all of it is a part of the linter), lint and shell scripts.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	$(LINT) run ./...
	shellcheck $$(git ls-files | xargs awk 'FNR == 1 && /^#!(\/bin\/(ba)?sh|\/usr\/bin\/env bash)/ {print FILENAME} {nextfile}')

$(LINT): tools/go.mod tools/go.sum
	@mkdir -p $(CACHE)
	go build -modfile=tools/go.mod -o $(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: bench
bench: examples ## Measure, against floors measured in the same run.
	@./scripts/bench

.PHONY: growth
growth: examples ## Measure how times and memory grow with the number of things, and draw docs/growth.svg.
	@./scripts/growth

HOSTILE ?= 2000
FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10m).
	@FUZZTIME=$(FUZZTIME) ./scripts/fuzz

.PHONY: hostile
hostile: examples ## Give HOSTILE (2000) damaged and misleading snap files to a daemon.
	HOSTILE=$(HOSTILE) go test ./test -run '^TestHostileSnaps$$' -count=1 -timeout 60m -v

# Where govulncheck knows from what is vulnerable; scripts/vulndb makes one for machines without a network.
VULNDB ?= https://vuln.go.dev
.PHONY: security
security: $(LINT) ## Look for known vulnerabilities, and for what gosec finds.
	$(LINT) run --enable-only gosec ./...
	go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 -db $(VULNDB) ./...

.PHONY: clean
clean: ## Remove what was built, but not downloads.
	rm -rf $(BIN) $(CACHE)/examples
