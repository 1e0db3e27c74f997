"""The commands that work on the data folder of `taskstream up`, with and without a service on it."""

from __future__ import annotations

from pathlib import Path

from testkit.cli import Command, Ran, run_commands
from testkit.processes import Processes, clients_of

FOLDER = ("--data-dir", "data")


def said(ran: Ran, *texts: str) -> bool:
    return all(text in ran.said for text in texts) and len(ran.lines) == 1


async def test_commands_work_on_a_folder_with_and_without_a_service(processes: Processes, tmp_path: Path) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        task_id = await service.alice.submit({"payload": {}})

        backup, rebuild, reseal, recreate, over, second = await run_commands(
            tmp_path,
            [
                Command(["backup", "with", *FOLDER], {"NATS_URL": "nats://127.0.0.1:1", "NATS_USER": "unused"}),
                Command(["rebuild"], {"DATA_DIR": "data"}),
                Command(["reseal", *FOLDER]),
                Command(["rebuild", "--recreate", *FOLDER]),
                Command(["restore", "with", *FOLDER]),
                Command(["up", *FOLDER], {"JWT_SECRET": "x" * 32, "PORT": "0"}),
            ],
        )

        assert (await service.alice.get(f"/api/task/{task_id}")).status == 200
    assert [backup.status, rebuild.status, reseal.status] == [0] * 3, (backup, rebuild, reseal)
    assert said(recreate, "Stop every worker first: they would continue from their memory")
    assert said(over, "has data already")
    assert said(second, "another process runs a nats-server")
    assert [recreate.status, over.status, second.status] == [1] * 3

    up.terminate()
    assert await up.ended() == 0
    alone = await run_commands(
        tmp_path,
        [
            Command(["backup", "without", *FOLDER]),
            Command(["rebuild", *FOLDER]),
            Command(["rebuild", "--recreate", *FOLDER]),
            Command(["reseal", *FOLDER]),
        ],
    )
    assert [each.status for each in alone] == [0] * 4, alone

    again = await up.serve()
    async with clients_of(again.url) as service:
        assert (await service.alice.get(f"/api/task/{task_id}")).status == 200
