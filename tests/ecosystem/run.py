"""Run one program until Ctrl-C: `python -m tests.ecosystem.run cog --port 5000`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from .programs import PROGRAMS, Running


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=sorted(PROGRAMS))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the trace, the log and `release` are; default: a new one")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix=f"{asked.program}-"))
    running = Running(PROGRAMS[asked.program], folder, asked.port)
    running.start()
    try:
        print(f"{asked.program} {running.program.version} starts on {running.url}, folder {folder}", flush=True)
        await running.ready()
        print("ready", flush=True)
        await asyncio.Event().wait()
    finally:
        running.kill()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
