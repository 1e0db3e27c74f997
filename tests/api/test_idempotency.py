"""`Idempotency-Key` on submission: a client that got no answer may send the request again."""

from __future__ import annotations

import asyncio

import pytest

from taskstream.runtime import metrics
from testkit.backend import BackendServer
from testkit.queue_surface import MODEL
from testkit.service import Client, Service


async def submit(client: Client, key: str, body: bytes = b'{"a": 1}') -> tuple[int, str]:
    answer = await client.post("/api/task", body, headers={"Idempotency-Key": key})
    return answer.status, answer.body.get("taskId", answer.body.get("error"))


async def test_the_same_key_and_body_give_the_same_task(api: Service) -> None:
    status, task_id = await submit(api.alice, "k1")

    assert status == 200
    assert await submit(api.alice, "k1") == (200, task_id)
    assert len(await api.alice.history(task_id)) == 1


async def test_the_same_key_with_another_body_is_a_422(api: Service) -> None:
    _, task_id = await submit(api.alice, "k1")

    for other in (b'{"a": 2}', b'{"a": 1} '):
        status, error = await submit(api.alice, "k1", other)
        assert status == 422
        assert "use a new key" in error
    assert (await api.alice.details(task_id))["request"] == {"a": 1}


async def test_a_key_belongs_to_its_caller(api: Service) -> None:
    _, of_alice = await submit(api.alice, "k1")
    status, of_bob = await submit(api.bob, "k1", b'{"b": 2}')

    assert status == 200
    assert of_bob != of_alice


async def test_other_keys_and_no_key_give_other_tasks(api: Service) -> None:
    tasks = {(await submit(api.alice, key))[1] for key in ("k1", "k2", "K1", "*", ">", "a.b", "é")}
    tasks |= {await api.alice.submit({"a": 1}), await api.alice.submit({"a": 1})}

    assert len(tasks) == 9


async def test_first_submissions_at_once_make_one_task(api: Service) -> None:
    answers = await asyncio.gather(*(submit(api.alice, "k1") for _ in range(20)))

    assert {status for status, _ in answers} == {200}
    assert len({task_id for _, task_id in answers}) == 1
    assert len(await api.alice.history(answers[0][1])) == 1


async def test_of_two_bodies_at_once_one_wins_and_the_other_is_a_422(api: Service) -> None:
    answers = await asyncio.gather(*(submit(api.alice, "k1", b'{"a": %d}' % (n % 2)) for n in range(20)))

    assert sorted(status for status, _ in answers) == [200] * 10 + [422] * 10


async def test_a_key_is_remembered_after_the_task_has_ended(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")
    _, task_id = await submit(service.alice, "k1")
    await service.alice.ended(task_id)

    answer = await service.alice.post("/api/task", b'{"a": 1}', headers={"Idempotency-Key": "k1"})

    assert answer["taskId"] == task_id
    assert answer["taskDetails"]["status"] == "FINISHED"
    assert len(backend.calls) == 1


async def test_an_invalid_key_is_refused(api: Service) -> None:
    for key in ("", "a" * 256, "a\tb"):
        status, error = await submit(api.alice, key)
        assert status == 400
        assert "1 to 255 printable characters" in error


async def test_a_repeat_is_the_same_task_also_when_its_type_has_become_stricter(api: Service) -> None:
    body = {"type": "strict", "payload": {"width": "wide"}}
    first = await api.alice.submit(body, headers={"Idempotency-Key": "k"})
    await api.admin.put("/api/types/strict", {"schema": {"properties": {"width": {"type": "integer"}}}})

    assert await api.alice.submit(body, headers={"Idempotency-Key": "k"}) == first
    assert (await api.alice.post("/api/task", body)).status == 400
    assert (await api.alice.post("/api/task", body, headers={"Idempotency-Key": "another"})).status == 400


async def test_a_repeat_is_the_same_task_when_its_parent_is_past_its_retention(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> set[str]:
        return set()

    parent = await api.alice.submit({"payload": 1})
    body = {"payload": 2, "dependsOn": [parent]}
    first = await api.alice.submit(body, headers={"Idempotency-Key": "k"})
    monkeypatch.setattr(api.container.submissions, "_existing", none)

    assert await api.alice.submit(body, headers={"Idempotency-Key": "k"}) == first
    assert (await api.alice.post("/api/task", body)).status == 400


async def test_a_repeat_is_the_same_task_on_the_queue_surface_and_of_a_schedule_too(api: Service) -> None:
    headers = MODEL | {"Idempotency-Key": "k"}
    task = {"type": "chapter", "payload": {}}
    schedule = (await api.alice.post("/api/schedules", {"cron": "@daily", "task": task}))["id"]
    paths = ("/api/projects/novel/queue-chapters", f"/api/schedules/{schedule}/run")
    first = [(await api.alice.post(path, {}, headers=headers))["taskId"] for path in paths]
    await api.admin.put("/api/types/chapter", {"schema": {"not": {}}})

    assert [(await api.alice.post(path, {}, headers=headers))["taskId"] for path in paths] == first
    assert [(await api.alice.post(path, {}, headers=MODEL)).status for path in paths] == [400, 409]


async def test_a_used_key_is_a_422_whatever_else_is_wrong_with_the_body(api: Service) -> None:
    await submit(api.alice, "k1")

    assert (await submit(api.alice, "k1", b'{"payload": 1, "expiresAt": 1}'))[0] == 422


async def test_each_way_to_submit_counts_each_task_once(api: Service) -> None:
    def counted() -> float:
        samples = [sample for metric in metrics.submitted.collect() for sample in metric.samples]
        return sum(sample.value for sample in samples if sample.name.endswith("_total"))

    schedule = (await api.alice.post("/api/schedules", {"cron": "@daily", "task": {"payload": 1}}))["id"]
    before = counted()
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        await submit(api.alice, "k1")
        await api.alice.post("/api/tasks/batch", [{"a": 1}, {"a": 2}], headers=headers)
        await api.alice.post("/api/projects/novel/queue-outline", {}, headers=MODEL | headers)
        await api.alice.post(f"/api/schedules/{schedule}/run", headers=headers)

    assert counted() - before == 5
