"""`p2pstream serve` with a history that is written every fifth of a second: for `history_kills`.

`python -m tests.soak.history_server CONFIG`
"""

from __future__ import annotations

import sys
from pathlib import Path

from p2pstream.runtime import observing
from p2pstream.runtime.process import serve

FLUSH_SECONDS = 0.2

if __name__ == "__main__":
    observing.FLUSH_SECONDS = FLUSH_SECONDS  # type: ignore[misc]  # Final, but for this
    observing._EVENT_SECONDS = FLUSH_SECONDS  # type: ignore[misc]
    serve(Path(sys.argv[1]))
