#!/usr/bin/env bash
# Generates the checked-in stubs:  protos.sh        writes them
#                                  protos.sh --check fails when the checked-in ones differ
#
# Public contract: protos/keyd/v1 -> client_sdk/src/keyd_protos/v1. protoc derives the Python import
# from the path, and `keyd.v1` would collide with the daemon's package, so exactly that one prefix is
# rewritten; protocol names stay `keyd.v1`. Worker messages: keyd/wire, in place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=$PWD/.venv-protos/bin
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

protoc() { PATH=$bin:$PATH "$bin/python" -m grpc_tools.protoc "$@"; }

mkdir "$out/public" "$out/private"
protoc -I protos --python_out="$out/public" --mypy_out="quiet:$out/public" \
    --grpc_python_out="$out/public" --mypy_grpc_out="quiet:$out/public" protos/keyd/v1/*.proto
sed -i 's/^from keyd\.v1 import /from keyd_protos.v1 import /' "$out"/public/keyd/v1/*
if grep -nE '^(from|import) keyd\.' "$out"/public/keyd/v1/*; then
    echo "protos.sh: an import still names the daemon's package; extend the rewrite" >&2
    exit 1
fi
protoc -I . --python_out="$out/private" --mypy_out="quiet:$out/private" keyd/wire/worker.proto

check() { # generated folder, checked-in folder
    local have
    have=$(mktemp -d "$out/have-XXXX")
    find "$2" -maxdepth 1 -type f -name '*_pb2*' -exec cp {} "$have" ';'
    diff --unified --recursive "$1" "$have"
}
replace() {
    find "$2" -maxdepth 1 -type f -name '*_pb2*' -delete
    cp "$1"/* "$2"/
}
action=replace
if [ "${1:-}" = --check ]; then action=check; fi
if ! { $action "$out/public/keyd/v1" client_sdk/src/keyd_protos/v1 &&
    $action "$out/private/keyd/wire" keyd/wire; }; then
    echo "protos.sh: the checked-in stubs differ from the .proto files; run make protos and commit" >&2
    exit 1
fi
