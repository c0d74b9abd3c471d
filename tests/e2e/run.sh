#!/usr/bin/env bash
# The end-to-end tests: bellwether in a real Kubernetes cluster. The cluster's kit is a folder beside the
# repository; without it there is nothing to run them on.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=../shared/cluster
if [ ! -d "$kit" ]; then
  echo "end to end: SKIPPED, there is no $kit here"
  exit 0
fi
echo "end to end: there is nothing yet that runs in Kubernetes"
