"""A streamed completion, folded: the same object as the call without `stream` would have answered with."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.openai_fold import MOST_CHOICES, CompletionFold, Kind, NotAPart

HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m", "system_fingerprint": "fp"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}

texts = st.text(min_size=1, max_size=20)
logprobs = st.lists(
    st.fixed_dictionaries(
        {"token": texts, "logprob": st.floats(-9, 0), "bytes": st.none() | st.lists(st.integers(0, 255), max_size=3)}
        | {"top_logprobs": st.lists(st.fixed_dictionaries({"token": texts, "logprob": st.floats(-9, 0)}), max_size=2)}
    ),
    min_size=1,
    max_size=5,
)
calls = st.lists(st.tuples(texts, texts, st.text(max_size=30)), min_size=1, max_size=3)


@st.composite
def chat_choices(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | texts)}
    for name in ("refusal", "reasoning_content"):
        if draw(st.booleans()):
            message[name] = draw(texts)
    if draw(st.booleans()):
        message["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call, name, arguments in draw(calls)
        ]
    choice: dict[str, Any] = {"message": message, "finish_reason": draw(st.sampled_from(["stop", "length"]))}
    if draw(st.booleans()):
        choice["logprobs"] = {"content": draw(logprobs)}
    return choice


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(cuts)] or [text]


def parts_of_chat(draw: st.DrawFn, index: int, choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a choice as a server would stream it, cut anywhere."""
    message = choice["message"]
    deltas: list[dict[str, Any]] = []
    for name in ("reasoning_content", "content", "refusal"):
        if message.get(name) is not None:
            deltas += [{"delta": {name: piece}} for piece in pieces(draw, message[name])]
    for place, call in enumerate(message.get("tool_calls", ())):
        named = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"delta": {"tool_calls": [{**call, "index": place, "function": named}]}})
        deltas += [
            {"delta": {"tool_calls": [{"index": place, "function": {"arguments": piece}}]}}
            for piece in pieces(draw, call["function"]["arguments"])
        ]
    for entry in choice.get("logprobs", {}).get("content", ()):
        deltas.append({"delta": {}, "logprobs": {"content": [entry]}})
    role = {"role": "assistant", "content": "" if message["content"] is not None else None}
    return [
        {"index": index, "finish_reason": None, **each}
        for each in ({"delta": role}, *deltas, {"delta": {}, "finish_reason": choice["finish_reason"]})
    ]


def interleaved(draw: st.DrawFn, streams: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    order = draw(st.permutations([number for number, each in enumerate(streams) for _ in each]))
    left = [iter(each) for each in streams]
    return [next(left[number]) for number in order]


def folded(kind: Kind, parts: list[dict[str, Any]]) -> tuple[Any, str]:
    fold = CompletionFold(kind)
    output = "".join(fold.add(json.loads(json.dumps(part))) for part in parts)
    return json.loads(fold.result()), output


@given(st.data(), st.lists(chat_choices(), min_size=1, max_size=3))
def test_any_split_of_a_chat_folds_to_the_answer_without_stream(
    data: st.DataObject, choices: list[dict[str, Any]]
) -> None:
    whole = {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": number, **choice} for number, choice in enumerate(choices)],
        "usage": USAGE,
    }
    streams = [parts_of_chat(data.draw, number, choice) for number, choice in enumerate(choices)]
    parts = [
        {**HEAD, "object": "chat.completion.chunk", "choices": [each], "usage": None}
        for each in interleaved(data.draw, streams)
    ]

    result, output = folded("chat/completions", [*parts, {**HEAD, "choices": [], "usage": USAGE}])

    assert result == whole
    assert output == (choices[0]["message"]["content"] or "")


@given(
    st.data(), st.lists(st.tuples(texts, st.lists(st.floats(-9, 0), min_size=1, max_size=5)), min_size=1, max_size=3)
)
def test_any_split_of_a_completion_folds_to_the_answer_without_stream(
    data: st.DataObject, choices: list[tuple[str, list[float]]]
) -> None:
    def logprobs_of(values: list[float]) -> dict[str, Any]:
        return {
            "tokens": ["t"] * len(values),
            "token_logprobs": values,
            "top_logprobs": [{"t": value} for value in values],
        }

    whole = {
        **HEAD,
        "object": "text_completion",
        "choices": [
            {"index": number, "text": text, "logprobs": logprobs_of(values), "finish_reason": "stop"}
            for number, (text, values) in enumerate(choices)
        ],
        "usage": USAGE,
    }
    streams = [
        [{"index": number, "text": piece, "logprobs": None} for piece in pieces(data.draw, text)]
        + [{"index": number, "text": "", "logprobs": logprobs_of([value])} for value in values]
        + [{"index": number, "text": "", "finish_reason": "stop"}]
        for number, (text, values) in enumerate(choices)
    ]
    parts = [{**HEAD, "object": "text_completion", "choices": [each]} for each in interleaved(data.draw, streams)]

    result, output = folded("completions", [*parts, {**HEAD, "choices": [], "usage": USAGE}])

    assert result == whole
    assert output == choices[0][0]


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **more}]}


def test_usage_may_come_with_an_empty_delta() -> None:
    result, _ = folded(
        "chat/completions", [chunk({"content": "a"}, finish_reason="stop"), chunk({}) | {"usage": USAGE}]
    )

    assert result["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    ]
    assert result["usage"] == USAGE


def test_the_names_of_a_tool_call_may_be_repeated_with_each_part() -> None:
    call = {"index": 0, "id": "c1", "type": "function"}
    parts = [
        chunk({"tool_calls": [{**call, "function": {"name": "weather", "arguments": piece}}]})
        for piece in ('{"city"', ': "Rome"}')
    ]

    result, _ = folded("chat/completions", parts)

    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert result["choices"][0]["message"]["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]


def test_tool_calls_without_an_index_begin_with_their_id() -> None:
    parts = [
        chunk({"tool_calls": [{"id": "c1", "function": {"name": "a", "arguments": "{"}}]}),
        chunk({"tool_calls": [{"function": {"arguments": "}"}}]}),
        chunk({"tool_calls": [{"id": "c2", "function": {"name": "b", "arguments": "{}"}}]}),
    ]

    result, _ = folded("chat/completions", parts)

    found = result["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in found] == [("c1", "{}"), ("c2", "{}")]


def test_what_is_not_known_of_a_choice_is_kept() -> None:
    parts = [
        chunk({"content": "a"}, token_ids=[1], stop_reason=None),
        chunk({"content": "b"}, token_ids=[2, 3], stop_reason=7, finish_reason="stop") | {"timings": {"ms": 4}},
    ]

    result, _ = folded("chat/completions", parts)

    assert result["choices"][0]["token_ids"] == [1, 2, 3]
    assert result["choices"][0]["stop_reason"] == 7
    assert result["timings"] == {"ms": 4}


def test_only_the_first_choice_is_output() -> None:
    parts = [{"choices": [{"index": index, "delta": {"content": f"{index}"}}]} for index in (1, 0, 2)]

    _, output = folded("chat/completions", parts)

    assert output == "0"


def test_a_completion_has_ended_once_all_its_choices_have() -> None:
    fold = CompletionFold("chat/completions")
    fold.add({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {}, "finish_reason": "stop"}]})
    before = fold.is_finished
    fold.add(chunk({}, finish_reason="length"))

    assert (before, fold.is_finished) == (False, True)


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"choices": 1},
        {"detail": "no"},
        {"choices": [1]},
        {"choices": [{"index": "0", "delta": {}}]},
        {"choices": [{"index": True, "delta": {}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
    ],
)
def test_what_is_no_part_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(NotAPart):
        CompletionFold("chat/completions").add(part)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["index", "id", "name", "x"]), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(["content", "role", "tool_calls", "x"]), json_values), max_size=5))
def test_no_delta_breaks_the_fold(deltas: list[dict[str, Any]]) -> None:
    result, _ = folded("chat/completions", [chunk(delta) for delta in deltas] + [chunk({}, finish_reason="stop")])

    assert len(result["choices"]) == 1


def test_a_field_that_is_repeated_empty_keeps_its_value() -> None:
    result, _ = folded("chat/completions", [chunk({"role": "assistant", "content": "a"}), chunk({"role": ""})])

    assert result["choices"][0]["message"]["role"] == "assistant"


def test_a_message_of_tool_calls_has_no_empty_text() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}

    result, _ = folded("chat/completions", [chunk({"role": "assistant", "content": ""}), chunk({"tool_calls": [call]})])

    assert result["choices"][0]["message"]["content"] is None


def test_a_completion_has_a_bounded_number_of_choices() -> None:
    fold = CompletionFold("chat/completions")
    fold.add({"choices": [{"index": number, "delta": {}} for number in range(MOST_CHOICES)]})

    with pytest.raises(NotAPart, match="more than 1,000 choices"):
        fold.add({"choices": [{"index": 10**9, "delta": {}}]})
