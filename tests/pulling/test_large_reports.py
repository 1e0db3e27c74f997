"""Reports that are larger than a message of NATS: they are left out of the progress, and keep no result out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.cog_server import CogServer
from testkit.puller import register_pulled
from testkit.runpod_worker import RunpodWorker
from testkit.service import Service, running_service
from testkit.waiting import wait_until

LARGE = "x" * 9_000_000
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture
async def roomy(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, max_result=32 * 1024 * 1024) as service:
        yield service


async def test_large_progress_of_a_worker_does_not_keep_its_result_out(roomy: Service) -> None:
    await register_pulled(roomy.admin, "shouting")
    worker = RunpodWorker(roomy.client("fleet", "service"))
    task_id = await roomy.alice.submit({"type": "shout", "payload": 1})
    job = await worker.one()

    for number in range(12):
        await worker.send(
            job["id"], "job-done", {"status": "IN_PROGRESS", "output": {"progress": number, "seen": LARGE}}
        )
    await worker.send(job["id"], "job-done", {"output": 1})

    ended = await roomy.alice.ended(task_id)
    assert ended["status"] == "FINISHED"
    assert [event["progress"] for event in await roomy.alice.history(task_id) if "progress" in event][-1] == 11


async def test_large_metrics_of_a_webhook_do_not_keep_its_result_out(roomy: Service) -> None:
    async with CogServer() as cog:
        await roomy.admin.register(cog, "cog", callback=True)
        task_id = await roomy.alice.submit({"payload": {"text": "hi", "seconds": 600}})
        await wait_until(lambda: cog.runs, "the prediction to run")
        url = str(cog.predictions[cog.runs[0]].webhook)
        done = {"id": cog.runs[0], "status": "succeeded", "output": "done", "metrics": {"seen": LARGE}}

        answer = await roomy.bearing("").post(url.removeprefix(roomy.url), done)

        assert answer.status == 200
        assert (await roomy.alice.ended(task_id))["result"]["data"] == "done"
