#!/usr/bin/env bash
# Build dist/p2pstream: one file that needs no Python on the host. Usage: make binary
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.cache/binary/venv
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check pyinstaller .
# What mypyc compiled (tomli) imports a module beside it, by a name that PyInstaller cannot see.
compiled=$("$venv/bin/python" - <<'PYTHON'
import pathlib, sysconfig
for file in pathlib.Path(sysconfig.get_path("platlib")).glob("*__mypyc*"):
    print("--hidden-import", file.name.partition(".")[0])
PYTHON
)
# Word splitting is meant: two arguments a module.
# shellcheck disable=SC2086
"$venv/bin/pyinstaller" --onefile --clean --noconfirm --log-level WARN \
  --name p2pstream --distpath dist --workpath .cache/binary/work --specpath .cache/binary \
  --collect-submodules p2pstream --collect-data p2pstream $compiled "$PWD/p2pstream/__main__.py"
dist/p2pstream version
# Reading a file needs what only reading needs; a binary that cannot is found out here.
dist/p2pstream check --config conf/p2pstream.toml
