"""Requests of OpenAI's Responses API as chat completions, which all servers of the family have. Pure.

What only concerns the service that keeps responses (`store`, `background`, `metadata`) is left out; fields that this
module does not know, such as a server's own extensions, go along unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ...errors import InvalidInput

LEFT_OUT = frozenset(
    {
        "background", "conversation", "include", "max_tool_calls", "metadata", "previous_response_id", "prompt",
        "service_tier", "store", "stream", "stream_options", "truncation",
    }
)  # fmt: skip
"""Fields that mean nothing to a chat completion."""
TRANSLATED = frozenset(
    {"input", "instructions", "max_output_tokens", "reasoning", "text", "tool_choice", "tools", "top_logprobs"}
)
NO_RESPONSES = (
    "needs a server that is registered by the address of its `/responses`; this one is asked for chat completions"
)

_encode = msgspec.json.Encoder().encode


def chat_of(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """Return the body of a chat completion for that of a response. Raises InvalidInput for what it cannot say."""
    given = {name: _decoded(name, fields[name]) for name in TRANSLATED if name in fields}
    chat = {name: value for name, value in fields.items() if name not in LEFT_OUT | TRANSLATED}
    found: dict[str, Any] = {"messages": messages_of(given.get("input"), given.get("instructions"))}
    if (most := given.get("max_output_tokens")) is not None:
        found["max_tokens"] = most
    if (effort := _object(given, "reasoning").get("effort")) is not None:
        found["reasoning_effort"] = effort
    if form := _response_format(_object(given, "text").get("format")):
        found["response_format"] = form
    if tools := given.get("tools"):
        found["tools"] = [_tool(each, place) for place, each in enumerate(_list(tools, "tools"))]
        if (choice := given.get("tool_choice")) is not None:
            found["tool_choice"] = _tool_choice(choice)
    if given.get("top_logprobs"):
        found |= {"logprobs": True, "top_logprobs": given["top_logprobs"]}
    return chat | {name: Raw(_encode(value)) for name, value in found.items()}


def messages_of(asked: Any, instructions: Any = None) -> list[dict[str, Any]]:
    """Return the messages that the input of a response is. Raises InvalidInput."""
    messages: list[dict[str, Any]] = []
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(asked, str):
        return [*messages, {"role": "user", "content": asked}]
    for place, item in enumerate(_list(asked, "input")):
        path = f"$.input[{place}]"
        if not isinstance(item, dict):
            raise InvalidInput("must be an object", path)
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item, path))
            case "function_call":
                call = {
                    "id": item.get("call_id"),
                    "type": "function",
                    "function": {"name": item.get("name"), "arguments": item.get("arguments", "")},
                }
                if messages and "tool_calls" in messages[-1]:
                    messages[-1]["tool_calls"].append(call)
                else:
                    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            case "function_call_output":
                output = item.get("output")
                content = output if isinstance(output, str) else _encode(output).decode()
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
            case "reasoning":
                continue  # a model does not get its earlier thoughts again
            case kind:
                raise InvalidInput(f"an item of type {str(kind)[:50]!r} {NO_RESPONSES}", f"{path}.type")
    return messages


def _message(item: dict[str, Any], path: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("assistant", "developer", "system", "user"):
        raise InvalidInput("must be `user`, `assistant`, `system` or `developer`", f"{path}.role")
    role = "system" if role == "developer" else role
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(each, f"{path}.content[{place}]") for place, each in enumerate(_list(content, f"{path}.content"))]
    if role != "user" or len(parts) == 1:  # templates of models take one text of them
        texts = [part["text"] for part in parts if part["type"] == "text"]
        if len(texts) == len(parts):
            return {"role": role, "content": "".join(texts)}
    return {"role": role, "content": parts}


def _part(part: Any, path: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise InvalidInput("must be an object", path)
    match part.get("type"):
        case "input_text" | "output_text" | "text" if isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "refusal":
            return {"type": "text", "text": str(part.get("refusal", ""))}
        case "input_image" if isinstance(part.get("image_url"), str):
            image = {"url": part["image_url"]}
            return {
                "type": "image_url",
                "image_url": image | {name: part[name] for name in ("detail",) if name in part},
            }
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case kind:
            raise InvalidInput(
                f"content of type {str(kind)[:50]!r}, or without its text or address, {NO_RESPONSES}", path
            )


def _tool(tool: Any, place: int) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise InvalidInput(f"a tool that is no function {NO_RESPONSES}", f"$.tools[{place}].type")
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise InvalidInput(f"a choice of type {str(choice.get('type'))[:50]!r} {NO_RESPONSES}", "$.tool_choice")
    return {"type": "function", "function": {"name": choice.get("name")}}


def _response_format(form: Any) -> dict[str, Any] | None:
    match form:
        case {"type": "json_schema"}:
            return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
        case {"type": "json_object"}:
            return {"type": "json_object"}
        case _:
            return None


def _decoded(name: str, text: Raw) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidInput("is nested too deep", f"$.{name}") from None


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name)
    if found is not None and not isinstance(found, dict):
        raise InvalidInput("must be an object", f"$.{name}")
    return found or {}


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(
            "must be a text or a list" if path == "input" else "must be a list", f"$.{path.removeprefix('$.')}"
        )
    return value
