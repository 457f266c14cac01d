#!/bin/sh
# Generates Python from protos/ and the schemas gathered in .imports.
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
