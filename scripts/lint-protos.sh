#!/usr/bin/env bash
# The contract's checks: stubs are current, buf's rules hold, nothing broke since the baseline image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/protos.sh --check

if ! command -v npm >/dev/null && [ ! -d "$(echo build/buf-*)" ]; then
    echo "*** NOT CHECKED: buf lint and buf breaking need npm; type: sudo apt-get install npm ***" >&2
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit 0
fi
cd protos
../scripts/buf.sh lint
if [ -e baseline.binpb ]; then
    ../scripts/buf.sh breaking --against baseline.binpb
else
    echo "no protos/baseline.binpb yet: breaking changes are not checked (make proto-baseline)" >&2
fi
