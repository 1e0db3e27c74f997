"""JSONPath (RFC 9535) of registrations: paths into answers, and conditions on them, at a bounded cost. Pure.

    $.output.text            a path
    $.status == "failed"     a condition: what RFC 9535 allows in a filter, about the whole answer

The functions `match` and `search` are left out: their regular expressions may take exponential time. Each step selects
in one way, and one step of an expression may descend (`..`), so the cost grows with the size of the answer, not faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from jsonpath_rfc9535 import JSONPathEnvironment, JSONPathError, JSONPathQuery
from jsonpath_rfc9535.filter_expressions import (
    ComparisonExpression,
    Expression,
    FilterContext,
    FilterExpression,
    FilterQuery,
    FunctionExtension,
    LogicalExpression,
    PrefixExpression,
    RootFilterQuery,
)
from jsonpath_rfc9535.function_extensions import Count, Length, Value
from jsonpath_rfc9535.segments import JSONPathRecursiveDescentSegment
from jsonpath_rfc9535.selectors import FilterSelector, NameSelector

from .dialect import BadAnswer

LONGEST_EXPRESSION = 256
LARGEST_SEARCHED = 64 * 1024
"""Bytes of an answer that an expression with more than names and places is applied to. Python follows each value: the
worst takes a second, in which this process does nothing else."""


class _Environment(JSONPathEnvironment):
    def setup_function_extensions(self) -> None:
        self.function_extensions = {"count": Count(), "length": Length(), "value": Value()}


_ENVIRONMENT = _Environment()


class JsonPath:
    """A path. With names and places alone it finds one value, otherwise a list of values."""

    __slots__ = ("_query", "is_single", "text")

    def __init__(self, text: str, query: JSONPathQuery) -> None:
        self.text = text
        self.is_single = query.singular_query()
        self._query = query

    @property
    def names(self) -> list[str] | None:
        """Return the names it consists of; None if it has anything else, or nothing."""
        selectors = [selector for segment in self._query.segments for selector in segment.selectors]
        names = [selector.name for selector in selectors if isinstance(selector, NameSelector)]
        return names if names and self.is_single and len(names) == len(selectors) else None

    def find(self, content: Any, size: int) -> list[Any]:
        """Return the values at the path, none if it is missing. Raises BadAnswer if the answer is too large for it.

        `size`: bytes of the answer.
        """
        found: list[Any] = _within(lambda: self._query.find(content).values(), size, self.is_single, self.text)
        return found

    def value(self, content: Any, size: int) -> Any:
        """Return the value at the path, of several the list of them; None if it is missing, as for null."""
        found = self.find(content, size)
        if self.is_single:
            return found[0] if found else None
        return found or None


class JsonCondition:
    """A condition on a JSON value."""

    __slots__ = ("_expression", "_is_single", "text")

    def __init__(self, text: str, expression: FilterExpression) -> None:
        self.text = text
        self._expression = expression
        self._is_single = all(query.singular_query() for query in _queries(expression))

    def holds(self, content: Any, size: int) -> bool:
        """Return True if it holds. Raises BadAnswer if the answer is too large for it.

        `size`: bytes of the answer.
        """
        context = FilterContext(env=_ENVIRONMENT, current=content, root=content)
        holds: bool = _within(lambda: self._expression.evaluate(context), size, self._is_single, self.text)
        return holds


@lru_cache(maxsize=1024)
def json_path(text: str) -> JsonPath:
    """Return a path. Raises ValueError, whose message says what is wrong."""
    query = _compiled(text)
    _check(query)
    return JsonPath(text, query)


@lru_cache(maxsize=1024)
def json_condition(text: str) -> JsonCondition:
    """Return a condition. Raises ValueError, whose message says what is wrong."""
    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(f"must have at most {LONGEST_EXPRESSION} characters")
    query = _compiled(f"$[?{text}]", len("$[?]"))
    selectors = query.segments[0].selectors if len(query.segments) == 1 else ()
    if len(selectors) != 1 or not isinstance(selectors[0], FilterSelector):
        raise ValueError("must be one condition")
    expression = selectors[0].expression
    descents = 0
    for found in _queries(expression):
        descents += _check(found)
    if descents > 1:
        raise ValueError(_TOO_MANY_DESCENTS)
    return JsonCondition(text, expression)


_TOO_MANY_DESCENTS = "must have at most one `..`"


def _compiled(text: str, more: int = 0) -> JSONPathQuery:
    if len(text) > LONGEST_EXPRESSION + more:
        raise ValueError(f"must have at most {LONGEST_EXPRESSION} characters")
    try:
        return _ENVIRONMENT.compile(text)
    except JSONPathError as error:
        raise ValueError(f"is not JSONPath (RFC 9535): {_first_line(error)}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except (ArithmeticError, LookupError, TypeError, ValueError):  # such as the library's int(float("1e999"))
        raise ValueError("is not JSONPath (RFC 9535): a literal is out of range") from None


def _first_line(error: JSONPathError) -> str:
    return str(error).partition("\n")[0].partition(", line ")[0][:120]


def _check(query: JSONPathQuery) -> int:
    """Return how often a query descends. Raises ValueError for one that could cost more than a walk of the answer."""
    descents = 0
    for segment in query.segments:
        descents += isinstance(segment, JSONPathRecursiveDescentSegment)
        if len(segment.selectors) > 1:
            raise ValueError("must select in one way at each step: `['a']`, not `['a', 'b']`")
        for selector in segment.selectors:
            if isinstance(selector, FilterSelector):
                descents += _check_filter(selector.expression)
    if descents > 1:
        raise ValueError(_TOO_MANY_DESCENTS)
    return descents


def _check_filter(expression: Expression) -> int:
    """Return how often the queries of a filter descend. It is applied to each value that the step finds."""
    descents = 0
    for query in _found(expression):
        if isinstance(query, RootFilterQuery) and not query.query.singular_query():
            raise ValueError("must look for one value where a filter looks at the whole answer (`$`)")
        descents += _check(query.query)
    return descents


def _queries(expression: Expression) -> Iterator[JSONPathQuery]:
    return (found.query for found in _found(expression))


def _found(expression: Expression) -> Iterator[FilterQuery]:
    """Yield the queries of an expression, without those inside of their filters."""
    match expression:
        case FilterQuery():
            yield expression
        case FilterExpression():
            yield from _found(expression.expression)
        case LogicalExpression() | ComparisonExpression():
            yield from _found(expression.left)
            yield from _found(expression.right)
        case PrefixExpression():
            yield from _found(expression.right)
        case FunctionExtension():
            for argument in expression.args:
                yield from _found(argument)
        case _:
            return


def _within(evaluate: Callable[[], Any], size: int, is_single: bool, text: str) -> Any:
    if not is_single and size > LARGEST_SEARCHED:
        raise BadAnswer(f"is too large to be searched for `{text}`: more than {LARGEST_SEARCHED:,} bytes")
    try:
        return evaluate()
    except (JSONPathError, RecursionError):
        raise BadAnswer(f"is nested too deep to be searched for `{text}`") from None
