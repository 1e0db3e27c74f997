"""A queue of taskiq on NATS with results in Redis, behind Litestar, for comparison.

The API: `uvicorn tasks:api`; the worker: `taskiq worker tasks:broker`. Environment: NATS_URL, REDIS_URL, BACKEND_URL,
SLOTS. `GET /done` counts the tasks whose result is stored.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import nats.js.api
import redis.asyncio
from litestar import Litestar, get, post
from taskiq import TaskiqEvents
from taskiq_nats import PullBasedJetStreamBroker
from taskiq_redis import RedisAsyncResultBackend

SLOTS = int(os.environ["SLOTS"])
REDIS_URL = os.environ["REDIS_URL"]
PREDICT_URL = f"{os.environ['BACKEND_URL']}/predict/0"

results: Any = RedisAsyncResultBackend(REDIS_URL)
broker = PullBasedJetStreamBroker(
    os.environ["NATS_URL"],
    stream_config=nats.js.api.StreamConfig(retention=nats.js.api.RetentionPolicy.WORK_QUEUE),
    consumer_config=nats.js.api.ConsumerConfig(durable_name="taskiq_durable", max_ack_pending=-1),
    pull_consume_batch=SLOTS,
    pull_consume_timeout=1,
).with_result_backend(results)
store = redis.asyncio.Redis.from_url(REDIS_URL)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state: Any) -> None:
    state.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


@broker.task(task_name="predict", retry_on_error=True, max_retries=3)
async def predict(task_id: str, payload: dict[str, Any]) -> Any:
    async with broker.state.session.post(PREDICT_URL, json={"task_id": task_id, "request": payload}) as answer:
        answer.raise_for_status()
        return await answer.json()


@post("/task", status_code=200)
async def submit(data: dict[str, Any]) -> dict[str, str]:
    task = await predict.kiq("task", data)
    return {"id": task.task_id}


@get("/done")
async def done() -> dict[str, int]:
    return {"done": await store.dbsize()}


async def start() -> None:
    await broker.startup()


api = Litestar([submit, done], on_startup=[start], openapi_config=None, logging_config=None)
