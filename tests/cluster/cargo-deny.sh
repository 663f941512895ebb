#!/bin/bash
# Installs cargo-deny once, into a cache folder outside the repository, and prints the path of its executable.
set -euo pipefail

version=0.20.2
cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
out=$cache/cargo-deny-$version
if [ ! -x "$out/bin/cargo-deny" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/cargo-deny.lock"
  flock 9
  if [ ! -x "$out/bin/cargo-deny" ]; then
    echo "installing cargo-deny $version into $out (once, 2 to 3 minutes) ..." >&2
    # Not under the repository's profile or target folder.
    (cd / && CARGO_TARGET_DIR="$out.build" cargo install --quiet --locked --root "$out" "cargo-deny@$version") >&2
    rm -rf "$out.build"
  fi
fi
echo "$out/bin/cargo-deny"
