"""What is wrong outside of the program is an exit status and one line that says what to do, never a traceback."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from taskstream.backup.folder import MANIFEST
from testkit.cli import Command, Ran, run_commands
from testkit.processes import Processes, clients_of
from testkit.service import SECRET

ALLOWED = {"JWT_SECRET": SECRET, "PORT": "0"}
SWITCH = "ALLOW_PRIVATE_BACKENDS"
NOWHERE = ("--nats-url", "nats://127.0.0.1:1")


def spoiled(change: Callable[[dict[str, Any], Path], None]) -> Callable[[Path], None]:
    """Return what changes the part of TASKS in a backup's manifest."""

    def spoil(backup: Path) -> None:
        manifest = json.loads((backup / MANIFEST).read_text())
        [part] = [part for part in manifest["streams"] if part["name"] == "TASKS"]
        change(part, backup / "TASKS.snapshot")
        (backup / MANIFEST).write_text(json.dumps(manifest))

    return spoil


def flip_a_bit(part: dict[str, Any], file: Path) -> None:
    """Damage the file, with a hash that fits."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    part["sha256"] = hashlib.sha256(content).hexdigest()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (spoiled(flip_a_bit), "use another backup"),
    "counts": (spoiled(lambda part, _: part.update(messages=7)), "messages, the manifest says 7"),
    "ends": (spoiled(lambda part, _: part.update(last_sequence=9)), "the manifest says 9"),
    "hash": (spoiled(lambda part, _: part.update(sha256="0")), "differs from its SHA-256"),
    "negative": (spoiled(lambda part, _: part.update(first_sequence=-1)), "does not decode"),
    "metadata": (spoiled(lambda part, _: part["config"].update(metadata=5)), "does not decode"),
    "missing": (lambda backup: (backup / "TASKS.snapshot").unlink(), "is missing"),
    "junk": (lambda backup: (backup / MANIFEST).write_text("junk") and None, "does not decode"),
    "folder": (lambda backup: (backup / MANIFEST).unlink() or (backup / MANIFEST).mkdir(), "Is a directory"),
}


def cases() -> dict[str, tuple[int, str, Command]]:
    """Return each failure's exit status and what its message says."""
    long = "x" * 300
    of_folders = {
        f"{command} {name}": (status, said, Command([command, *more, "--data-dir", folder], ALLOWED))
        for command, more in (("backup", ["new"]), ("rebuild", []), ("reseal", []))
        for name, folder, status, said in (
            ("missing", "nowhere", 2, "no data in"),
            ("file", "file", 2, "file is not a folder"),
            ("below a file", "file/x", 2, "file is not a folder"),
            ("no name", "", 2, "must not be empty"),
        )
    }
    return of_folders | {
        "up on a file": (2, "file is not a folder", Command(["up", "--data-dir", "file"], ALLOWED)),
        "up below a file": (2, "file is not a folder", Command(["up", "--data-dir", "file/x"], ALLOWED)),
        "up unwritable": (1, "choose another place", Command(["up", "--data-dir", "/sys/x"], ALLOWED)),
        "up broken store": (1, "storage directory is not", Command(["up", "--data-dir", "broken"], ALLOWED)),
        "up pid folder": (1, "Is a directory", Command(["up", "--data-dir", "odd"], ALLOWED)),
        "up port": (2, "whole number from 0 to 65535", Command(["up", "--port", "99999"], ALLOWED)),
        "up port text": (2, "argument --port", Command(["up", "--port", "x"], ALLOWED)),
        "up cluster": (2, "choose from 1, 3, 5", Command(["up", "--cluster", "2"], ALLOWED)),
        "up apis": (2, "whole number from 1 to 64", Command(["up", "--apis", "0"], ALLOWED)),
        "up workers": (2, "set TASKSTREAM_WORKERS to 1", Command(["up", "--apis", "2", "--workers", "0"], ALLOWED)),
        "up refused": (
            1,
            "refuses user 'eve'",
            Command(["up", "--nats-url", "NATS_OF_EVE"], ALLOWED),
        ),
        "up taken": (2, "cannot listen on 127.0.0.1:", Command(["up", "--port", "TAKEN"], ALLOWED)),
        "up name": (2, "cannot listen on", Command(["up", "--host", "no.such.invalid"], ALLOWED)),
        "api no nats": (2, "NATS_URL", Command(["api"], ALLOWED)),
        "worker url": (2, "must be nats://", Command(["worker", "--nats-url", "http://x"], ALLOWED)),
        "worker metrics": (2, "METRICS_PORT", Command(["worker", "--metrics-port", "-1", *NOWHERE], ALLOWED)),
        "worker ca": (2, "NATS_CA", Command(["worker", *NOWHERE], ALLOWED | {"NATS_CA": "nowhere"})),
        "user without nats": (2, "external NATS only", Command(["backup", "new"], {"NATS_USER": "x"})),
        "backup unwritable": (1, "choose another place", Command(["backup", "/sys/x", "--nats-url", "NATS"])),
        "backup below a file": (1, "choose another place", Command(["backup", "file/x", "--nats-url", "NATS"])),
        "backup on a file": (1, "not an empty folder", Command(["backup", "file", "--nats-url", "NATS"])),
        "backup long": (1, "choose a shorter name", Command(["backup", long, "--nats-url", "NATS"])),
        "backup no name": (2, "must not be empty", Command(["backup", "", "--nats-url", "NATS"])),
        "backup two": (2, "not allowed with", Command(["backup", "new", *NOWHERE, "--data-dir", "x"])),
        "backup disk full": (1, "limit of file sizes", Command(["backup", "full", "--nats-url", "NATS"], {}, 100)),
        "backup of another": (1, "refuses user 'eve'", Command(["backup", "new", "--nats-url", "NATS_OF_EVE"])),
        "restore missing": (1, "no such folder", Command(["restore", "nowhere", "--data-dir", "new"])),
        "restore a file": (1, "is not a backup", Command(["restore", "file", "--data-dir", "new"])),
        "restore into a file": (2, "file is not a folder", Command(["restore", "made", "--data-dir", "file"])),
        "restore unwritable": (1, "choose another place", Command(["restore", "made", "--data-dir", "/sys/x"])),
        "restore over data": (1, "has data already", Command(["restore", "made", "--data-dir", "broken"])),
        "token lifetime": (2, "from 1 to", Command(["token", "--sub", "x", "--ttl", "-5"], ALLOWED)),
        "token no lifetime": (2, "from 1 to", Command(["token", "--sub", "x", "--ttl", "0"], ALLOWED)),
        "token for ever": (2, "from 1 to", Command(["token", "--sub", "x", "--ttl", "9" * 5000], ALLOWED)),
        "token nobody": (2, "must not be empty", Command(["token", "--sub", ""], ALLOWED)),
        "token blank": (2, "must not be empty", Command(["token", "--sub", "  "], ALLOWED)),
        "token control": (2, "control characters", Command(["token", "--sub", "a\nb"], ALLOWED)),
        "token role": (2, "invalid choice", Command(["token", "--sub", "x", "--role", "king"], ALLOWED)),
        "token secret": (2, "at least 32", Command(["token", "--sub", "x"], {"JWT_SECRET": "x"})),
        "token disk full": (1, "free some space", Command(["token", "--sub", "x"], ALLOWED, None, "/dev/full")),
        "settings disk full": (1, "free some space", Command(["settings"], {}, None, "/dev/full")),
        "boolean": (2, f"TASKSTREAM_{SWITCH}='maybe': must be yes", Command(["up"], ALLOWED | {SWITCH: "maybe"})),
        "no command": (2, "COMMAND", Command([])),
        "unknown command": (2, "invalid choice: 'verify'", Command(["verify"])),
        "unknown option": (2, "--force", Command(["settings", "--force"])),
        **{
            f"damaged {name}": (1, said, Command(["restore", name, "--data-dir", f"of-{name}"]))
            for name, (_, said) in DAMAGES.items()
        },
    }


CASES = cases()


async def _run_all(folder: Path) -> dict[str, Ran]:
    (folder / "file").touch()
    (folder / "broken" / "nats").mkdir(parents=True)
    (folder / "broken" / "nats" / "jetstream").touch()
    (folder / "odd" / "nats-server.pid").mkdir(parents=True)
    processes = Processes(folder)
    try:
        up = await processes.up()
        url = up.nats_url
        async with clients_of(up.url) as service:
            await service.alice.submit({"payload": {}})
        eve = url.replace("taskstream:", "eve:")
        made = await run_commands(folder, [Command(["backup", "made", "--nats-url", url])])
        assert made[0].status == 0, made[0].said
        for damage, (spoil, _) in DAMAGES.items():
            shutil.copytree(folder / "made", folder / damage)
            spoil(folder / damage)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            known = {"NATS": url, "NATS_OF_EVE": eve, "TAKEN": str(taken.getsockname()[1])}
            commands = [
                replace(each, arguments=[known.get(part, part) for part in each.arguments])
                for _, _, each in CASES.values()
            ]
            results = await run_commands(folder, commands)
    finally:
        processes.stop()
    assert not list((folder / "full").iterdir())  # nothing that looks like a backup
    return dict(zip(CASES, results, strict=True))


async def test_a_failure_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    ran = await _run_all(tmp_path)

    wrong = {case: ran[case] for case, (status, said, _) in CASES.items() if not is_explained(ran[case], status, said)}
    assert not wrong


def is_explained(ran: Ran, status: int, said: str) -> bool:
    """Return True for one line from us, with the text, and the exit status."""
    lines = ran.lines
    return (
        ran.status == status
        and len(lines) == 1
        and lines[0].startswith("taskstream: ")
        and said in lines[0]
        and lines[0].count("the backup is damaged") <= 1
    )


async def test_an_interrupted_command_says_so(processes: Processes) -> None:
    waiting = processes.start("rebuild", *NOWHERE)
    await waiting.logged("nats.error")

    waiting.signal(signal.SIGINT)

    assert await waiting.ended() == 130
    assert waiting.output().splitlines()[-1] == "taskstream: interrupted"
    assert "Traceback" not in waiting.output()
