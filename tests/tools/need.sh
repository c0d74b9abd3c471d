#!/usr/bin/env bash
# need.sh: installs missing system programs, or prints the command that installs them.
#
#   tests/tools/need.sh protoc chromium
#
# As root on Debian or Ubuntu, the script installs missing programs; otherwise it prints the command that
# installs them, and exits with 1. It never skips a program silently.
set -euo pipefail

declare -A packages=(
  [protoc]="protobuf-compiler libprotobuf-dev"
  [chromium]="chromium"
  [cc]="gcc libc6-dev"
  [shellcheck]="shellcheck"
  [buildah]="buildah"
  [runc]="runc"
  [iptables]="iptables"
  [conntrack]="conntrack"
  [openssl]="openssl"
  [ip]="iproute2"
  [python3]="python3"
)

# The browser is installed under one of several names.
present() {
  case $1 in
    chromium) command -v chromium || command -v chromium-browser || command -v google-chrome ;;
    # Without the well-known types, protoc cannot build the store's client.
    protoc)
      command -v protoc && {
        [ -e /usr/include/google/protobuf/timestamp.proto ] ||
          [ -e "$(dirname "$(command -v protoc)")/../include/google/protobuf/timestamp.proto" ]
      }
      ;;
    *) command -v "$1" ;;
  esac > /dev/null 2>&1
}

missing=()
for program in "$@"; do
  present "$program" && continue
  [ -n "${packages[$program]:-}" ] || {
    echo "need.sh: $program is not installed: install it, and see that it is on PATH" >&2
    exit 1
  }
  # Package lists are split into words on purpose.
  # shellcheck disable=SC2206
  missing+=(${packages[$program]})
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  echo "need.sh: installing ${missing[*]}" >&2
  apt-get update -qq >&2
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 < /dev/null
else
  echo "need.sh: missing: $*. Install with:" >&2
  echo "  sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
for program in "$@"; do
  present "$program" || {
    echo "need.sh: $program is still not there after installing ${missing[*]}" >&2
    exit 1
  }
done
