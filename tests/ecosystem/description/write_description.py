"""Writes the API's description to the file that is named on the command line; no service runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

from litestar import Router

from taskstream.api.app import api_routes
from taskstream.api.auth.stream_tokens import StreamTokens
from taskstream.api.openapi.description import describe
from taskstream.api.routes.system import system_router


def description() -> bytes:
    """Return the document as `/openapi.json` has it."""
    container = MagicMock()  # a description needs routes, and no service behind them
    tokens = StreamTokens(container.token_sealer, time.time)
    api = Router(path="/api", route_handlers=api_routes(container, tokens), security=[{"bearer": []}])
    return describe([api, system_router(container, "1.0")], "1.0")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(description())
