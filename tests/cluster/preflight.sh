#!/usr/bin/env bash
# Sees that a machine has what the tests and the demo need; installs Debian's packages where it may, else says what is missing.
set -euo pipefail

missing_packages=()
need() { command -v "$1" >/dev/null || missing_packages+=("$2"); }
need cc build-essential
need make make
need git git
need curl curl
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || missing_packages+=(python3-venv)

if [ ${#missing_packages[@]} -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing_packages[*]} ..." >&2
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing_packages[@]}" >&2
    else
        echo "missing: ${missing_packages[*]}. Install them: sudo apt-get install ${missing_packages[*]}" >&2
        exit 1
    fi
fi

absent=0
if ! command -v cargo >/dev/null; then
    echo "missing: Rust 1.95 or newer (cargo). Install it with rustup: https://rustup.rs" >&2
    absent=1
fi
if ! command -v go >/dev/null; then
    echo "missing: Go 1.26 or newer (go), to build Kubernetes for the tests. See https://go.dev/doc/install" >&2
    absent=1
fi
exit "$absent"
