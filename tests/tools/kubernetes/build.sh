#!/usr/bin/env bash
# Builds kube-apiserver and kubectl into the folder named by the only argument.
#
# The programs report their version only if linker flags set it: without them the server reports v0.0.0.
set -euo pipefail
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
at=k8s.io/component-base/version
stamp="-X $at.gitVersion=$version -X $at.gitMajor=$major -X $at.gitMinor=$minor"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $stamp" -o "$1/" tool
