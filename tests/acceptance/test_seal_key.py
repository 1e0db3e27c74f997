"""The seal key of `taskstream up`: of its own, in the data folder, and replaceable."""

from __future__ import annotations

from pathlib import Path

from testkit.backend import BackendServer
from testkit.processes import Processes, Up, clients_of

KEY = "sk-live-9f8e7d6c5b4a"


async def opens_key(up: Up, backend: BackendServer) -> bool:
    """Submit a task; return True if its server got its API key."""
    async with clients_of(up.url) as service:
        await service.admin.server_is("gpu", "online")
        await service.alice.ended(await service.alice.submit({"payload": {}}))
    return backend.headers[-1].get("Authorization") == f"Bearer {KEY}"


async def test_a_changed_jwt_secret_leaves_api_keys_readable(processes: Processes, backend: BackendServer) -> None:
    first = await processes.up(SEAL_KEYS="")
    async with clients_of(first.url) as service:
        await service.admin.register(backend, "gpu", apiKey=KEY)
    await first.shut_down()
    changed = await processes.up(SEAL_KEYS="", JWT_SECRET="another secret that is longer than 32 bytes")
    await changed.shut_down()

    again = await processes.up(SEAL_KEYS="")

    assert await opens_key(again, backend)


async def test_a_seal_key_is_replaced_as_operations_says(processes: Processes, backend: BackendServer) -> None:
    first = await processes.up(SEAL_KEYS="")
    key_file: Path = first.data / "seal.key"
    old = key_file.read_text()
    async with clients_of(first.url) as service:
        await service.admin.register(backend, "gpu", apiKey=KEY)
    await first.shut_down()
    made = processes.start("seal-key", SEAL_KEYS="")
    new = await made.first_line() + "\n"
    assert await made.ended() == 0

    key_file.write_text(new + old)
    both = await processes.up(SEAL_KEYS="")
    done = processes.start("reseal", "--data-dir", str(first.data), SEAL_KEYS="")  # while the service runs
    assert await done.ended() == 0, done.tail()
    assert "sealed with the newest key: 1 now, 0 before" in done.tail()
    await both.shut_down()
    key_file.write_text(new)

    assert await opens_key(await processes.up(SEAL_KEYS=""), backend)
    key_file.write_text(old)
    refused = processes.start("reseal", "--data-dir", str(first.data), SEAL_KEYS="")
    assert await refused.ended() == 1
    assert "no key opens 1 secrets: server." in refused.tail()
