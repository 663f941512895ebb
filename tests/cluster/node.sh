#!/bin/bash
# Makes what a node of the test cluster needs besides `kube` (containerd, from its Go modules, and a pause image) once, into
# a cache folder outside the repository, and prints the folder, for `kube up --node`. runc and the CNI plugins are Debian's,
# and installed where they are missing.
# Safe to run any number of times, also at the same time. The cache folder may be deleted at any time.
# Exit code 77: no node can run on this machine; stderr says why.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

version=2.4.2 # Debian 12's is too old for our kubelet

say() { echo "$*" >&2; }
cannot() {
  say "A node cannot run here: $*"
  exit 77
}

[ "$(id -u)" -eq 0 ] || cannot "it needs root."
said=$(unshare --mount --mount-proc --pid --net --ipc --uts --fork mount -t tmpfs t /run 2>&1) ||
  cannot "this kernel or container does not allow new namespaces ($said)."
memory=/sys/fs/cgroup
[ -e $memory/cgroup.controllers ] || memory=$memory/memory
probe=$memory/batchjob-node-probe-$$
said=$(mkdir "$probe" 2>&1 && rmdir "$probe" 2>&1) || cannot "cgroups cannot be made ($said)."

cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
cd "$(dirname "$0")"
out=$cache/node-$version-$(cat node.sh ../../deploy/image/oci.py | sha256sum | cut -c1-12)

missing=()
command -v runc >/dev/null || missing+=(runc)
command -v ip >/dev/null || missing+=(iproute2)
[ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]} ..."
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if [ ! -e "$out/pause.tar" ]; then
  exec 9>"$cache/node.lock"
  flock -n 9 || { say "Another build of containerd is running: waiting for it."; flock 9; }
fi
if [ ! -e "$out/pause.tar" ]; then # still, now that we have the lock
  say "Building containerd $version for the tests, into $out (once; 1 to 2 minutes on 2 cores) ..."
  rm -rf "$out.tmp"
  mkdir -p "$out.tmp/pause"
  (cd / && GOTOOLCHAIN=local GOFLAGS= GOWORK=off CGO_ENABLED=0 GOBIN=$out.tmp go install -trimpath \
    -gcflags=all=-dwarf=false -ldflags "-s -w" -tags no_btrfs,no_zfs,no_aufs,no_devmapper \
    "github.com/containerd/containerd/v2/cmd/"{containerd,ctr,containerd-shim-runc-v2}"@v$version") 9>&- >&2
  # What holds a Pod's namespaces.
  echo 'int pause(void); int main(void) { for (;;) pause(); }' | cc -static -O1 -s -x c -o "$out.tmp/pause/pause" -
  printf 'FROM scratch\nCOPY pause /\nENTRYPOINT ["/pause"]\n' >"$out.tmp/Dockerfile"
  python3 ../../deploy/image/oci.py "$out.tmp/pause" localhost/pause:1 "$out.tmp/pause.tar" "$out.tmp/Dockerfile" >&2
  rm -rf "$out"
  mv "$out.tmp" "$out"
  say "... built in $((SECONDS / 60)) min $((SECONDS % 60)) s."
fi
echo "$out"
