"""JSON that a command sends: from a file, from stdin, or from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from .failures import WrongUsage

LARGEST = 64 * 1024 * 1024
STDIN = "-"


def read_json_file(name: str) -> Any:
    """Return the JSON in a file; `-` is stdin. Raises WrongUsage, and OSError with the file's name."""
    if name == STDIN:
        if sys.stdin.isatty():
            print("taskstream: reading JSON from the terminal; end it with Ctrl-D", file=sys.stderr)
        content = sys.stdin.buffer.read(LARGEST + 1)
    else:
        with Path(name).open("rb") as file:
            content = file.read(LARGEST + 1)
    return parse_json(content, "stdin" if name == STDIN else name)


def parse_json(content: bytes | str, source: str) -> Any:
    """Return a JSON value. Raises WrongUsage that names its source."""
    if len(content) > LARGEST:
        raise WrongUsage(f"{source}: has more than {LARGEST // 2**20} MiB")
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WrongUsage(f"{source}: is not JSON: {error}") from None


def json_object(name: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raises WrongUsage."""
    found = read_json_file(name)
    if not isinstance(found, dict):
        raise WrongUsage(f"{'stdin' if name == STDIN else name}: must be a JSON object")
    return found
