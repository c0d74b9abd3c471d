#!/usr/bin/env bash
# lint.sh: runs all checks that need no test run. Warnings are errors here and only here.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${BELLWETHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bellwether}

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets --features bellwether/mutants -- -D warnings
step cargo clippy --locked --all-targets -- -D warnings
step cargo check --locked --lib --features k8s-openapi/latest
step cargo check --locked --lib --features testing,k8s-openapi/latest
step cargo check --locked --lib --no-default-features
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items --features cli,testing

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
  deny=$cache/cargo-deny/bin/cargo-deny
  [ -x "$deny" ] || step cargo install cargo-deny --locked --quiet --root "$cache/cargo-deny"
fi
step "$deny" --locked check licenses bans sources
echo "not checked: security advisories, their list is kept on a git host (cargo deny check advisories)"

tests/tools/need.sh shellcheck
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
step shellcheck "${scripts[@]}"
printf '\nlint: clean\n'
