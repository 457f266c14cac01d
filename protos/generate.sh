#!/bin/sh
# Generates Python, and the OpenAPI document, from protos/ and the schemas gathered in .imports.
# Usage: protos/generate.sh PYTHON FOLDER    (FOLDER is emptied first)
set -eu
python=$1
target=$2
bin=$(dirname "$python")
rm -rf .imports "$target"
mkdir -p "$target"
"$python" protos/gather.py .imports
"$python" -m grpc_tools.protoc -I protos -I .imports \
  --python_out="$target" --grpc_python_out="$target" \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --mypy_out=quiet:"$target" \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" --mypy_grpc_out=quiet:"$target" \
  $(find protos .imports/buf -name '*.proto' | sort)
# The OpenAPI document needs the comments, which the generated modules do not have.
described=$(mktemp)
trap 'rm -f "$described"' EXIT
"$python" -m grpc_tools.protoc -I protos -I .imports --include_source_info --descriptor_set_out="$described" \
  $(find protos -name '*.proto' | sort)
PYTHONPATH="$target:.${PYTHONPATH:+:$PYTHONPATH}" "$python" -m gateway.openapi "$described" "$target/atelier/openapi.json"
