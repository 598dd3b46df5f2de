"""One server to a state directory: two would end each other's sessions and overwrite each other.

The lock is fcntl's, not flock's: a forked child does not inherit it (`loading`), and it ends with
the process however that ends, so that nothing is in the way of a start after a `kill -9`. It would
end too if this process opened and closed the file a second time: nobody else here touches it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pstream.errors import CommandError

log = logging.getLogger(__name__)

_TAKEN = (errno.EACCES, errno.EAGAIN)  # POSIX lets the system choose


def lock_file(state_dir: Path) -> Path:
    """What is locked; its text is the owner's process id. It stays: its name must not change."""
    return state_dir / "p2pstream.lock"


@contextmanager
def owned(state_dir: Path) -> Iterator[None]:
    """Have a state directory to ourselves. Error: `CommandError` if another server has it."""
    path = lock_file(state_dir)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                owner = file.read(20).strip() or "unknown"
                raise CommandError(
                    f"state_dir {state_dir}: another server has it, process {owner}; stop that "
                    "one, or give this one a state_dir of its own"
                ) from None
            # Network file systems without locks: what is there to lose is history, not traffic.
            log.warning("state_dir %s: cannot be locked: %s", state_dir, error.strerror)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
