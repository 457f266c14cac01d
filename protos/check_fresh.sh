#!/bin/sh
# Fails unless gen/ is what the protos give. Usage: protos/check_fresh.sh PYTHON
set -eu
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
protos/generate.sh "$1" "$fresh/gen"
if ! diff -r -q -x __pycache__ "$fresh/gen" gen; then
  echo "gen/ is stale: run make gen and commit what it writes" >&2
  exit 1
fi
