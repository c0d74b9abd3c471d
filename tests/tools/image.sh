#!/usr/bin/env bash
# Builds the container image with docker, or with buildah where no docker runs.
#
#   tests/tools/image.sh [--prebuilt] [--archive FILE.tar] [NAME:TAG]
#
# --prebuilt   builds the binary with this machine's cargo and puts it on `scratch`, without a registry
# --archive    writes the image to FILE.tar as an OCI archive (buildah) or a docker archive
#
# BUILD_BASE and RUNTIME_BASE replace the base images of the Dockerfile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

prebuilt='' archive='' name=''
while [ $# -gt 0 ]; do
  case $1 in
    --prebuilt) prebuilt=1 ;;
    --archive) archive=${2:?--archive needs a file}; shift ;;
    -*) echo "image.sh: there is no option $1" >&2; exit 2 ;;
    *) name=$1 ;;
  esac
  shift
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=${name:-bellwether:$version}
commit=$(git rev-parse HEAD 2> /dev/null || echo unknown)

arguments=(--build-arg "VERSION=$version" --build-arg "COMMIT=$commit")
if [ -n "$prebuilt" ]; then
  target=$(rustc -vV | sed -n 's/^host: //p')
  BELLWETHER_COMMIT=$commit RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --profile dist --features cli --bin bellwether --target "$target" >&2
  install -D "${CARGO_TARGET_DIR:-target}/$target/dist/bellwether" target/image/bellwether
  arguments+=(--build-arg BINARY=prebuilt --build-arg "RUNTIME_BASE=${RUNTIME_BASE:-scratch}")
  # Some builders fetch the bases of all stages: an unused stage must not cause a download.
  arguments+=(--build-arg "BUILD_BASE=${BUILD_BASE:-scratch}")
else
  [ -z "${BUILD_BASE:-}" ] || arguments+=(--build-arg "BUILD_BASE=$BUILD_BASE")
  [ -z "${RUNTIME_BASE:-}" ] || arguments+=(--build-arg "RUNTIME_BASE=$RUNTIME_BASE")
fi

if docker info > /dev/null 2>&1; then
  docker build "${arguments[@]}" --tag "$name" . >&2
  [ -z "$archive" ] || docker save --output "$archive" "$name"
else
  tests/tools/need.sh buildah
  # With these settings buildah needs no daemon and no user namespaces, and works on any file system, also as root.
  export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
  buildah build --format oci --layers=false "${arguments[@]}" --tag "$name" . >&2
  if [ -n "$archive" ]; then
    rm -f "$archive"
    buildah push "$name" "oci-archive:$archive:$name" >&2
  fi
fi
echo "$name"
