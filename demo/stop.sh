#!/usr/bin/env bash
# Stops what `make demo KEEP=1` left running, and removes what it left on disk.
set -euo pipefail
cd "$(dirname "$0")/.."
kept_at=${CARGO_TARGET_DIR:-target}/demo.kept

if [ ! -e "$kept_at" ]; then
    echo "no demo is running"
    exit
fi
mapfile -t kept <"$kept_at"
work=${kept[0]}
# Ids of processes are used again: ours is who reads from our folder.
is_ours() { [[ $(readlink "/proc/$1/fd/0") == "$work"/* ]]; }

# The first holds the pipes; the others end when it is gone.
if is_ours "${kept[1]}"; then kill "${kept[1]}"; fi
for pid in "${kept[@]:2}"; do
    while is_ours "$pid"; do
        if [ "$SECONDS" -ge 20 ]; then echo "process $pid does not end: see $work" >&2; exit 1; fi
        sleep 0.1
    done
done
rm -rf "$work" "$kept_at"
echo "stopped"
