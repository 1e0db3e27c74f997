"""The command line, as it is installed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from taskstream.settings import Settings, variable
from testkit.processes import Processes, clients_of, environment
from testkit.service import SECRET


def run(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "taskstream", *arguments],
        cwd=folder,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "settings", "named"),
    [
        (["up"], {}, "TASKSTREAM_JWT_SECRET"),
        (["token", "--sub", "carol"], {}, "TASKSTREAM_JWT_SECRET"),
        (["api"], {"JWT_SECRET": SECRET, "PORT": "0"}, "TASKSTREAM_NATS_URL"),
        (["worker"], {"JWT_SECRET": SECRET}, "TASKSTREAM_NATS_URL"),
        (["up"], {"JWT_SECRET": SECRET, "RETRY_BASE": "soon"}, "TASKSTREAM_RETRY_BASE"),
    ],
)
def test_a_missing_or_bad_setting_is_named_and_nothing_is_begun(
    tmp_path: Path, command: list[str], settings: dict[str, str], named: str
) -> None:
    refused = run(*command, folder=tmp_path, **settings)
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    refused = run("up", folder=tmp_path, JWT_SECRET="too short")
    assert refused.returncode == 2
    assert "32" in refused.stderr
    assert "too short" not in refused.stderr.replace("is too short", "")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run("up", "--port", port, folder=tmp_path, JWT_SECRET=SECRET)
    assert refused.returncode == 2
    assert f"127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_every_line_of_its_log_is_json_and_tells_no_secret(processes: Processes) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        await service.alice.post("/api/task", b"no json")
        await service.alice.submit({"payload": {"password": "swordfish"}})
    up.terminate()
    assert await up.ended() == 0
    said = up.log.read_text()
    assert {json.loads(line)["level"] for line in said.splitlines()} == {"info"}, said
    assert SECRET not in said
    assert "swordfish" not in said


async def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(processes: Processes) -> None:
    first = await processes.up()
    second = processes.start("up", "--port", "0", "--data-dir", str(first.data))
    assert await second.ended() == 1
    assert "another data folder" in second.tail()
    assert "Traceback" not in second.tail()
    async with clients_of(first.url) as service:
        assert (await service.alice.post("/api/task", {"payload": {}})).status == 200


async def test_a_token_of_the_command_opens_the_door(processes: Processes, tmp_path: Path) -> None:
    made = run("token", "--sub", "carol", "--role", "admin", "--ttl", "60", folder=tmp_path, JWT_SECRET=SECRET)
    assert made.returncode == 0
    claims = jwt.decode(made.stdout.strip(), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"], claims["exp"] - claims["iat"]) == ("carol", ["admin"], 60)
    up = await processes.up()
    async with clients_of(up.url) as service:
        service.alice.bearer = made.stdout.strip()
        assert (await service.alice.get("/api/servers")).status == 200


def test_settings_lists_every_setting(tmp_path: Path) -> None:
    shown = run("settings", folder=tmp_path)
    assert shown.returncode == 0
    listed = [line.split()[0] for line in shown.stdout.splitlines()]
    assert listed == [variable(field) for field in Settings.__struct_fields__]


def test_settings_into_a_pipe_that_closes_is_no_error(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m taskstream settings | head -n 1'
    shown = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], env=environment({}), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in shown.stderr, shown.stderr


def test_a_seal_key_is_another_each_time_and_is_accepted(tmp_path: Path) -> None:
    first, second = (run("seal-key", folder=tmp_path).stdout.strip() for _ in range(2))
    assert first != second
    accepted = run("token", "--sub", "carol", folder=tmp_path, JWT_SECRET=SECRET, SEAL_KEYS=f"{first},{second}")
    assert accepted.returncode == 0


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path)
    assert shown.returncode == 0
    for command in ("up", "api", "worker", "token", "rebuild", "settings", "seal-key"):
        assert f"  {command} " in shown.stdout, shown.stdout


def test_no_command_is_a_wrong_call(tmp_path: Path) -> None:
    assert run(folder=tmp_path).returncode == 2


def test_a_misspelt_setting_is_pointed_out(tmp_path: Path) -> None:
    warned = run("token", "--sub", "carol", folder=tmp_path, JWT_SECRET=SECRET, RETRY_BAES="1")
    assert warned.returncode == 0
    assert "TASKSTREAM_RETRY_BAES is not a setting" in warned.stderr
