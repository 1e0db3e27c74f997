"""What schemathesis makes of `/openapi.json`, thrown at a running service: the description is true."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from testkit.nats import running_nats
from testkit.service import running_service, token

EXAMPLES = 10
"""Of each operation. More find no more in the time there is."""


class Address:
    """A service in a thread of its own, and where it listens."""

    def __init__(self) -> None:
        self.url = ""
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stop: asyncio.Event | None = None

    async def serve(self, nats_url: str) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        async with running_service(nats_url, worker=False) as service:
            self.url = service.url
            self.ready.set()
            await self.stop.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    with running_nats(tmp_path_factory.mktemp("nats")) as nats:
        found = Address()
        thread = threading.Thread(target=lambda: asyncio.run(found.serve(nats.url)))
        thread.start()
        assert found.ready.wait(30)
        yield found
        assert found.loop is not None
        assert found.stop is not None
        found.loop.call_soon_threadsafe(found.stop.set)
        thread.join()


BEARER = {"Authorization": f"Bearer {token('root', 'admin')}"}
CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
]

STREAMS = {
    "GET /api/task/{task_id}/stream",
    "GET /api/tasks/stream",
    "GET /api/batches/{batch_id}/stream",
    "POST /api/projects/{name}/generate-stream",
    "POST /api/projects/{name}/outline",
    "GET /api/events",
    "GET /api/live",
}
"""These never end: tests/api/test_streams.py and tests/conformance/test_queue_contract.py have them."""
WITHOUT_WORKER = {"POST /api/owners/{owner}/limits/preview"}
"""A 503 here, where no scheduler runs: tests/api/test_limit_use.py has it."""
HELD_OPEN = {"POST /api/attempts/take", "POST /api/attempts/cancelled"}
"""These wait, unless their body says otherwise."""


@pytest.fixture(scope="module")
def known(address: Address) -> dict[str, str]:
    """Values of path parameters that there is something for."""
    server = {"id": "gpu-1", "name": "gpu", "provider": "x", "endpoints": {"predict": "http://127.0.0.1:9/"}}
    with requests.Session() as session:
        session.headers.update(BEARER)
        task_id = session.post(f"{address.url}/api/task", json={"a": 1}).json()["taskId"]
        batch_id = session.post(f"{address.url}/api/tasks/batch", json=[{"a": 1}]).json()["batchId"]
        assert session.post(f"{address.url}/api/servers", json=server).ok
        assert session.put(f"{address.url}/api/types/resize", json={}).ok
        answer = session.post(f"{address.url}/api/webhooks", json={"url": "http://127.0.0.1:9/"})
        webhook_id = answer.json()["webhook"]["id"]
        delivery = session.post(f"{address.url}/api/webhooks/{webhook_id}/test").json()
        schedule = {"cron": "@yearly", "task": {"payload": 1}}
        schedule_id = session.post(f"{address.url}/api/schedules", json=schedule).json()["id"]
        operation = {"action": "cancel", "ids": [task_id], "dryRun": True}
        key = session.post(f"{address.url}/api/keys", json={"name": "a key", "roles": ["user"]}).json()
        file_id = session.post(f"{address.url}/api/files", data=b"a file").json()["id"]
        operation_id = session.post(f"{address.url}/api/operations", json=operation).json()["id"]
    return {
        "task_id": task_id,
        "number": "0",
        "attempt_id": "gAAAAAB2",
        "batch_id": batch_id,
        "server_id": "gpu-1",
        "name": "resize",
        "owner": "alice",
        "webhook_id": webhook_id,
        "schedule_id": schedule_id,
        "operation_id": operation_id,
        "file_id": file_id,
        "key_id": key["details"]["id"],
        "delivery_id": delivery["id"],
    }


@pytest.mark.timeout(900)  # some two hundred operations
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: f"with_{mode.value}_requests")
def test_the_service_answers_as_described(address: Address, known: dict[str, str], mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{address.url}/openapi.json", timeout=60)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.label for operation in operations} > STREAMS
    operations = [operation for operation in operations if operation.label not in STREAMS | WITHOUT_WORKER]

    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not can_be_negated(operation):
            continue

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), exists=strategies.booleans())
        def answers_as_described(case: schemathesis.Case, exists: bool) -> None:
            if exists and case.path_parameters:
                case.path_parameters = {name: known[name] for name in case.path_parameters}
            if case.query and str(case.query.get("wait")).isdigit():
                del case.query["wait"]  # it would
            if (
                case.operation.label in HELD_OPEN
                and isinstance(case.body, dict)
                and is_number(case.body.get("wait", 1))
            ):
                case.body["wait"] = 0  # likewise
            case.call_and_validate(headers=BEARER, checks=CHECKS)

        answers_as_described()


def is_number(value: object) -> bool:
    """Return True for a number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def can_be_negated(operation: schemathesis.APIOperation) -> bool:
    """Tell whether there is anything in a request that could be wrong."""
    return bool(operation.body or operation.query or operation.path_parameters or operation.headers)
