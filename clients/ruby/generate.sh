#!/bin/sh
# Makes clients/ruby/gen from the contracts, with Debian's ruby-grpc-tools. Usage, from the repository's root, after
# `make .imports`: clients/ruby/generate.sh [FOLDER]
set -eu
target=${1:-clients/ruby/gen}
rm -rf "$target"
mkdir -p "$target"
# The generator leaves custom options (the rules) out, and warns of each.
grpc_tools_ruby_protoc -I protos -I .imports --ruby_out="$target" --grpc_out="$target" \
  $(find protos .imports -name '*.proto' | sort) 2>&1 | grep -v 'Extensions are not yet supported' || true
test -e "$target/atelier/catalog/v1/catalog_service_services_pb.rb"
