"""A provider of litellm whose model says the last message loudly; the model's name is the mode."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from litellm import CustomLLM, ModelResponse
from litellm.exceptions import RateLimitError
from litellm.types.utils import GenericStreamingChunk

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import loud_words_async, set_up

set_up()


def asked(call: dict[str, Any]) -> tuple[str, str]:
    return call["messages"][-1]["content"], call["model"].rpartition("/")[2]


class State:
    running = 0


async def said(call: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the words; a second call at the same time is refused, as a provider's limit does."""
    if State.running:
        raise RateLimitError("one at a time", llm_provider="shouter", model=call["model"])
    State.running += 1
    try:
        async for word in loud_words_async(*asked(call)):
            yield word
    finally:
        State.running -= 1


class Shouter(CustomLLM):
    async def acompletion(self, *args: Any, **kwargs: Any) -> ModelResponse:
        words = [word async for word in said(kwargs)]
        answer = kwargs["model_response"]
        answer.choices[0].message.content = " ".join(words)
        answer.model = "shouter"
        return answer

    async def astreaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[GenericStreamingChunk]:
        async for word in said(kwargs):
            yield {
                "text": word + " ", "is_finished": False, "finish_reason": "", "index": 0, "tool_use": None,
                "usage": None,
            }  # fmt: skip
        yield {
            "text": "", "is_finished": True, "finish_reason": "stop", "index": 0, "tool_use": None,
            "usage": {"completion_tokens": 2, "prompt_tokens": 2, "total_tokens": 4},
        }  # fmt: skip


shouter = Shouter()
