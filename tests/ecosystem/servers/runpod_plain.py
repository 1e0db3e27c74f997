"""A RunPod worker with a plain handler. `mode` also knows `refresh` and `error`."""

from __future__ import annotations

from typing import Any

import runpod
from work import loud_words, loud_words_async, set_up

set_up()


async def handler(job: dict[str, Any]) -> Any:
    asked = job["input"]
    mode = asked.get("mode", "quick")
    if mode == "error":
        return {"error": "refused by the model", "seen": 1}
    words = []
    if mode == "blocking":  # does not give the loop a chance, as most handlers
        words = list(loud_words(asked["text"], "slow"))
    else:
        async for word in loud_words_async(asked["text"], mode):
            words.append(word)
            runpod.serverless.progress_update(job, f"said {len(words)} of {len(asked['text'].split())}")
    answer = {"shouted": " ".join(words)}
    return answer | {"refresh_worker": True} if mode == "refresh" else answer


runpod.serverless.start({"handler": handler})
