#!/usr/bin/env bash
# Makes sure that the Debian packages keyd needs are there: installs them as root or through sudo
# without a password, else prints the one command to type and fails. Quiet when nothing is missing.
# Arguments are further packages that must be there: libnss3, or commands named like their packages.
set -euo pipefail

python=${PYTHON:-python3}
packages=()

if ! command -v "$python" >/dev/null; then
    packages+=(python3 python3-venv)
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "keyd needs Python 3.11 or newer; $python is $("$python" -V 2>&1)." >&2
    echo "Name a newer one: make PYTHON=/path/to/python3.11 …" >&2
    exit 1
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    packages+=(python3-venv)
fi

found_softhsm=no
for module in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
    if [ -e "$module" ]; then found_softhsm=yes; fi
done
if [ "$found_softhsm" = no ]; then packages+=(softhsm2); fi

if ! "$python" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null; then
    packages+=(libseccomp2)
fi

present() {
    case $1 in
        libnss3) compgen -G "/usr/lib/*/libsoftokn3.so" || compgen -G "/usr/lib/*/nss/libsoftokn3.so" ;;
        *) command -v "$1" ;;
    esac >/dev/null
}
for package in "$@"; do
    if ! present "$package"; then packages+=("$package"); fi
done

if [ ${#packages[@]} -eq 0 ]; then exit 0; fi

install=(apt-get install --yes --no-install-recommends "${packages[@]}")
if ! command -v apt-get >/dev/null; then
    echo "Missing: ${packages[*]} (Debian's names). Install your system's packages of these and try again." >&2
    exit 1
elif [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "Missing Debian packages. Type this, then try again:" >&2
    echo "  sudo apt-get update && sudo ${install[*]}" >&2
    exit 1
fi
echo "Installing Debian packages: ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" "${install[@]}" </dev/null
