"""p2pstream, watched: `python -m tests.soak.watched FILE serve --config …`.

On SIGUSR2 it writes to FILE, as JSON, what it holds: Trio's tasks, open streams, descriptors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import trio

from tests.programs import Program, wait_until


def main() -> None:
    """Run the command line that follows the file's name."""
    file = Path(sys.argv[1])
    sys.argv[1:2] = []
    from p2pstream.cli.main import main as p2pstream
    from p2pstream.net.reactor import current_reactor

    def tell(_number: int, _frame: FrameType | None) -> None:
        # Trio runs in this thread, so that what belongs to the run can be asked for here.
        held = {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "streams": current_reactor().streams,
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # the listing has one itself
        }
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps(held))
        beside.replace(file)

    signal.signal(signal.SIGUSR2, tell)
    p2pstream()


def held(program: Program, file: Path) -> dict[str, int]:
    """What a watched process holds now."""
    file.unlink(missing_ok=True)
    program.signal(signal.SIGUSR2)
    wait_until(f"{program.log.name}: tells what it holds", file.exists)
    found: dict[str, int] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    main()
