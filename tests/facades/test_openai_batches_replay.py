"""What OpenAI's real client sent about files and batches, answered in the shape that it was content with."""

from __future__ import annotations

from testkit.service import Service
from testkit.vllm import VllmServer

from .openai_batches import BatchClient, chat_line, register
from .replay import Replay, recording

RECORDED = "openai-batches"
OPAQUE = ("body", "usage")


async def test_a_recorded_batch_runs_from_its_upload_to_its_results(service: Service) -> None:
    exchanges = recording(f"{RECORDED}/batch")
    created = exchanges.index(next(each for each in exchanges if each.url == "/v1/batches"))
    async with VllmServer("m") as vllm:
        await register(service.admin, vllm)
        alice = BatchClient(service.alice)
        replay = Replay(service.alice, "/openai", {}, opaque=OPAQUE)

        assert await replay.run(exchanges[: created + 1]) == []
        [batch] = (await service.alice.done("GET", "/openai/v1/batches"))["data"]
        ended = await alice.ended(batch["id"])
        replay.stand_for("file-out", ended["output_file_id"])
        assert await replay.run(exchanges[created + 1 :]) == []


async def test_recorded_lists_a_cancel_and_a_delete_have_their_shape(service: Service) -> None:
    async with VllmServer("m") as vllm:
        await register(service.admin, vllm)
        alice = BatchClient(service.alice)
        batch_id = await alice.begun([chat_line("r-1", "hold", "m")])
        unused = await alice.input([chat_line("r-2", model="m")])
        await alice.reaches(batch_id, "in_progress")
        replay = Replay(service.alice, "/openai", {"batch_1": batch_id, "file-1": unused}, opaque=OPAQUE)

        for name in ("list", "files-list", "cancel", "files-delete"):
            assert await replay.run(recording(f"{RECORDED}/{name}")) == []
