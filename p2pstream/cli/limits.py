"""What a process of ours asks of the system before it serves."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as we may: a proxied connection is two of them.

    The usual soft limit of 1024 is meant for programs that call select(2), and we do not; Go's
    runtime does the same. What is raised is inherited by nobody: we start no other program.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
