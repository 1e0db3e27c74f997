"""How glibc's malloc gives memory back, set for processes that now and then hold a large body."""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGE_BLOCK = 1024 * 1024
"""Bytes from which on a block has pages of its own, which are given back with it."""
MOST_KEPT = 8 * 1024 * 1024
"""Bytes that stay with the process at the end of its heap, to be used again."""


def give_back_large_blocks() -> None:
    """Let this process give back the memory of a large block once it is freed. Without glibc, do nothing.

    By default malloc takes a freed block of 25 MB for a sign that there will be more such blocks, puts them into its
    heap from then on, and keeps up to twice as much.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        set_parameter = ctypes.CDLL(None).mallopt
        set_parameter(M_MMAP_THRESHOLD, LARGE_BLOCK)
        set_parameter(M_TRIM_THRESHOLD, MOST_KEPT)
