"""docs/cli.md has every command and option of the operators' commands, and every exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from taskstream import cli
from taskstream.operator import failures

PAGE = Path(cli.__file__).parents[1] / "docs" / "cli.md"
BEGIN, END = "<!-- reference: UPDATE_DOCS=1 pytest tests/docs/test_cli_doc.py -->", "<!-- end of the reference -->"
COMMON = frozenset({"-h", "--url", "--token", "--as", "--role", "--json", "--exact"})
"""Options of all commands, explained once."""
FILTERS = "filters"
"""Title of the group of options that is explained once."""


def commands(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield the name, the parser and the help of each command that has none below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        texts = {choice.dest: choice.help for choice in action._choices_actions}
        for name, each in action.choices.items():
            if words or name in (*cli.OPERATORS_COMMANDS, "completion"):
                yield from (
                    commands(each, *words, name)
                    if _has_commands(each)
                    else [(" ".join((*words, name)), each, str(texts[name]))]
                )


def _has_commands(parser: argparse.ArgumentParser) -> bool:
    return any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)


def option(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or _choices(action) or action.dest.upper()}"
    shown = f"`{action.option_strings[-1]}{value}`" if action.option_strings else f"`{action.metavar or action.dest}`"
    return f"{shown}{f': {action.help}' if action.help else ''}".replace("%%", "%").replace("|", "\\|")


def _choices(action: argparse.Action) -> str:
    return ",".join(map(str, action.choices)) if action.choices else ""


def argument(action: argparse.Action) -> str:
    name = str(action.metavar or _choices(action) or action.dest.upper())
    return {"?": f"[{name}]", "*": f"[{name} …]"}.get(str(action.nargs), name)


def reference() -> str:
    """Return the table of all commands."""
    lines, noun, filters = [], "", ""
    for name, parser, text in commands(cli._parser()):
        if name.split()[0] != noun:
            noun = name.split()[0]
            lines += ["", f"### {noun}", "", "| command | | options |", "|---|---|---|"]
        groups = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
        named = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
        arguments = " ".join(argument(action) for action in named if not action.option_strings)
        own = [action for action in named if action.option_strings and not COMMON & set(action.option_strings)]
        texts = [option(action) for action in own if groups.get(id(action)) != FILTERS]
        found = [option(action) for action in own if groups.get(id(action)) == FILTERS]
        if found:
            texts.append("[filters](#filters)")
        if found and not filters:
            filters = "\n".join(f"* {each}" for each in found)
        lines.append(
            f"| `{name}{f' {arguments}' if arguments else ''}` | {text} | {'<br>'.join(texts)} |".replace("  |", " |")
        )
    return "\n".join([*lines, "", "### Filters", "", filters]).strip()


def test_the_reference_is_that_of_the_parser() -> None:
    wanted = f"\n\n{reference()}\n\n"
    if os.environ.get("UPDATE_DOCS"):
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{wanted}{END}{rest.partition(END)[2]}")
    found = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert found == wanted, "run this test with UPDATE_DOCS=1"


def test_every_exit_status_is_explained() -> None:
    page = PAGE.read_text()
    codes = {0, 1, 2, 130} | {value for name, value in vars(failures).items() if name.startswith("EXIT_")}
    for code in codes:
        assert f"| {code} |" in page


def test_the_variables_of_the_commands_are_explained() -> None:
    from taskstream.settings import OperatorSettings, variable

    for name in OperatorSettings.__struct_fields__:
        assert f"`{variable(name)}`" in PAGE.read_text()
