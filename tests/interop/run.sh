#!/bin/sh
# Other people's programs around ours; `make interop` calls it. The tunnel against the real
# hashicorp/yamux in Go, 100 MB each way; HTTP with curl, chromium and the websockets library as
# clients, with nginx and Go's net/http as origins, direct and through an agent.
# Installs what is missing from Debian (as root, else only names it). What would be skipped
# elsewhere fails here.
#
# Env: PYTHON  the interpreter with p2pstream and its dev extras (.venv/bin/python)
set -eu

cd "$(dirname "$0")/../.."

packages=""
want() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
PATH="$PATH:/usr/sbin"
command -v go >/dev/null 2>&1 || [ -x /usr/local/go/bin/go ] || [ -x /usr/lib/go/bin/go ] \
    || packages="$packages golang-go"
[ -d /usr/share/gocode/src/github.com/hashicorp/yamux ] \
    || packages="$packages golang-github-hashicorp-yamux-dev"
want nginx nginx-light
want curl curl
want chromium chromium

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "interop: these packages are missing; as root: apt-get install$packages" >&2
        exit 1
    fi
    echo "interop: installing$packages"
    # Runlevel 1 keeps the package's own nginx service from being started.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -qq -o DPkg::Lock::Timeout=120 update
    # Word splitting is meant: one argument a package.
    # shellcheck disable=SC2086
    apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $packages >/dev/null
fi

INTEROP=required INTEROP_BYTES=${INTEROP_BYTES:-100000000} \
    exec "${PYTHON:-.venv/bin/python}" -m pytest tests/interop "$@"
