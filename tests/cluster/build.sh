#!/bin/bash
# Builds the `kube` binary (see main.go) once, into a cache folder outside the repository, and prints
# the folder: it holds `kube` and links to it by the names of the components (kubectl, etcd, ...).
# Safe to run any number of times, also at the same time. The cache folder may be deleted at any time.
set -euo pipefail
export LC_ALL=C # the order of *.go is part of the hash

cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
cd "$(dirname "$0")"

version=$(sed -n 's/^\tk8s.io\/kubernetes v//p' go.mod)
names=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)

say() { echo "$*" >&2; }

hash=$(cat go.mod go.sum ./*.go | sha256sum | cut -c1-12)
out=$cache/kube-$version-$hash

if [ ! -x "$out/kube" ]; then
  if [ "$(uname -s)" != Linux ]; then
    say "The test cluster runs on Linux only, and this is $(uname -s)."
    exit 1
  fi
  want=$(sed -n 's/^go \([0-9.]*\)$/\1/p' go.mod)
  hint="Install it from https://go.dev/dl/ and put its bin folder into PATH."
  if ! command -v go >/dev/null; then
    say "The test cluster is built with Go $want or newer, and there is no \`go\` in PATH. $hint"
    exit 1
  fi
  export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0
  have=$(cd / && go env GOVERSION)
  have=${have#go}
  have=${have%% *}
  if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n1)" != "$want" ]; then
    say "The test cluster is built with Go $want or newer, and this is Go $have ($(command -v go)). $hint"
    exit 1
  fi

  exec 9>"$cache/kube.lock"
  flock -n 9 || { say "Another build of the test cluster is running: waiting for it."; flock 9; }
fi
if [ ! -x "$out/kube" ]; then # still, now that we have the lock
  say "Building Kubernetes $version for the tests, into $out"
  say "(once; the first time 6 to 7 minutes on 2 cores and about 4 GB for Go's caches, with warm caches half a minute) ..."
  rm -rf "$out.tmp"
  mkdir "$out.tmp"
  stamp=k8s.io/component-base/version
  IFS=. read -r major minor _ <<<"$version"
  # DWARF would be made for each package, and thrown away at the end.
  go build -trimpath -buildvcs=false -gcflags=all=-dwarf=false -o "$out.tmp/kube" -ldflags "-s -w \
    -X $stamp.gitVersion=v$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor" . 9>&- >&2
  for name in "${names[@]}"; do
    ln -s kube "$out.tmp/$name"
  done
  rm -rf "$out"
  mv "$out.tmp" "$out"
  say "... built in $((SECONDS / 60)) min $((SECONDS % 60)) s."
fi
echo "$out"
