#!/bin/bash
# Unpacks Prometheus and promtool, from Debian's package, once into a cache folder outside the repository, and prints the folder of
# their executables. The package is not installed: that would start a service.
# Safe to run any number of times, also at the same time. The cache folder may be deleted at any time.
set -euo pipefail

version=2.42 # of Debian 12, which takes fixes and no other versions
say() { echo "$*" >&2; }

cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
out=$cache/prometheus-$version

if [ ! -x "$out/promtool" ]; then
  exec 9>"$cache/prometheus.lock"
  flock 9
fi
if [ ! -x "$out/promtool" ]; then # still, now that we have the lock
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "Prometheus comes from Debian's package, and there is no apt-get and dpkg-deb here. Put prometheus and promtool, version $version, into $out."
    exit 1
  fi
  say "Unpacking Debian's prometheus into $out (once; a download of 19 MB) ..."
  rm -rf "$out.tmp"
  mkdir "$out.tmp"
  cd "$out.tmp"
  # apt's own user cannot write here, and says so.
  download() { apt-get download -qq prometheus 2>"$out.tmp/said" >&2; }
  if ! download; then
    # The lists of packages may be missing, or too old to name a file that is still there.
    [ "$(id -u)" -ne 0 ] || apt-get update -qq >&2 || true
    download || { cat "$out.tmp/said" >&2; say "Debian's prometheus cannot be downloaded; \`apt-get update\` may help."; exit 1; }
  fi
  dpkg-deb --extract prometheus_*.deb package
  if [[ $(package/usr/bin/promtool --version) != "promtool, version $version."* ]]; then
    say "Debian's prometheus is not version $version, but $(package/usr/bin/promtool --version | head -n 1)."
    exit 1
  fi
  mkdir -p "$out"
  # promtool last: it says that all are there.
  mv package/usr/bin/prometheus package/usr/bin/promtool "$out/"
  cd "$cache"
  rm -rf "$out.tmp"
  say "... unpacked in $SECONDS s."
fi
echo "$out"
