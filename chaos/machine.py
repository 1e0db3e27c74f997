"""What this machine lets a run have beyond processes: file systems and networks of its own. It takes root, on Linux."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
"""From <linux/sched.h>."""
OUR_NETWORK = Path("/proc/self/ns/net")
NAMED_NETWORKS = Path("/run/netns")
"""Where `ip netns` keeps its names."""


class Machine(Struct, frozen=True):
    """What a run can have here."""

    disks: bool = False
    """File systems of its own: a power cut can be simulated, and a disk can be full."""
    networks: bool = False
    """Network namespaces of its own: packets between two nats-servers can vanish."""

    def __str__(self) -> str:
        disks = "file systems of their own" if self.disks else "folders (no power cuts or full disks: they take root)"
        networks = "network namespaces" if self.networks else "TCP proxies (network namespaces take root)"
        return f"nats-servers: stores on {disks}, apart by {networks}"


NOTHING = Machine()


class CommandFailed(Exception):
    """A command of the system said no; the message has its words."""


def seclude() -> Machine:
    """Give this process mounts and a network of its own, as far as it may, and say what works there.

    Its children share them, nobody else sees them, and the kernel takes them away with the last of these processes,
    however that ends. Call it before any thread is started: a thread would stay outside.
    """
    tools = {name for name in ("mkfs.ext4", "mount", "umount", "ip", "bridge", "nsenter") if shutil.which(name)}
    if sys.platform != "linux" or os.geteuid() != 0 or not {"mount", "umount"} <= tools:
        return NOTHING
    if not _unshare(CLONE_NEWNS) or not _worked("mount", "--make-rprivate", "/"):
        return NOTHING
    disks = "mkfs.ext4" in tools and _can_mount()
    networks = {"ip", "bridge", "nsenter"} <= tools and _have_network()
    return Machine(disks=disks, networks=networks)


async def command(*arguments: str | Path) -> None:
    """Run a command of the system to its end. Raises CommandFailed."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise CommandFailed(f"{' '.join(map(str, arguments))}: {output.decode(errors='replace').strip()}")


def _unshare(flags: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.unshare(flags)) == 0


def _worked(*arguments: str | Path) -> bool:
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory(prefix="taskstream-chaos-") as folder:
        image = Path(folder) / "image"
        image.touch()
        os.truncate(image, 8_000_000)
        place = Path(folder) / "disk"
        place.mkdir()
        return (
            _worked("mkfs.ext4", "-q", image)
            and _worked("mount", "-o", "loop", image, place)
            and _worked("umount", place)
        )


def _have_network() -> bool:
    """Move into a network of our own, and back where it is of no use: it has not even a loopback that works."""
    with OUR_NETWORK.open() as before:
        if not _unshare(CLONE_NEWNET):
            return False
        if _can_network():
            return True
        ctypes.CDLL(None).setns(before.fileno(), CLONE_NEWNET)
        return False


def _can_network() -> bool:
    """Bring the loopback up, keep names of networks to ourselves, and try what a run does."""
    NAMED_NETWORKS.mkdir(parents=True, exist_ok=True)
    return (
        _worked("ip", "link", "set", "lo", "up")
        and _worked("mount", "-t", "tmpfs", "tmpfs", NAMED_NETWORKS)
        and _worked("ip", "link", "add", "probe", "type", "bridge")
        and _worked("ip", "netns", "add", "probe")
        and _worked("ip", "link", "add", "probe-end", "type", "veth", "peer", "name", "eth0", "netns", "probe")
        and _worked("nsenter", "--net=/run/netns/probe", "true")
        and _worked("ip", "link", "delete", "probe-end")
        and _worked("ip", "netns", "delete", "probe")
        and _worked("ip", "link", "delete", "probe")
    )
