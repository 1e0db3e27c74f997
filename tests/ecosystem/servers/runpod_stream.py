"""A RunPod worker with an async generator handler."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import runpod
from work import loud_words_async, set_up

set_up()


async def handler(job: dict[str, Any]) -> AsyncIterator[str]:
    asked = job["input"]
    words = 0
    async for word in loud_words_async(asked["text"], asked.get("mode", "quick")):
        words += 1
        if os.environ.get("PROGRESS"):
            runpod.serverless.progress_update(job, f"said {words} of {len(asked['text'].split())}")
        yield word + " "


runpod.serverless.start({"handler": handler, "return_aggregate_stream": bool(os.environ.get("AGGREGATE"))})
