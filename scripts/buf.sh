#!/usr/bin/env bash
# Runs one pinned version of buf, taken from its npm package. No package.json, no install script: the
# tarball must match the checksum below, and its one executable is unpacked under build/.
set -euo pipefail

version=1.75.0
case $(uname -m) in
    x86_64)
        platform=linux-x64
        sha512=606189031d25a4c084eda3168cd38971fa04686fdefa26079d30b8499d0fe5e4b821f7ccaf203d678fdb6f59b5c0d5c0109f004c530464e024ff9c7d544e3b8a ;;
    aarch64)
        platform=linux-aarch64
        sha512=797f97ca8933243aac348168f1bd4edc306f6e792c3a8ccf257e1056c367eb526a494b56b29c9335e62ac20f254436a770c2fe6c3a9910314f0018c0b1509019 ;;
    *) echo "buf.sh: no buf is pinned for $(uname -m)" >&2; exit 69 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
buf=$root/build/buf-$version/buf
if [ ! -x "$buf" ]; then
    command -v npm >/dev/null || { echo "buf.sh: npm is missing; type: sudo apt-get install npm" >&2; exit 69; }
    mkdir -p "$root/build"
    unpacked=$(mktemp -d "$root/build/buf-XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT
    (cd "$unpacked" && npm pack --silent "@bufbuild/buf-$platform@$version" >/dev/null </dev/null)
    echo "$sha512  $(echo "$unpacked"/*.tgz)" | sha512sum --check --quiet
    tar -xzf "$unpacked"/*.tgz -C "$unpacked" package/bin/buf
    mkdir -p "${buf%/*}"
    mv "$unpacked/package/bin/buf" "$buf"
    rm -rf "$unpacked"
fi
exec "$buf" "$@"
