"""`taskstream completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import shtab

HOW = {
    "bash": 'eval "$(taskstream completion bash)"    # in ~/.bashrc',
    "zsh": "taskstream completion zsh > ~/.zfunc/_taskstream    # with fpath+=~/.zfunc before compinit",
    "tcsh": "taskstream completion tcsh > ~/.taskstream.csh    # and source it in ~/.tcshrc",
    "fish": "taskstream completion fish > ~/.config/fish/completions/taskstream.fish",
}


def add_shells(parser: argparse.ArgumentParser, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the argument. `whole`: returns the parser with all commands and options."""
    parser.add_argument("shell", choices=tuple(HOW), help="the shell")
    parser.epilog = "\n".join(["Install it:", *(f"  {line}" for line in HOW.values())])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    def run(options: argparse.Namespace) -> int:
        sys.stdout.write(script(whole(), options.shell))
        return 0

    parser.set_defaults(run=run)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script. It completes choices, files and folders, too."""
    for action in _actions(parser):
        if action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "FOLDER":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.choices is None and (known := getattr(action.type, "known", None)):
            action.choices = known
    return str(shtab.complete(parser, shell)) + "\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list, and shtab reads it, too
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below in dict.fromkeys(action.choices.values()):
                yield from _actions(below)
