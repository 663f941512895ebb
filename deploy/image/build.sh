#!/usr/bin/env bash
# Builds the image without Docker into target/image/batchjob-operator.tar, an OCI image layout. The same files
# are packed into the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
home=${CARGO_HOME:-$HOME/.cargo}
# Paths of this machine would end up in messages of panics and assertions.
rust="--remap-path-prefix=$PWD=/src --remap-path-prefix=$home=/cargo"
c="-ffile-prefix-map=$PWD=/src -ffile-prefix-map=$home=/cargo"
if [ -n "${CARGO_TARGET_DIR:-}" ]; then
  rust+=" --remap-path-prefix=$target=/target"
  c+=" -ffile-prefix-map=$target=/target"
fi
RUSTFLAGS=$rust CFLAGS=$c CARGO_INCREMENTAL=0 cargo build --release --locked --bin batchjob-operator

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n1)
out=$target/image
mkdir -p "$out"
deploy/image/rootfs.sh "$target/release/batchjob-operator" "$out/rootfs"
python3 deploy/image/oci.py "$out/rootfs" "localhost/batchjob-operator:$version" "$out/batchjob-operator.tar"
rm -rf "$out/rootfs"
