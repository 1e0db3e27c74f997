"""Completion scripts, run in the shells that are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import taskstream

ENV = dict(os.environ)
BASH = """
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
_shtab_taskstream taskstream "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "taskstream.bash"
    made = taskstream("completion", "bash", env=ENV)
    assert (made.status, made.err) == (0, "")
    file.write_text(made.out)
    return file


def completed(script: Path, *words: str) -> set[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", str(script), "taskstream", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_nouns_commands_options_and_values(script: Path) -> None:
    assert {"tasks", "types", "top", "token"} <= completed(script, "t")
    assert completed(script, "tasks", "ret") == {"retry"}
    assert "--error" in completed(script, "tasks", "list", "--err")
    assert completed(script, "tasks", "list", "--status", "fa") == {"failed"}
    assert "--created-since" in completed(script, "tasks", "retry", "--cr")
    assert completed(script, "completion", "fi") == {"fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str, tmp_path: Path) -> None:
    made = taskstream("completion", shell, env=ENV)
    assert made.status == 0
    assert "dead-letters" in made.out
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(made.out)
        subprocess.run([shell, "-n", str(file)], check=True, capture_output=True)


def test_serving_commands_import_nothing_of_the_operators() -> None:
    code = (
        "import sys; from taskstream import cli; cli._parser(['up']).parse_args(['up']); "
        "heavy = ('taskstream.operator', 'rich.live', 'rich.progress', 'shtab', 'aiohttp'); "
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
