# The commands of this repository. `make` alone lists them.
#
# Needs Rust (rustup reads the version from Cargo.toml's rust-version or newer) and Go; what else lacks is
# installed as root on Debian, or named with the command that installs it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test lint package bench sim mutants tools image e2e

# Test servers and tools are built once, outside the tree.
export BELLWETHER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bellwether
NEED := tests/tools/need.sh
# Recursive on purpose: built when a target first asks for it.
# The examples look for their API server as every project does, in KUBEBUILDER_ASSETS.
TOOLS = BELLWETHER_TOOLS="$$(tests/tools/build.sh etcd gonode helm kubernetes neighbour prometheus)"; export BELLWETHER_TOOLS KUBEBUILDER_ASSETS="$$BELLWETHER_TOOLS"

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 18

run: ## three nodes in one process: an election to look at (bellwether demo)
	@$(NEED) protoc cc
	cargo run --locked --release --features cli -- demo $(ARGS)

tools: ## test servers and tools (etcd, kube-apiserver, promtool, …), into the cache
	@$(NEED) protoc cc chromium
	@tests/tools/build.sh etcd gonode helm kubernetes neighbour prometheus

# More tests at once than cores: most of them wait for leases and timers most of the time.
test: ## every test
	@$(NEED) protoc cc chromium
	@$(TOOLS); RUST_TEST_THREADS=$${RUST_TEST_THREADS:-8} cargo test --locked --workspace --features bellwether/mutants --no-fail-fast $(ARGS)

lint: ## format, lints, docs, licences; warnings are errors
	@$(NEED) protoc cc
	@tests/tools/lint.sh

package: ## the archive of the package, and programs of others that are built on it
	@$(NEED) protoc cc
	@tests/tools/package.sh

bench: ## the numbers, beside the raw limits of the same run (ARGS=--quick; ARGS=crash)
	@$(NEED) protoc cc
	@$(TOOLS); cargo bench --locked --no-fail-fast -- $(ARGS)

sim: ## the simulation: SEEDS=100000 FROM=0; a failing seed prints how to replay it
	@$(NEED) protoc cc
	BELLWETHER_SIM_SEEDS=$(or $(SEEDS),100000) BELLWETHER_SIM_FROM=$(or $(FROM),0) \
	  cargo test --locked --release --features mutants --test simulation -- --nocapture hold_over hold_in

mutants: ## breaks each rule of the protocol on purpose, and sees the simulation find it
	@$(NEED) protoc cc
	cargo test --locked --release --features mutants --test simulation -- --nocapture break mutant

image: ## the container image; ARGS="--prebuilt" needs no registry
	@$(NEED) protoc cc
	@tests/tools/image.sh $(ARGS)

e2e: ## the end-to-end tests on a real cluster
	@tests/e2e/run.sh
