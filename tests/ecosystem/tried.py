"""What each program is expected to do: payloads, results, outcomes, and what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct


class Tried(Struct, frozen=True, kw_only=True):
    """A program with one registration of docs/servers.md."""

    name: str
    program: str
    """In `programs.PROGRAMS`."""
    section: str
    """The heading in docs/servers.md."""
    place: int = 0
    """Which registration of the section, from 0."""
    payload: Callable[[str, str], Any]
    """Makes a payload of a text and a mode."""
    said: Callable[[Any], str]
    """Reads the text of a result's `data`."""
    wrong: Any
    """A payload that the program refuses."""
    wrong_reason: str
    """What the task's error says then."""
    failed_reason: str
    """What the task's error says when the model raises."""
    cancel: str
    """The outcome of a cancel while it runs."""
    stops: bool | None = None
    """Whether the model stops then; None: it may."""
    auto: dict[str, str] = {}
    """What `auto` finds: fields of `dialectDetected`."""
    setup_reason: str = ""
    """What `statusReason` says while the model loads."""
    unsupported: dict[str, str] = {}
    """Cases that the program cannot do, with words by which the section says so."""
    env: dict[str, str] = {}
    fills: int = 1
    """How many calls fill it."""


def fields(text: str, mode: str) -> dict[str, str]:
    """Return an object, as most programs take it."""
    return {"text": text, "mode": mode}


def tensors(text: str, mode: str) -> dict[str, Any]:
    """Return an inference request."""
    named = {"text": text, "mode": mode}
    return {"inputs": [{"name": k, "shape": [1], "datatype": "BYTES", "data": [v]} for k, v in named.items()]}


def chat(text: str, mode: str) -> dict[str, Any]:
    """Return a request for a chat completion; the models are called as the modes."""
    return {"model": mode, "messages": [{"role": "user", "content": text}]}


def shouted(data: Any) -> str:
    """Return the text of `{"shouted": …}`."""
    return str(data["shouted"])


TRIED = {
    tried.name: tried
    for tried in (
        Tried(
            name="fastapi", program="fastapi", section="FastAPI", payload=fields, said=shouted,
            wrong={"text": 5}, wrong_reason="body.text", failed_reason="500", cancel="requested",
            unsupported={
                "streamed_output": "output and progress", "progress": "output and progress", "detection": "detection",
            },
        ),
        Tried(
            name="fastapi, streamed", program="fastapi", section="FastAPI", place=1, payload=fields, said=shouted,
            wrong={"text": 5}, wrong_reason="body.text", failed_reason="", cancel="requested", stops=True,
            unsupported={"detection": "detection"},
        ),
        Tried(
            name="litserve", program="litserve", section="LitServe", payload=fields, said=shouted,
            wrong={"text": 5}, wrong_reason="must be text", failed_reason="500", cancel="requested", stops=False,
            auto={"dialect": "bare"},
            unsupported={"streamed_output": "streams", "progress": "progress", "busy": "busy"},
        ),
        Tried(
            name="bentoml, task", program="bentoml-task", section="BentoML", payload=fields, said=shouted,
            wrong={"text": 5}, wrong_reason="valid string", failed_reason="unexpected error", cancel="impossible",
            stops=False, fills=3,
            unsupported={"streamed_output": "streams", "progress": "progress", "detection": "detection"},
        ),
        Tried(
            name="cog", program="cog", section="Cog", payload=fields, said=str, wrong={"text": 5},
            wrong_reason="body.input.text", failed_reason="the model broke on its second word", cancel="confirmed",
            stops=True, auto={"dialect": "cog"}, setup_reason="setting up",
            unsupported={"streamed_output": "do not stream", "progress": "do not stream"},
        ),
        Tried(
            name="cog, streamed", program="cog-stream", section="Cog", payload=fields,
            said=lambda data: str(data).strip(),
            wrong={"text": 5}, wrong_reason="body.input.text", failed_reason="the model broke on its second word",
            cancel="confirmed", stops=True, auto={"dialect": "cog"}, setup_reason="setting up",
        ),
        Tried(
            name="litellm", program="litellm", section="litellm", payload=chat,
            said=lambda data: str(data["choices"][0]["message"]["content"]).strip(),
            wrong=chat("x", "quick") | {"model": "nobody"}, wrong_reason="nobody",
            failed_reason="the model broke on its second word", cancel="requested", stops=True,
            auto={"dialect": "openai"}, unsupported={"progress": "progress"},
            env={"LITELLM_MASTER_KEY": "sk-1234567890abcdef"},
        ),
        Tried(
            name="kserve", program="kserve", section="KServe", payload=tensors,
            said=lambda data: str(data["outputs"][0]["data"][0]), wrong={"inputs": 5}, wrong_reason="list",
            failed_reason="the model broke on its second word", cancel="requested", stops=False,
            auto={"dialect": "oip"},
            unsupported={"streamed_output": "stream", "progress": "progress", "busy": "no limit"},
        ),
        Tried(
            name="kserve, v1", program="kserve", section="KServe", place=1,
            payload=lambda text, mode: {"instances": [fields(text, mode)]}, said=lambda data: str(data[0]["shouted"]),
            wrong={"instances": [{"text": 5}]}, wrong_reason="must be text",
            failed_reason="the model broke on its second word",
            cancel="requested", stops=False,
            auto={"preset": "kserve-v1"},
            unsupported={"streamed_output": "streams", "progress": "progress", "busy": "busy"},
        ),
        Tried(
            name="mlserver", program="mlserver", section="MLServer", payload=tensors,
            said=lambda data: str(data["outputs"][0]["data"][0]), wrong={"inputs": 5}, wrong_reason="list",
            failed_reason="500", cancel="requested", stops=False, auto={"dialect": "oip"},
            unsupported={"streamed_output": "infer_stream", "progress": "progress", "busy": "busy"},
        ),
        Tried(
            name="mlserver, streamed", program="mlserver", section="MLServer", place=1, payload=tensors,
            said=lambda data: " ".join(each["data"][0] for each in data["outputs"]), wrong={"inputs": 5},
            wrong_reason="list", failed_reason="", cancel="requested", auto={"dialect": "oip"},
            unsupported={"progress": "progress", "busy": "busy"},
        ),
        Tried(
            name="gradio", program="gradio", section="Gradio", payload=lambda text, mode: [text, mode],
            said=lambda data: str(data[0]), wrong=[], wrong_reason="input",
            failed_reason="the model broke on its second word",
            cancel="requested", stops=False,
            auto={"preset": "gradio-call"},
            unsupported={"streamed_output": "intermediate", "progress": "progress"},
        ),
    )
}  # fmt: skip
