#!/bin/sh
# The dashboard in a real browser; `make browser` calls it. Installs Debian's chromium, and npm to
# fetch axe-core with, where they are missing (as root, else only names them). What would be
# skipped elsewhere fails here. Screenshots: build/screenshots/
#
# Env: PYTHON  the interpreter with p2pstream, pytest and playwright (.venv/bin/python)
set -eu

cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"

packages=""
command -v chromium >/dev/null 2>&1 || packages="$packages chromium"
command -v npm >/dev/null 2>&1 || packages="$packages npm"

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "browser: these packages are missing; as root: apt-get install$packages" >&2
        exit 1
    fi
    echo "browser: installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=120 update
    # Word splitting is meant: one argument a package.
    # shellcheck disable=SC2086
    apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $packages >/dev/null
fi

"$python" tests/browser/axe.py

BROWSER=required exec "$python" -m pytest tests/browser "$@"
