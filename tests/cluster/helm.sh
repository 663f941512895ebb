#!/bin/sh
# Builds Helm once, and prints the folder of its executable.
exec "$(dirname "$0")/tool.sh" go helm.sh/helm/v3/cmd/helm v3.22.0
