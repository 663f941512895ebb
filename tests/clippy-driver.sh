#!/bin/bash
# The compiler of our own code in `make lint` (Cargo's RUSTC_WORKSPACE_WRAPPER): rustc's own code generation, and clippy's
# lints on the way, each an error. Not sh, which may drop CARGO_BIN_EXE_batchjob-operator for its hyphen.
exec clippy-driver "$@" -D warnings
