#!/bin/bash
# Installs the Python packages of tests/NAME/requirements.txt, or of benches/NAME/requirements.txt, once, into a cache folder
# outside the repository, and prints the path of its `bin` folder. The folder is named by what is installed: another list or
# another Python is another folder.
# Safe to run any number of times, also at the same time. The cache folder may be deleted at any time.
set -euo pipefail

name=${1:?usage: venv.sh NAME}
cd "$(dirname "$0")/../.."
requirements=tests/$name/requirements.txt
[ -e "$requirements" ] || requirements=benches/$name/requirements.txt

say() { echo "$*" >&2; }

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  say "$name is installed into a Python venv, and there is no \`python3\` with a venv module in PATH. Install it (Debian: apt-get install python3 python3-venv)."
  exit 1
fi
cache=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
hash=$( (python3 -VV; cat "$requirements") | sha256sum | cut -c1-12)
out=$cache/$name-$hash

# A venv does not survive being moved: it is made in its place, and the file `complete` says that it is whole.
if [ ! -e "$out/complete" ]; then
  exec 9>"$cache/$name.lock"
  flock -n 9 || { say "Another installation of $name is running: waiting for it."; flock 9; }
fi
if [ ! -e "$out/complete" ]; then # still, now that we have the lock
  say "Installing the Python packages of $(dirname "$requirements"), into $out (once) ..."
  rm -rf "$out"
  python3 -m venv "$out" >&2
  "$out/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
    -r "$requirements" >&2
  touch "$out/complete"
  say "... installed in $SECONDS s, $(du -sm "$out" | cut -f1) MB."
fi
echo "$out/bin"
