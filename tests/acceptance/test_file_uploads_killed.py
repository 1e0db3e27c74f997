"""The whole of `taskstream up` is killed while files are uploaded, and started again on the same folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator

import aiohttp

from testkit.processes import Processes, clients_of
from testkit.waiting import wait_until

SIZE = 600_000
ENOUGH = 12
"""Acknowledged uploads before the kill."""


async def test_no_acknowledged_file_is_lost_and_a_cut_upload_is_none(processes: Processes) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        alice = service.alice
        acknowledged: dict[str, bytes] = {}
        killed = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield os.urandom(400_000)
            await killed.wait()

        async def cut() -> None:
            headers = {"Authorization": f"Bearer {alice.bearer}"}
            with contextlib.suppress(aiohttp.ClientError):
                async with alice.session.post(f"{up.url}/api/files", data=endless(), headers=headers) as answer:
                    assert answer.status >= 400, "an upload that never ended is no file"

        async def upload_again_and_again() -> None:
            while not killed.is_set():
                content = os.urandom(SIZE)
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    answer = await alice.post("/api/files", content)
                    if answer.status == 200:
                        acknowledged[answer["id"]] = content

        work = [asyncio.create_task(each) for each in (cut(), *(upload_again_and_again() for _ in range(4)))]
        await wait_until(lambda: len(acknowledged) >= ENOUGH, f"{ENOUGH} acknowledged files")
        up.kill_all()
        killed.set()
        await asyncio.gather(*work)
        await up.serve()

        listed = {file["id"]: file for file in await alice.listed("/api/files", "files")}
        assert listed.keys() >= acknowledged.keys()
        headers = {"Authorization": f"Bearer {alice.bearer}"}
        for file_id, file in listed.items():
            async with alice.session.get(f"{up.url}/api/files/{file_id}", headers=headers) as answer:
                content = await answer.read()
            assert (answer.status, len(content)) == (200, SIZE)
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert content == acknowledged.get(file_id, content)
