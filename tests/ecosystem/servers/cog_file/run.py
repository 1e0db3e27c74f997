"""A Cog model that returns a file. `.cog/openapi_schema.json` is what `cog build` writes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path as Folder

from cog import BaseRunner, Input, Path


class Painter(BaseRunner):
    def run(self, text: str = Input(description="What to write")) -> Path:
        file = Folder(tempfile.mkdtemp()) / "painted.txt"
        file.write_text(text.upper())
        return Path(file)
