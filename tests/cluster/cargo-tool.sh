#!/bin/bash
# Installs a cargo tool once, into a cache folder outside the repository, and prints the folder of its executable:
# cargo-tool.sh NAME VERSION
set -euo pipefail

tool=$1 version=$2
cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
out=$cache/$tool-$version
if [ ! -x "$out/bin/$tool" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/$tool.lock"
  flock 9
  if [ ! -x "$out/bin/$tool" ]; then
    echo "installing $tool $version into $out (once, some 2 minutes) ..." >&2
    # Not under the repository's profile or target folder, and unoptimised: it compiles for longer than it ever runs.
    (cd / && CARGO_TARGET_DIR="$out.build" CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --quiet --locked --root "$out" "$tool@$version") >&2
    rm -rf "$out.build"
  fi
fi
echo "$out/bin"
