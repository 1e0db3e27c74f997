"""The registrations of docs/servers.md, as they stand there: the page is executable."""

from __future__ import annotations

import json
import re
from typing import Any

from .programs import ROOT

PAGE = ROOT / "docs" / "servers.md"


def section(heading: str) -> str:
    """Return the text of a section of the page."""
    [found] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def registration(heading: str, place: int = 0) -> dict[str, Any]:
    """Return a registration of a section, counted from 0."""
    blocks = [
        json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)
    ]
    return [block for block in blocks if "endpoints" in block or block.get("mode") == "pull"][place]


def at(body: dict[str, Any], port: int) -> dict[str, Any]:
    """Return a registration whose addresses have another port."""
    moved = {name: re.sub(r"(//127\.0\.0\.1):\d+", rf"\1:{port}", url) for name, url in body["endpoints"].items()}
    return body | {"endpoints": moved}


def not_supported(heading: str) -> str:
    """Return what a section says is not supported."""
    return " ".join(section(heading).partition("Not supported")[2].split())
