#!/bin/sh
# Regenerates gen/ from protos/ and the schemas gathered in .imports. Usage: protos/generate.sh PYTHON
set -eu
python=$1
bin=$(dirname "$python")
rm -rf .imports gen/atelier gen/buf
"$python" protos/gather.py .imports
"$python" -m grpc_tools.protoc -I protos -I .imports \
  --python_out=gen --grpc_python_out=gen \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --mypy_out=gen \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" --mypy_grpc_out=gen \
  $(find protos .imports/buf -name '*.proto' | sort)
