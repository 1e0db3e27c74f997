"""Everything is killed while a batch of OpenAI's API runs, and one of its two model servers dies for good."""

from __future__ import annotations

from testkit.processes import Processes, clients_of
from testkit.vllm import VllmServer
from testkit.waiting import wait_until

from ..facades.openai_batches import BatchClient, chat_line, register

LINES = 600
KILLS = (50, 200, 400)
"""How many completions the servers have been asked for when all processes are killed."""
DEATH = 300
"""The same when one server goes away."""


async def test_each_line_has_one_result_whatever_is_killed(processes: Processes) -> None:
    async with VllmServer() as stays, VllmServer() as dies:
        up = await processes.up()
        async with clients_of(up.url) as service:
            await register(service.admin, stays, "stays", maxConcurrent=8)
            await register(service.admin, dies, "dies", maxConcurrent=8)
            alice = BatchClient(service.alice)
            batch_id = await alice.begun(chat_line(f"line-{number}") for number in range(LINES))
            for asked in sorted((*KILLS, DEATH)):
                await wait_until(
                    lambda most=asked: len(stays.asked) + len(dies.asked) >= most, f"{asked} of the completions"
                )
                if asked == DEATH:
                    await dies.stop()
                    continue
                up.kill_all()
                up = await processes.up(up.port)
            batch = await alice.ended(batch_id)
            responses, errors = await alice.results(batch)

    assert batch["status"] == "completed"
    assert errors == {}
    assert responses.keys() == {f"line-{number}" for number in range(LINES)}
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
