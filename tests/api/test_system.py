"""Pages without a token: the front page, the docs, the API's description, health, metrics."""

from __future__ import annotations

import re

from testkit.backend import BackendServer, echo, status
from testkit.nats import NatsServer
from testkit.service import Service, running_service
from testkit.waiting import until_ok, wait_until


async def test_the_front_page_the_description_and_liveness_need_no_token(api: Service) -> None:
    front, description, alive = [await api.anonymous.get(path) for path in ("/", "/openapi.json", "/health/live")]

    assert (front.status, front["docs"]) == (200, "/docs")
    assert description.headers["Content-Type"] == "application/json"
    assert description["openapi"].startswith("3.1")
    assert (alive.status, alive.body) == (200, {"status": "ok"})


async def test_the_docs_page_needs_and_runs_nothing_from_elsewhere(api: Service) -> None:
    page = await api.anonymous.get("/docs")

    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.body)
    assert len(addresses) == 5
    for address in addresses:
        assert address.startswith("/")
        assert (await api.anonymous.get(address)).status == 200, address
    assert "http:" not in page.body
    assert "https:" not in page.body
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
    script = (await api.anonymous.get("/docs/swagger-ui-bundle.js")).body
    assert "openapi_3_1" in script or "OpenAPI31" in script


async def test_a_ready_service_shows_its_store(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")

    answer = await service.anonymous.get("/health/ready")

    assert (answer.status, answer["status"], answer["warnings"]) == (200, "ok", [])
    assert answer["nats"]["connected"] is True
    assert answer["nats"]["version"].startswith("2.")
    assert answer["nats"]["durability"] == "always"
    assert abs(answer["nats"]["clock_difference_ms"]) < 1000
    storage = answer["storage"]
    assert storage["usedBytes"] > 0
    assert (storage["limitBytes"], storage["freeBytes"], storage["percent"], storage["limitedBy"]) == (
        None,
        None,
        None,
        "unknown",
    )
    assert storage["accepting"] is True
    assert answer["servers"]["online"] == 1


async def test_without_its_store_the_service_is_alive_and_not_ready(nats: NatsServer) -> None:
    async with running_service(nats.url, worker=False) as service:
        nats.kill()

        async def not_ready() -> bool:
            answer = await service.anonymous.get("/health/ready")
            return answer.status == 503 and answer["status"] == "unavailable"

        await wait_until(not_ready, "the service to say that it is not ready")
        assert (await service.anonymous.get("/health/live")).status == 200
        assert (await service.anonymous.get("/metrics")).status == 200
        nats.start()
        await until_ok(f"{service.url}/health/ready")


async def test_metrics_have_one_format_whatever_a_client_accepts(api: Service) -> None:
    for accepted in (
        "*/*",
        "application/openmetrics-text;version=1.0.0",
        "application/vnd.google.protobuf",
        "text/html",
    ):
        answer = await api.anonymous.get("/metrics", headers={"Accept": accepted})
        assert answer.status == 200
        assert answer.headers.getall("Content-Type") == ["text/plain; version=0.0.4; charset=utf-8"]


async def test_metrics_count_dead_letters_and_no_other_failures(service: Service, backend: BackendServer) -> None:
    backend.answer = status(400)
    await service.admin.register(backend, "echo", types=["default"])
    dead = await service.alice.submit({"a": 1})
    await service.alice.ended(dead)
    await service.alice.submit({"payload": 1, "dependsOn": [dead]})  # fails with its parent

    async def is_counted() -> bool:
        return "taskstream_dead_letters 1.0" in (await service.anonymous.get("/metrics")).body

    await wait_until(is_counted, "the dead letter to be counted")
    backend.answer = echo
    await service.alice.done("POST", f"/api/task/{dead}/retry")

    async def is_gone() -> bool:
        return "taskstream_dead_letters 0.0" in (await service.anonymous.get("/metrics")).body

    await wait_until(is_gone, "no dead letter to be counted")


async def test_metrics_count_requests_tasks_attempts_and_what_waits(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo", types=["default"])
    await service.alice.ended(await service.alice.submit({"a": 1}))
    await service.admin.put("/api/types/nobody-serves-it", {"pool": "waiting"})
    await service.alice.submit({"type": "nobody-serves-it", "payload": 1, "priority": "high"})

    async def page() -> str:
        answer = await service.anonymous.get("/metrics")
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(answer.body)

    async def shows_the_queue() -> bool:
        return 'taskstream_queue_depth{pool="waiting",priority="high",reason="no-server"} 1.0' in await page()

    await wait_until(shows_the_queue, "the waiting task to be counted")
    found = await page()
    for sample in (
        'taskstream_http_requests_total{method="POST",route="/api/task",status="200"}',
        'taskstream_http_request_seconds_bucket{le="0.002",route="/api/task/{task_id}"}',
        'taskstream_tasks_submitted_total{pool="waiting",priority="high"}',
        'taskstream_attempts_total{dialect="taskstream",outcome="succeeded",server="echo"}',
        'taskstream_tasks_ended_total{kind="",pool="default",status="finished"}',
        'taskstream_task_start_seconds_count{pool="default"}',
        'taskstream_task_end_seconds_bucket{le="86400.0",pool="default"}',
        'taskstream_server_circuit{server="echo",state="closed"} 1.0',
        'taskstream_server_online{server="echo"} 1.0',
        'taskstream_slots{state="free"}',
        'taskstream_pool_free_slots{pool="default"}',
        'taskstream_stream_messages{stream="TASKS"}',
        'taskstream_stream_bytes{stream="KV_tasks"}',
        'taskstream_disk_free_bytes{folder="index"}',
        "taskstream_nats_connected 1.0",
        "taskstream_clock_difference_seconds ",
        'taskstream_build_info{nats="2.15',
        "process_resident_memory_bytes ",
        'taskstream_servers{state="online"} 1.0',
        'taskstream_projection_lag_events{projection="tasks"}',
    ):
        assert sample in found, sample
