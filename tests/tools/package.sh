#!/usr/bin/env bash
# package.sh: makes the archive of the package as `cargo publish` would, builds the command from it, and builds and tests
# programs of others on it: each in tests/outside is a package of its own, with features of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/outside

cargo package --locked --package bellwether --no-verify --allow-dirty --quiet
archives=("$target"/package/bellwether-*.crate)
rm -rf "$work"
mkdir -p "$work/bellwether"
tar --extract --file "${archives[-1]}" --directory "$work/bellwether" --strip-components 1
# It is not a member of the workspace of this repository.
printf '\n[workspace]\n' >> "$work/bellwether/Cargo.toml"
cp -R tests/outside/. "$work"

# All share their builds of other crates.
export CARGO_TARGET_DIR=$target/outside-target
step() { printf '\n== %s: %s\n' "$1" "${*:2}"; (cd "$work/$1" && "${@:2}"); }
for project in node standalone pinned; do
  # The versions of this repository.
  cp Cargo.lock "$work/$project/"
  step "$project" cargo test --offline --quiet
done
step bellwether cargo check --offline --quiet --features cli
printf '\npackage: builds from its archive (%s KiB)\n' "$(($(stat --format %s "${archives[-1]}") / 1024))"
