"""The registrations of docs/servers.md, as they stand there: the page is executable."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
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


def exported(heading: str, url: str, server_id: str, secret: str) -> dict[str, str]:
    """Return the variables that a section's `text` block exports, for a service at a URL and another server id."""
    [block] = re.findall(r"^```text\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)
    script = "\n".join(line for line in block.splitlines() if not line.startswith("python "))
    script = script.replace("http://127.0.0.1:8080", url).replace("shouting", server_id)
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TASKSTREAM_JWT_SECRET": secret}
    said = subprocess.run(["bash", "-ec", f"{script}\nenv -0"], env=env, capture_output=True, text=True, check=True)
    pairs = dict(each.split("=", 1) for each in said.stdout.split("\0") if each)
    return {name: value for name, value in pairs.items() if name.startswith("RUNPOD_")}
