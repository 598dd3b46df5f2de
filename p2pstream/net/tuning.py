"""What a long-lived process that moves bytes asks of Python and of the C library."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

# mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Buffers of 256 KiB come and go for every read. Left alone, glibc gives each back to the kernel and
# faults it in again, page by page: measured, receiving 256 KiB through TLS takes 320 us with its
# defaults and 150 us so. At most the trim threshold stays with us when it could have been given up.
_MMAP_THRESHOLD: Final = 4 * 1024 * 1024
_TRIM_THRESHOLD: Final = 32 * 1024 * 1024

# Requests leave almost no cycles; the default (700) would walk the young heap every few hundred.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


def tune_allocator() -> None:
    """Keep freed buffers at hand. Does nothing where the C library has no such settings (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def give_back_memory() -> None:
    """Return to the kernel what a burst of work left free between what lives on (malloc_trim(3)).

    Takes some 5 ms at 50 MB of heap, 30 ms at 600 MB: not for the hot path. Does nothing where the
    C library has no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def tune_collector() -> None:
    """Keep the cyclic collector away from what lives as long as the process (gc docs, `freeze`)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
