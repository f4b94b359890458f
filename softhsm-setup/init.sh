#!/usr/bin/env bash
# Makes a SoftHSM token below one directory, without root. Run again, it changes nothing.
set -euo pipefail
umask 077

usage() {
    cat <<'TEXT'
Usage: softhsm-setup/init.sh --dir DIR [--label LABEL] [--pin-file FILE]

  --dir DIR        where the token, its configuration and its PINs live (made with mode 0700)
  --label LABEL    the token's label (default: keyd)
  --pin-file FILE  a user PIN of your own; default: DIR/pin, made with a random PIN

Prints a shell line to evaluate (the one variable SoftHSM reads) and, as comments, what keyd's
configuration asks for: the token's RFC 7512 URI, the PKCS#11 module and the PIN file.
Use them so:  eval "$(softhsm-setup/init.sh --dir ~/keyd-token)"
TEXT
}

fail() {
    echo "init.sh: $1" >&2
    exit "${2:-1}"
}

dir='' label=keyd pin_file=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dir | --label | --pin-file)
            [ $# -ge 2 ] || fail "$1 needs a value" 2
            declare "$(tr - _ <<<"${1#--}")=$2"
            shift 2 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[ -n "$dir" ] || { usage >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || fail "keyd is not installed here yet; type: make -C '$root' venv"

mkdir -p "$dir/tokens"
dir=$(cd "$dir" && pwd)
case $dir in *[[:space:]]*) fail "SoftHSM cannot read a directory name with blanks: $dir" 2 ;; esac
chmod 700 "$dir" "$dir/tokens"

make_pin() { # a PIN that exists stays
    [ -e "$1" ] || "$python" -c 'import secrets; print(secrets.token_hex(8))' >"$1"
}
pin_file=${pin_file:-$dir/pin}
[ "$pin_file" != "$dir/pin" ] || make_pin "$pin_file"
make_pin "$dir/so-pin"

cat >"$dir/softhsm2.conf" <<CONF
directories.tokendir = $dir/tokens
objectstore.backend = file
log.level = ERROR
CONF

export SOFTHSM2_CONF=$dir/softhsm2.conf
token=$("$python" -P -m keyd.worker.init_token \
    --label "$label" --pin-file "$pin_file" --so-pin-file "$dir/so-pin")

field() { "$python" -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$token" "$1"; }
printf '# token:    %s\n' "$(field uri)"
printf '# module:   %s\n' "$(field module)"
printf '# PIN file: %s\n' "$(realpath "$pin_file")"
printf 'export SOFTHSM2_CONF=%q\n' "$SOFTHSM2_CONF"
