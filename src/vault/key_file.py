"""The key file of a data folder: `seal.key`, made at the first start, beside the store and never in it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import structlog
from msgspec.structs import replace

from ..settings import InvalidSettings, Settings, variable
from .sealing import Sealer, new_key

log = structlog.get_logger(__name__)

KEY_FILE = "seal.key"
OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def with_key_file(settings: Settings) -> Settings:
    """Return the settings with the keys of the data folder's key file after the given ones.

    Without a file the settings are returned as they are. Raises InvalidSettings for a file that cannot be used.
    """
    path = key_file(settings)
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        return settings
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{path}: {getattr(error, 'strerror', None) or 'holds no seal key'}") from None
    keys = text.split()
    try:
        Sealer(keys)
    except InvalidSettings:
        keys = []
    if not keys:
        raise InvalidSettings(
            f"{path}: must have a seal key on each line, newest first: restore it from your backup. Only if no secret "
            "was stored yet, delete it, and the next start makes a new one"
        )
    with contextlib.suppress(OSError):
        if path.stat().st_mode & OF_OTHERS:
            log.warning("seal-key.exposed", path=str(path), action=f"run chmod 600 {path}: others can read the key")
    return replace(settings, seal_keys=(*settings.seal_keys, *keys))


def ensure_key_file(settings: Settings) -> Settings:
    """Return the settings as `with_key_file` does; make the file first if there is no key at all.

    The caller must hold the lock of the data folder.
    """
    path = key_file(settings)
    if not settings.seal_keys and not path.exists():
        _write(path, f"{new_key()}\n".encode())
        log.info("seal-key.made", path=str(path), action=f"add it to your backup plan: no backup contains {KEY_FILE}")
    return with_key_file(settings)


def key_file(settings: Settings) -> Path:
    return Path(settings.data_dir).expanduser() / KEY_FILE


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read. After a crash it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)  # of a start that was killed
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be written: {error.strerror}; or set {variable('seal_keys')}") from None
