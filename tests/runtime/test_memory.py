"""Memory of a process that now and then holds a large body."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from taskstream.runtime.memory import LARGE_BLOCK, MOST_KEPT

SCRIPT = """
import os
from taskstream.runtime.memory import give_back_large_blocks
from testkit.usage import resident_mb

def receive(size):
    whole = bytearray(size)
    whole[::4096] = b"x" * len(whole[::4096])
    parts = bytearray()
    while len(parts) < size:
        parts += b"y" * 65536
    return bytes(whole), bytes(parts).decode()

give_back_large_blocks()
before, most = resident_mb(os.getpid()), 0.0
for megabytes in (25, 2, 30, 25, 20, 10, 5):
    receive(megabytes * 1_000_000)
    most = max(most, resident_mb(os.getpid()) - before)
print(most)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
def test_the_memory_of_large_bodies_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)

    assert float(done.stdout) < (MOST_KEPT + LARGE_BLOCK) / 1e6
