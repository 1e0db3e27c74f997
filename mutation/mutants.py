"""The changes that are made to a module, one at a time.

Most operators are mutmut's: comparisons, boolean and arithmetic operators, numbers, True and False, `not`, `in`, `is`,
cases of a match, both arms of `a if b else c`. Added here: guards, filters and statements dropped, keyword arguments
left out. Left out: changes to texts, since golden files hold those that matter, and None in place of a value, which
mostly fails at once and shows little.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation import mutators

Operator = Callable[[Any], Iterable[cst.CSTNode]]


class Mutant(NamedTuple):
    module: str
    where: str
    """Qualified name of the function or class, or `<module>`."""
    change: str
    """The lines before and after, as a diff without numbers."""
    first_line: int
    last_line: int
    """The lines of the statement, or of its head, before the change; tests that run one of them may notice."""
    source: str
    """Of the whole module, changed."""


def _guard(node: cst.If) -> Iterator[cst.CSTNode]:
    """Drop a condition that leaves early, without its else."""
    body = node.body.body
    last = body[-1] if body else None
    leaves = isinstance(last, cst.SimpleStatementLine) and isinstance(
        last.body[-1], cst.Return | cst.Raise | cst.Continue | cst.Break
    )
    if node.orelse is None and leaves:
        yield cst.SimpleStatementLine([cst.Pass()])


def _filter(node: cst.CompFor) -> Iterator[cst.CSTNode]:
    for place in range(len(node.ifs)):
        yield node.with_changes(ifs=[*node.ifs[:place], *node.ifs[place + 1 :]])


def _statement(node: cst.Expr) -> Iterator[cst.CSTNode]:
    if isinstance(node.value, cst.Call | cst.Await) and not m.matches(node.value, m.Call(func=m.Name("assert_never"))):
        yield cst.Pass()


def _deletion(_: cst.Del) -> Iterator[cst.CSTNode]:
    yield cst.Pass()


def _keyword(node: cst.Call) -> Iterator[cst.CSTNode]:
    for place, argument in enumerate(node.args):
        if argument.keyword is not None:
            rest = [*node.args[:place], *node.args[place + 1 :]]
            if rest:
                rest[-1] = rest[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            yield node.with_changes(args=rest)


OPERATORS: list[tuple[type[cst.CSTNode], Operator]] = [
    (cst.BaseNumber, mutators.operator_number),
    (cst.Name, mutators.operator_name),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.Match, mutators.operator_match),
    (cst.IfExp, mutators.operator_if_exp),
    (cst.If, _guard),
    (cst.CompFor, _filter),
    (cst.Expr, _statement),
    (cst.Del, _deletion),
    (cst.Call, _keyword),
]

_TYPES_ONLY = m.Call(func=m.Name("TypeVar") | m.Name("NewType"))
_IMPOSSIBLE = m.MatchCase(body=m.IndentedBlock([m.SimpleStatementLine([m.Expr(m.Call(func=m.Name("assert_never")))])]))
_IDLE = m.MatchCase(body=m.IndentedBlock([m.SimpleStatementLine([m.Pass()])]))
_ANY = m.MatchCase(pattern=m.MatchAs(pattern=None))


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.scopes: list[str] = []
        self.found: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.scopes.append(node.name.value)
        if self._is_unchanged(node):
            return False
        where = ".".join(self.scopes) or "<module>"
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found.extend((where, node, new) for new in operator(node) if self._is_possible(node, new))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.scopes.pop()

    def _is_possible(self, node: cst.CSTNode, new: cst.CSTNode) -> bool:
        """Return False for a match without a case that nothing can reach, or without one that does nothing anyway."""
        if isinstance(node, cst.Match) and isinstance(new, cst.Match):
            dropped = next(case for case in node.cases if case not in new.cases)
            rest = [case for case in node.cases[node.cases.index(dropped) + 1 :] if not m.matches(case, _IMPOSSIBLE)]
            is_idle = m.matches(dropped, _IDLE) and not any(m.matches(case, _ANY) for case in rest)
            return not is_idle and not m.matches(dropped, _IMPOSSIBLE)
        return True

    def _is_unchanged(self, node: cst.CSTNode) -> bool:
        """Return True for types, imports, errors and calls of the log: their texts are for people."""
        if isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Raise | cst.Assert | cst.TypeAlias):
            return True
        if isinstance(node, cst.ClassDef | cst.FunctionDef):
            return False
        parent = self.get_metadata(ParentNodeProvider, node, None)
        if isinstance(parent, cst.ClassDef) and isinstance(node, cst.Arg):
            return True  # frozen=True and its like: types
        if isinstance(parent, cst.FunctionDef | cst.ClassDef) and isinstance(node, cst.Decorator):
            return True
        if isinstance(node, cst.AnnAssign) and m.matches(node.annotation.annotation, m.Name("TypeAlias")):
            return True
        if isinstance(node, cst.Call) and m.matches(node, m.Call(func=m.Attribute(value=m.Name("log")))):
            return True
        return isinstance(node, cst.Call) and m.matches(node, _TYPES_ONLY)


def mutants_of(module: str, text: str) -> list[Mutant]:
    """Return every change of a module, in the order of its text."""
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    finder = _Finder()
    wrapper.visit(finder)
    metadata = wrapper.resolve_many((PositionProvider, WhitespaceInclusivePositionProvider, ParentNodeProvider))
    before = text.splitlines(keepends=True)
    found = []
    seen = {text}
    for where, node, new in finder.found:
        after = _changed(before, wrapper.module, node, new, metadata)
        if after not in seen:
            seen.add(after)
            first, last = _lines(node, metadata)
            change = _diff(text.splitlines(), after.splitlines())
            found.append(Mutant(module, where, change, first, last, after))
    return found


def _changed(before: list[str], module: cst.Module, node: cst.CSTNode, new: cst.CSTNode, metadata: Any) -> str:
    """Return the text of the module with a node replaced. Only its place is written anew: that is quick."""
    span = metadata[WhitespaceInclusivePositionProvider][node]
    code = module.code_for_node(new)
    if isinstance(node, cst.Match) and isinstance(new, cst.Match):
        node = next(case for case in node.cases if case not in new.cases)
        span, code = metadata[PositionProvider][node], "case _ if False: pass"
    elif isinstance(node, cst.If):
        span, code = metadata[PositionProvider][node], "pass"
    start, end = span.start, span.end
    head = before[: start.line - 1]
    tail = before[end.line :]
    last = before[end.line - 1] if end.line <= len(before) else ""
    return "".join([*head, before[start.line - 1][: start.column], code, last[end.column :], *tail])


def _lines(node: cst.CSTNode, metadata: Any) -> tuple[int, int]:
    """Return the lines of the statement around a node, or of the head of a compound one."""
    positions, parents = metadata[PositionProvider], metadata[ParentNodeProvider]
    statement = node
    while not isinstance(statement, cst.BaseStatement | cst.BaseSmallStatement | cst.MatchCase | cst.Module):
        statement = parents[statement]
    place = positions[statement]
    own = positions[node]
    if isinstance(statement, cst.BaseCompoundStatement):
        return place.start.line, max(place.start.line, own.end.line if node is not statement else place.start.line)
    return place.start.line, place.end.line


def _diff(before: list[str], after: list[str]) -> str:
    lines = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            lines += [f"- {line.strip()}" for line in before[i1:i2]]
            lines += [f"+ {line.strip()}" for line in after[j1:j2]]
    return "\n".join(lines)
