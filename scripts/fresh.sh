#!/usr/bin/env bash
# Runs make targets (default: demo test) on HEAD in a minimal Debian tree, to prove that they set up
# all they need. The tree holds debootstrap's minbase and what a clone and make themselves need: make,
# git, ca-certificates. It knows of the machine only how to reach packages: apt's and pip's settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=bookworm
base=build/fresh/base
tree=build/fresh/tree
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then targets=(demo test); fi

if [ "$(id -u)" -ne 0 ]; then
    echo "make test-fresh unpacks a Debian tree and enters it, which takes root; type: sudo make test-fresh" >&2
    exit 1
fi
if [ -z "${KEYD_FRESH_UNSHARED:-}" ]; then # mounts and processes of its own, gone when this ends
    exec env KEYD_FRESH_UNSHARED=1 unshare --mount --pid --fork --kill-child "$BASH" "$PWD/scripts/fresh.sh" "$@"
fi

step() { printf '\n=== %s (after %d s)\n' "$*" "$SECONDS"; }

if ! command -v debootstrap >/dev/null; then
    step "installing debootstrap"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends debootstrap
fi

same_debian() { (. /etc/os-release && [ "${VERSION_CODENAME:-}" = "$suite" ]); }

if [ ! -e $base/.complete ]; then
    step "debootstrap $suite, once; kept in $base"
    rm -rf $base
    mkdir -p $base
    mirror=()
    if same_debian; then
        mirror=("$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" | head -n 1)")
    fi
    debootstrap --variant=minbase --include=make,git,ca-certificates $suite $base ${mirror[@]+"${mirror[@]}"} >build/fresh/debootstrap.log ||
        { tail -n 20 build/fresh/debootstrap.log >&2; exit 1; }
    touch $base/.complete
fi

step "a new tree, and a clone of HEAD in it"
rm -rf --one-file-system $tree
cp -a --reflink=auto $base $tree
git clone --quiet --no-hardlinks . $tree/srv/keyd

# How this machine reaches packages. Nothing of it stands in the repository.
apt-config dump Acquire | grep -v '""' >$tree/etc/apt/apt.conf.d/00machine || true
if same_debian; then
    rm -f $tree/etc/apt/sources.list
    for path in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [ -e "$path" ]; then cp "$path" "$tree$path"; fi
    done
    cp -a /usr/share/keyrings/. $tree/usr/share/keyrings/
fi
for path in /etc/pip.conf /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$path" ]; then cp -L "$path" "$tree$path"; fi
done
environment=(HOME=/root "PATH=/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8 TERM=dumb)
while IFS='=' read -r name value; do
    case $name in
        PIP_* | SSL_CERT_* | *_CA_BUNDLE | http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY)
            # A path that only this machine has means nothing there.
            if [[ $value != /* || -e $tree$value ]]; then environment+=("$name=$value"); fi ;;
    esac
done < <(env)

data=${KEYD_TEST_DATA:-../shared/data}
if [ -d "$data" ]; then
    cp -rL "$data" $tree/srv/keyd-test-data
    environment+=(KEYD_TEST_DATA=/srv/keyd-test-data)
fi

mount -t proc proc $tree/proc
mount --rbind /dev $tree/dev
mount -t tmpfs -o mode=1777 tmpfs $tree/dev/shm
for target in "${targets[@]}"; do
    step "make $target, in the tree"
    env -i "${environment[@]}" chroot $tree make -C /srv/keyd "$target" </dev/null
done
umount --recursive $tree/dev $tree/proc
rm -rf --one-file-system $tree # a tree that failed stays, to be looked at
step "done: ${targets[*]} in a minimal Debian $suite"
