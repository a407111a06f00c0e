# Every command a developer needs. `make help` lists them; the longer ones live in scripts/.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
# The development profile serves every check, so that one set of artefacts is built and shared.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# A workspace of its own.
SQLX := tests/clients/sqlx/Cargo.toml

.PHONY: help up build profile test lint fmt deny advisories tidy clippy doc test-rust test-clients chaos bench-wan \
	bench-consistency bench-failover bench-poolers clean deps-build deps-test

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## Install what is missing, build, and run a global database on this machine
	@exec $(TARGET)/release/pangea up

build: deps-build ## Build the release binary
	RUSTFLAGS="$(RUSTFLAGS) -Cprofile-use=$(CURDIR)/profile/pangea.profdata" \
		$(CARGO) build --locked --release --package pangea-cli

profile: deps-build ## Record what runs often, by which `make build` lays out the code
	profile/record

test: deps-test lint test-rust test-clients ## Everything CI runs, in CI's order

lint: deny fmt-check tidy clippy doc ## The static checks

deny: deps-test ## Licences, bans and sources of dependencies
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources

# Needs the RustSec database from github.com, which `make test` must not depend on.
advisories: deps-test ## Known vulnerabilities in dependencies
	$(CARGO) deny check advisories

fmt: ## Format the sources
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path $(SQLX)

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path $(SQLX) --check

tidy: ## The house rules that no other tool checks
	$(CARGO) xtask tidy

clippy: deps-test
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: deps-test
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

test-rust: deps-test ## Unit, property and end-to-end tests
	$(CARGO) nextest run --locked --workspace

test-clients: deps-test ## The drivers of several languages against a running global database, in both pool modes
	@# The same artefacts as the tests before: a build of one package would choose other features and compile anew.
	$(CARGO) test --locked --workspace --no-run --quiet
	PANGEA_BIN=$(TARGET)/debug/pangea CARGO=$(CARGO) CARGO_TARGET_DIR=$(TARGET) tests/clients/run
	PANGEA_UP_OPTIONS="--pool-mode transaction" \
	  PANGEA_BIN=$(TARGET)/debug/pangea CARGO=$(CARGO) CARGO_TARGET_DIR=$(TARGET) tests/clients/run

# CHAOS_ROUNDS, CHAOS_SEED and CHAOS_FAULT choose; clocks are set by libfaketime, disks are filled by root: see
# crates/cli/tests/e2e/chaos/mod.rs.
chaos: deps-test ## 200 rounds of faults against a cluster whose clients go on writing
	PANGEA_CHAOS_ROUNDS=$(or $(CHAOS_ROUNDS),200) PANGEA_CHAOS_SEED=$(or $(CHAOS_SEED),1) \
		PANGEA_CHAOS_FAULT=$(CHAOS_FAULT) \
		$(CARGO) test --locked --workspace --test e2e -- chaos::rounds --exact --nocapture

bench-wan: build ## Round trips per transaction over a 40 ms link: plain psql and through pangea
	PANGEA_BIN=$(TARGET)/release/pangea bench/wan/run

bench-consistency: build ## What read consistency costs: waits, CPU time of positions, idle waits
	PANGEA_BIN=$(TARGET)/release/pangea bench/consistency/run

bench-failover: build ## How long writes are away when the primary moves (needs the Python of test-clients)
	PANGEA_BIN=$(TARGET)/release/pangea bench/failover/run

bench-poolers: build ## Throughput, latency, CPU time and memory beside PgBouncer, Pgpool-II, PgCat and PgDog
	PANGEA_BIN=$(TARGET)/release/pangea bench/poolers/run

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf tests/clients/node/node_modules

deps-build:
	@scripts/install-deps build

deps-test:
	@scripts/install-deps build test
