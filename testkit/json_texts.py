"""JSON texts as others may write them: with line breaks and spaces wherever JSON allows them."""

from __future__ import annotations

import json
from functools import partial

from hypothesis import strategies as st

SPACES = st.sampled_from(["", "", " ", "\n", "\r", "\r\n", "\t\n  "])
NUMBERS = st.sampled_from(["0", "-0", "1.0", "0.10", "1e5", "1E+2", "12345678901234567890"])
ODD_STRINGS = [
    '"\\n"',
    '"a\\r\\nb"',
    '"\\u2028"',
    '"\u2028\u2029\u0085"',
    '"\\/"',
    '"\\ud83d\\ude00"',
    '": data: "',
]
STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(partial(json.dumps, ensure_ascii=False)),
    st.sampled_from(ODD_STRINGS),
)


@st.composite
def _array(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    return f"[{','.join(draw(st.lists(items, max_size=4))) or draw(SPACES)}]"


@st.composite
def _object(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = [
        f"{draw(SPACES)}{name}{draw(SPACES)}:{value}"
        for name, value in draw(st.lists(st.tuples(STRINGS, values), max_size=4))
    ]
    return "{" + (",".join(members) or draw(SPACES)) + "}"


def _spaced(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(SPACES, text, SPACES).map("".join)


def json_texts() -> st.SearchStrategy[str]:
    """Return a strategy of JSON texts of any value."""
    scalars = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null"]))
    return st.recursive(_spaced(scalars), lambda inner: _spaced(st.one_of(_array(inner), _object(inner))), max_leaves=8)


def json_objects() -> st.SearchStrategy[str]:
    """Return a strategy of JSON texts of objects."""
    return _spaced(_object(json_texts()))
