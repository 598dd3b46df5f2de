#!/bin/sh
# The tunnel against the real hashicorp/yamux in Go, 100 MB each way; `make interop` calls it.
# Installs Go and the library from Debian where they are missing (as root, else only names them).
# What would be skipped elsewhere fails here.
#
# Env: PYTHON  the interpreter with p2pstream and pytest (.venv/bin/python)
set -eu

cd "$(dirname "$0")/../.."

packages=""
command -v go >/dev/null 2>&1 || [ -x /usr/local/go/bin/go ] || [ -x /usr/lib/go/bin/go ] \
    || packages="$packages golang-go"
[ -d /usr/share/gocode/src/github.com/hashicorp/yamux ] \
    || packages="$packages golang-github-hashicorp-yamux-dev"

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "interop: these packages are missing; as root: apt-get install$packages" >&2
        exit 1
    fi
    echo "interop: installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=120 update
    # Word splitting is meant: one argument a package.
    # shellcheck disable=SC2086
    apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $packages >/dev/null
fi

INTEROP=required INTEROP_BYTES=${INTEROP_BYTES:-100000000} \
    exec "${PYTHON:-.venv/bin/python}" -m pytest tests/interop "$@"
