"""Take a secret out of what `ps` shows of this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_SELF: Final = Path("/proc/self")
# proc(5), /proc/[pid]/stat: where the arguments begin and end, counted after the command's name.
_ARG_START: Final = 48 - 3
_ARG_END: Final = 49 - 3


def hide_argument(secret: str) -> bool:
    """Overwrite `secret` among our arguments by `x`; whether that was done.

    Linux only. What looked at the process before has seen it; Python's own copies stay.
    """
    wanted = os.fsencode(secret)  # the very bytes that we were given
    try:
        fields = (_SELF / "stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        with (_SELF / "mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            at = arguments.find(wanted)
            if not wanted or at < 0:
                return False
            memory.seek(start + at)
            memory.write(b"x" * len(wanted))
    except (OSError, IndexError, ValueError):
        return False  # another system, or one that forbids it
    return True
