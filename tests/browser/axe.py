"""axe-core, the accessibility checker, as `run.sh` fetched it; for tests alone, never shipped."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

VERSION: Final = "4.14.1"
# What the registry's index says of this version; the file is held to it each time.
INTEGRITY: Final = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
FOLDER: Final = Path(__file__).parents[2] / ".cache" / "browser"
FILE: Final = FOLDER / f"axe-core-{VERSION}.tgz"


def fetch() -> None:
    """Get the package from the npm registry, by npm as it is set up here."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not FILE.exists():
        subprocess.run(
            ("npm", "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(FOLDER)),
            check=True,
            stdout=subprocess.DEVNULL,
        )


def source() -> str | None:
    """The script; None if it was not fetched. Error: `ValueError` if it is another one."""
    if not FILE.exists():
        return None
    data = FILE.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise ValueError(f"{FILE} is not axe-core {VERSION}")
    with tarfile.open(FILE) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


if __name__ == "__main__":
    fetch()
    if source() is None:
        sys.exit(f"{FILE} did not come")
