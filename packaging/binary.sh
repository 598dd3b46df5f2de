#!/usr/bin/env bash
# Build dist/p2pstream: one file that needs no Python on the host. Usage: make binary
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.cache/binary/venv
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check pyinstaller .
"$venv/bin/pyinstaller" --onefile --clean --noconfirm --log-level WARN \
  --name p2pstream --distpath dist --workpath .cache/binary/work --specpath .cache/binary \
  --collect-submodules p2pstream "$PWD/p2pstream/__main__.py"
dist/p2pstream version
