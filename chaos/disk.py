"""A small file system of its own for one nats-server, whose power can be cut and which can be full."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import struct
from pathlib import Path
from typing import Self

from testkit.processes import Supervised

from .machine import CommandFailed, command

SIZE_BYTES = 512 * 1024 * 1024
"""The image is sparse: what is not written takes no room."""
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = struct.pack("I", 2)
"""From fs/ext4/ext4.h: from now on nothing reaches the device, not even what the journal has in memory."""
BLOCK_BYTES = 4096
UNMOUNT_TRIES = 100
UNMOUNT_PAUSE_SECONDS = 0.02


class Disk:
    """An ext4 file system in an image file, mounted on a folder; use as an async context manager."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image
        self._ballast = folder / "ballast"
        self._mounted = False

    async def __aenter__(self) -> Self:
        self._image.touch()
        os.truncate(self._image, SIZE_BYTES)
        self.folder.mkdir()
        await command("mkfs.ext4", "-q", "-m", "0", self._image)  # -m 0: nothing in reserve, also not for root
        await self.mount()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.unmount()

    async def mount(self) -> None:
        """Mount it; what the journal holds is done again first, as at any start after a power cut."""
        await command("mount", "-o", "loop", self._image, self.folder)
        self._mounted = True

    async def unmount(self) -> None:
        """Unmount it, once nobody has a file open on it. Repeating does nothing. Raises CommandFailed."""
        for tries_left in reversed(range(UNMOUNT_TRIES)):
            if not self._mounted:
                return
            try:
                await command("umount", self.folder)
                self._mounted = False
            except CommandFailed:
                if not tries_left:
                    raise
                await asyncio.sleep(UNMOUNT_PAUSE_SECONDS)

    async def sync(self) -> None:
        """Write out whatever is not on the disk yet, as the kernel does after half a minute."""
        await command("sync", "--file-system", self.folder)

    def cut_power(self) -> None:
        """Lose whatever has not been synced. Until it is mounted again every read and write is an error."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH)
        finally:
            os.close(folder)

    def fill(self) -> None:
        """Take all the room that is left on the disk; while it is not mounted, none: the folder is the machine's."""
        if not self._mounted:
            return
        file = os.open(self._ballast, os.O_CREAT | os.O_WRONLY)
        try:
            size = 0
            step = SIZE_BYTES
            while step >= BLOCK_BYTES and size < SIZE_BYTES:
                try:
                    os.posix_fallocate(file, size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
        finally:
            os.close(file)

    def relieve(self) -> None:
        """Give the room back that `fill` took."""
        self._ballast.unlink(missing_ok=True)


async def lose_power(process: Supervised, disk: Disk, seconds: float = 0.0) -> None:
    """Cut the power of a nats-server and of its disk; start both again after a while."""
    process.signal(signal.SIGSTOP)  # it must do nothing more, not even notice
    disk.cut_power()
    await process.take_down()
    await disk.unmount()
    await asyncio.sleep(seconds)
    await disk.mount()
    process.start()
