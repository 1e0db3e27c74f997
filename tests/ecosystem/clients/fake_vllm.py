"""A fake vLLM server in a process of its own, which a test can kill: `python -m tests.ecosystem.clients.fake_vllm`.

It prints its address. `--silent`: it takes requests and answers none. `--pause SECONDS`: before each word of a stream.
"""

from __future__ import annotations

import asyncio
import sys

from testkit.vllm import VllmServer


async def serve(arguments: list[str]) -> None:
    async with VllmServer() as server:
        server.is_silent = "--silent" in arguments
        if "--pause" in arguments:
            server.pause_seconds = float(arguments[arguments.index("--pause") + 1])
        print(server.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
