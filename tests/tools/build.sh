#!/usr/bin/env bash
# Builds the pinned test tools and prints the folder they are in.
#
#   tests/tools/build.sh etcd [helm ...]
#
# Each tool has a folder with a go.mod and a go.sum beside this script. The script builds each tool once into
# ${BELLWETHER_CACHE:-$HOME/.cache/bellwether}/tools-<key>, where the key is the hash of all go.sum
# files and of our own sources here: a changed version makes a new folder. If a tool's folder contains a
# `build.sh`, the script runs it there with the target folder as its only argument; otherwise it builds every
# `tool` line of go.mod. Needs only Go. Several runs at once are safe.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
  echo "build.sh: $*" >&2
  exit 1
}

known() {
  local module
  for module in "$here"/*/go.mod; do basename "$(dirname "$module")"; done | tr '\n' ' '
}

# name_of PACKAGE: name of a Go package's program. For some packages the last path element is not a usable
# name.
name_of() {
  case "$1" in
    go.etcd.io/etcd/server/v3) echo etcd ;;
    */v[0-9] | */v[0-9][0-9]) basename "$(dirname "$1")" ;;
    *) basename "$1" ;;
  esac
}

build_tools() { # build_tools TARGET: builds the tools of the module in the current folder
  local package
  for package in $(go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' tool); do
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$1/$(name_of "$package")" "$package" >&2
  done
}

[ $# -gt 0 ] || die "name what to build, one or more of: $(known)"
command -v go >/dev/null || die "Go is not installed: get 1.26 or later from https://go.dev/dl and put it on the PATH"
export GOFLAGS="-mod=readonly -buildvcs=false ${GOFLAGS:-}"

key=$(cat "$here"/*/go.sum "$here"/*/*.go | sha256sum | cut -c1-12)
target=${BELLWETHER_CACHE:-$HOME/.cache/bellwether}/tools-$key
mkdir -p "$target/.built"

for tool in "$@"; do
  [ -f "$here/$tool/go.mod" ] || die "no tool is called '$tool': there are $(known)"
  # As the condition of an `if` or before `||`, a subshell goes on after a failed command, despite `set -e`.
  set +e
  (
    set -e
    exec 9>"$target/.built/$tool.lock"
    flock 9
    [ ! -e "$target/.built/$tool" ] || exit 0
    echo "building $tool into $target (once)" >&2
    scratch=$(mktemp -d "$target/.built/$tool.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    cd "$here/$tool"
    if [ -x build.sh ]; then ./build.sh "$scratch" >&2; else build_tools "$scratch"; fi
    mv -f "$scratch"/* "$target/"
    touch "$target/.built/$tool"
  )
  built=$?
  set -e
  [ "$built" = 0 ] || die "$tool was not built; see above"
done
echo "$target"
