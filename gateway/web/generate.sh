#!/bin/sh
# Generates the browser's client from protos/ and the gathered schemas into gateway/web/src/gen (not committed).
# Usage, from the repository's root: gateway/web/generate.sh PYTHON    (a Python with grpcio-tools; node on the PATH)
set -eu
python=$1
web=gateway/web
rm -rf $web/src/gen
mkdir -p $web/src/gen
"$python" protos/gather.py .imports
"$python" -m grpc_tools.protoc -I protos -I .imports \
  --plugin=protoc-gen-es=$web/node_modules/.bin/protoc-gen-es \
  --es_out=$web/src/gen --es_opt=target=ts \
  $(find protos/atelier .imports/buf .imports/google -name '*.proto' ! -name worker_service.proto | sort)
