#!/bin/sh
# Fails when protos/ break callers of the contract on a landed branch. Usage: protos/breaking.sh BUF BRANCH
# The landed contract is origin's where there is an origin, else the branch's; a repository without either passes.
set -eu
buf=$1
branch=$2
for ref in "origin/$branch" "$branch"; do
  if git rev-parse --verify --quiet "$ref:buf.yaml" >/dev/null; then
    against=$(mktemp -d)
    trap 'rm -rf "$against"' EXIT
    git archive "$ref" buf.yaml protos | tar -x -C "$against"
    cp -r .imports "$against/"
    "$buf" breaking --against "$against"
    exit
  fi
done
echo "no landed contract to compare with" >&2
