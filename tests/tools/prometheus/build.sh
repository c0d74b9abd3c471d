#!/usr/bin/env bash
# Builds prometheus and promtool into the folder named by the only argument.
#
# The build tag excludes all service discoveries: scraping named targets, and checking metrics and rules, needs
# no service discovery. The Nomad discovery requires a version of the Nomad API that cannot be fetched; the
# empty `nomad-stub` replaces it.
set -euo pipefail
for program in prometheus promtool; do
  CGO_ENABLED=0 go build -tags remove_all_sd -trimpath -ldflags '-s -w' -o "$1/$program" \
    "github.com/prometheus/prometheus/cmd/$program"
done
