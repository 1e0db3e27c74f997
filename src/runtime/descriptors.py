"""File descriptors of the process."""

from __future__ import annotations

import resource

MOST = 65_536
"""Descriptors asked for. Some libraries take time for each possible one when they start a child process."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, MOST at most; return how many descriptors the process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a system that allows less than it says
            return soft
        return wanted
    return soft
