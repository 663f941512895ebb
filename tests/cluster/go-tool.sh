#!/bin/bash
# Installs a program of a Go module once, into a cache folder outside the repository, and prints the folder of its executable:
# go-tool.sh PACKAGE VERSION
set -euo pipefail

package=$1 version=$2
tool=${package##*/}
cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
out=$cache/$tool-$version
if [ ! -x "$out/$tool" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/$tool.lock"
  flock 9
  if [ ! -x "$out/$tool" ]; then
    echo "installing $tool $version into $out (once, some 5 minutes; 1 where Go's caches have Kubernetes) ..." >&2
    (cd / && GOTOOLCHAIN=local GOFLAGS=-trimpath GOWORK=off CGO_ENABLED=0 GOBIN=$out.tmp \
      go install -gcflags=all=-dwarf=false -ldflags=-s "$package@$version" 9>&-) >&2
    mkdir -p "$out"
    mv "$out.tmp/$tool" "$out/$tool"
    rmdir "$out.tmp"
  fi
fi
echo "$out"
