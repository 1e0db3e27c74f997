"""Shapes of errors: failures that differ only in numbers, ids, names and times are one failure."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskstream.index.shapes import FINGERPRINT_PATTERN, LONGEST_TEXT, OTHER_SHAPE, VERSION, fingerprint, shape_of

DIGITS = "0123456789"
crockford = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26)
octets = st.integers(0, 255)
task_ids = st.builds(lambda unique, owner: f"{unique}~{owner}", crockford, st.from_regex(r"^[a-z0-9_=-]{1,20}\Z"))
ports = st.integers(1, 65_535)
hosts = st.from_regex(r"^[a-z]{1,9}-[0-9]\Z").map(lambda name: f"{name}.cluster.local")
addresses = st.one_of(
    st.builds(lambda a, b, port: f"10.0.{a}.{b}:{port}", octets, octets, ports),
    st.builds(lambda a, b: f"10.0.{a}.{b}", octets, octets),
    st.builds(lambda host, port: f"{host}:{port}", hosts, ports),
    st.ip_addresses(v=6).map(str).filter(lambda text: any(each in DIGITS for each in text)),
)
inner = st.text(st.characters(exclude_characters="'\"`", categories=["L", "N", "P", "Zs"]), max_size=30)
VARYING: dict[str, st.SearchStrategy[str]] = {
    "number": st.one_of(st.integers(-(10**12), 10**12).map(str), st.floats(0.001, 10**6).map(lambda n: f"{n:.3f}")),
    "uuid": st.uuids().map(str),
    "hexadecimal": st.one_of(
        st.integers(0, 2**64).map(hex),
        st.text("0123456789abcdef", min_size=10, max_size=64).map(lambda text: f"7{text}"),
    ),
    "id": st.text("0123456789abcdefghxyzABCDXYZ", min_size=15, max_size=30).map(lambda text: f"z{text}7"),
    "task": task_ids,
    "address": addresses,
    "url": st.from_regex(r"^https?://[a-z]{1,9}\.org(?:/[a-z0-9?=&]{0,9}){0,3}\Z"),
    "text": st.builds(lambda text, quote: f"{quote}{text}{quote}", inner, st.sampled_from("'\"`")),
    "path": st.from_regex(r"^(?:/[a-z0-9_.]{1,9}){1,5}\Z"),
    "duration": st.builds(
        lambda n, unit: f"{n}{unit}", st.integers(0, 10**6), st.sampled_from([" s", "ms", " seconds", "h"])
    ),
    "time": st.datetimes().map(lambda at: at.isoformat(timespec="milliseconds") + "Z"),
}
KINDS = {"number": "n", "hexadecimal": "n", "id": "n"}
words = st.sampled_from(
    ["cannot reach", "out of memory:", "layer", "isn't", "(after", "code", "no such model;", "and/or"]
)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(st.tuples(words, st.sampled_from(sorted(VARYING))), min_size=1, max_size=5))
def test_texts_that_differ_only_in_what_varies_have_the_same_shape(
    data: st.DataObject, parts: list[tuple[str, str]]
) -> None:
    def text() -> str:
        return " ".join(f"{word} {data.draw(VARYING[kind])}" for word, kind in parts)

    assert shape_of(text()) == " ".join(f"{word} <{KINDS.get(kind, kind)}>" for word, kind in parts)


pieces = st.sampled_from(
    [
        *"'\"` <>/\\.:-~@5aF_=+%,[]\n",
        "<n>",
        "a1",
        "://",
        "0x",
        "5 s",
        "deadbeef1",
        "10.0.0.1:80",
        "1" * 26,
        "::",
        "é",
        "٣",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=25).map("".join)))
@example("'a \"x'y\" z'")
@example("'a 'b' c'")
@example("5'a'")
@example("5/tmp")
@example('"' + "5" * 300 + '"')
@example("5aaaaaaaa-bbbb-bbbb-bbbb-cccccccccccc")
def test_a_shape_is_its_own_shape_and_has_no_digits(text: str) -> None:
    shape = shape_of(text)

    assert shape_of(shape) == shape
    assert not re.search(r"\d", shape)


USUAL = {
    "the server did not report before the attempt's deadline": None,
    "the worker that made the call is gone": None,
    "CUDA out of memory. Tried to allocate 2.50 GiB (GPU 3)": "CUDA out of memory. Tried to allocate <n> GiB (GPU <n>)",
    "gpu-7 answered 503": "gpu-<n> answered <n>",
    "Cannot connect to host gpu-7.lan:8000 ssl:default": "Cannot connect to host <address> ssl:default",
    "KeyError: 'prompt'": "KeyError: <text>",
    "can't load 'a' and won't try \"b\"": "can't load <text> and won't try <text>",
    "File /srv/app/main.py, line 12": "File <path>, line <n>",
    "models/llama/7b.bin is missing, and/or C:\\models\\x": "<path> is missing, and/or <path>",
    "run 01KDW1Z6P0C6N4T0Z5V3Q9H8RB failed": "run <n> failed",
    "  two\n lines ": "two lines",
    "-5 and +3 and 12% and 1,000.5e-3": "<n> and <n> and <n> and <n>",
    "": None,
}


@pytest.mark.parametrize(("text", "shape"), USUAL.items(), ids=range(len(USUAL)))
def test_shapes_of_usual_errors(text: str, shape: str | None) -> None:
    assert shape_of(text) == (text if shape is None else shape)


def test_a_fingerprint_has_a_version_and_depends_on_the_kind() -> None:
    first, second = fingerprint("error", "code 500"), fingerprint("error", "code 501")

    assert first == second != fingerprint("timeout", "code 500")
    assert first == "1-8a9654e00651383b"
    for each in (first, OTHER_SHAPE):
        assert re.match(FINGERPRINT_PATTERN, each)
        assert each.startswith(f"{VERSION}-")


HOSTILE = [
    *["'a ", "' '", '"a', "`", "a" * 40 + ".", "a/", "/a", "1a", "a1", ":", "a:", "aaaa:", "a@", "a.a@", "<", ">'"],
    *["0x", "a-", "~", "1", "1.", "٣", "\\a", "a:\\", "[1:", "1:2:", "a", "a.", " ", "+", "-", "1 ", "a~"],
]


@pytest.mark.parametrize("piece", HOSTILE, ids=range(len(HOSTILE)))
def test_the_shape_of_a_hostile_text_is_found_and_bounded(piece: str) -> None:
    shape = shape_of((piece * LONGEST_TEXT)[:LONGEST_TEXT])  # a pattern that backtracks would not end here

    assert len(shape) <= 4 * LONGEST_TEXT
