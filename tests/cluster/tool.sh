#!/bin/bash
# Installs a program once, into a cache folder outside the repository, and prints the folder of its executable:
# tool.sh go PACKAGE VERSION, or tool.sh cargo NAME VERSION
set -euo pipefail

registry=$1 package=$2 version=$3
tool=${package##*/}
cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
out=$cache/$tool-$version

install_with_go() { # into $out
  (cd / && GOTOOLCHAIN=local GOFLAGS=-trimpath GOWORK=off CGO_ENABLED=0 GOBIN=$out.tmp \
    go install -gcflags=all=-dwarf=false -ldflags=-s "$package@$version" 9>&-) >&2
  mkdir -p "$out"
  mv "$out.tmp/$tool" "$out/$tool"
  rmdir "$out.tmp"
}

install_with_cargo() { # into $out/bin
  # Not under the repository's profile or target folder, and unoptimised: it compiles for longer than it ever runs.
  (cd / && CARGO_TARGET_DIR="$out.build" CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --quiet --locked --root "$out" "$tool@$version") >&2
  rm -rf "$out.build"
}

case $registry in
go) folder=$out about='some 5 minutes; 1 where the caches of Go have Kubernetes' ;;
cargo) folder=$out/bin about='some 2 minutes' ;;
*) echo "tool.sh: no registry '$registry'" >&2; exit 64 ;;
esac
if [ ! -x "$folder/$tool" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/$tool.lock"
  flock 9
  if [ ! -x "$folder/$tool" ]; then # still, now that we have the lock
    echo "installing $tool $version into $out (once, $about) ..." >&2
    "install_with_$registry"
  fi
fi
echo "$folder"
