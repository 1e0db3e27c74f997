"""Commands run one after another in one process of their own: the imports of each would take longer than it does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from taskstream.cli import main

from .processes import environment, python, run_to_end


class Ran(Struct, frozen=True):
    """What a command left."""

    status: int
    said: str
    """On stderr."""

    @property
    def lines(self) -> list[str]:
        """The lines on stderr that are not entries of the log."""
        return [line for line in self.said.splitlines() if not line.startswith("{")]


class Command(Struct, frozen=True):
    """A command line, with settings named without prefix."""

    arguments: Sequence[str]
    settings: dict[str, str] = {}
    largest_file: int | None = None
    """Bytes that a file may have, in place of a disk that gets full."""
    stdout: str = os.devnull


async def run_commands(folder: Path, commands: Sequence[Command]) -> list[Ran]:
    """Run commands in a folder, in order."""
    given, results = folder / "commands.json", folder / "results.json"
    given.write_text(
        json.dumps(
            [(list(each.arguments), environment(each.settings), each.largest_file, each.stdout) for each in commands]
        )
    )
    process = await run_to_end(folder, python("testkit.cli", str(given), str(results)), 120.0)
    assert process.status == 0, process.tail()
    return [Ran(*result) for result in json.loads(results.read_text())]


def _run(arguments: list[str], environ: dict[str, str], largest_file: int | None, stdout: str) -> tuple[int, str]:
    os.environ.clear()
    os.environ.update(environ)
    said = io.StringIO()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Path(stdout).open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
            status = main(arguments)
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:  # as the interpreter does
            traceback.print_exc()
            status = 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return status, said.getvalue()


if __name__ == "__main__":
    os.chdir(Path(sys.argv[1]).parent)
    found = [_run(*command) for command in json.loads(Path(sys.argv[1]).read_text())]
    Path(sys.argv[2]).write_text(json.dumps(found))
