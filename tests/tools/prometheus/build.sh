#!/usr/bin/env bash
# Builds promtool into the folder named by the only argument.
#
# The tag leaves all service discoveries out: promtool needs none to check metrics and rules. One of
# them wants a version of the Nomad API that cannot be fetched; the empty `nomad-stub` stands for it.
set -euo pipefail
CGO_ENABLED=0 go build -tags remove_all_sd -trimpath -ldflags '-s -w' -o "$1/promtool" \
  github.com/prometheus/prometheus/cmd/promtool
