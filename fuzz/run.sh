#!/bin/bash
# Fuzzes each target for so many seconds, from the corpus in the repository, which it leaves as it is. Stable Rust does:
# our code is safe, so that the sanitizers, which need nightly, would find nothing that a panic does not say.
set -euo pipefail
cd "$(dirname "$0")/.."
for corpus in fuzz/corpus/*/; do
  target=$(basename "$corpus")
  cargo fuzz build --sanitizer none "$target"
  mkdir -p "fuzz/target/found/$target"
  # What is found first goes into the first folder.
  cargo fuzz run --sanitizer none "$target" "fuzz/target/found/$target" "$corpus" -- \
    -max_total_time="$1" -max_len=65536 -timeout=20 -rss_limit_mb=1024 -print_final_stats=1
done
