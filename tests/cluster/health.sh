#!/bin/bash
# Builds tests/gitops/health once for each of its versions, into a cache folder outside the repository, and prints the folder.
set -euo pipefail
export LC_ALL=C

cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
cd "$(dirname "$0")/../gitops/health"
out=$cache/health-$(cat go.mod go.sum ./*.go | sha256sum | cut -c1-12)
if [ ! -x "$out/health" ]; then
  exec 9>"$cache/health.lock"
  flock 9
  if [ ! -x "$out/health" ]; then
    echo "building tests/gitops/health into $out (once, some 2 minutes; with warm caches seconds) ..." >&2
    GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 \
      go build -trimpath -buildvcs=false -gcflags=all=-dwarf=false -ldflags=-s -o "$out.tmp/health" . 9>&- >&2
    rm -rf "$out"
    mv "$out.tmp" "$out"
  fi
fi
echo "$out"
