#!/usr/bin/env bash
# Builds prometheus and promtool into the folder named by the only argument.
#
# The tag leaves all service discoveries out: none is needed to scrape named targets and to check metrics
# and rules. One of them wants a version of the Nomad API that cannot be fetched; the empty `nomad-stub`
# stands for it.
set -euo pipefail
for program in prometheus promtool; do
  CGO_ENABLED=0 go build -tags remove_all_sd -trimpath -ldflags '-s -w' -o "$1/$program" \
    "github.com/prometheus/prometheus/cmd/$program"
done
