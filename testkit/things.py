"""One thing of each kind that a user can own, each with a mark in its bodies."""

from __future__ import annotations

import hashlib
import re
import secrets

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from taskstream.clock import utc_now
from taskstream.commands import task_commands as task
from taskstream.events.ids import TaskRef, delivery_id, new_ref, owner_token, parse_webhook_id
from taskstream.events.task import StoredFile, StoredResult
from taskstream.pulling.attempt_ids import AttemptKey
from taskstream.webhooks.deliveries import WebhookDelivery

from .histories import WORKER, claim, give, submission
from .service import Client, Service

OWNER = "alice"
MARK = "the-mark-of-alice"
"""Part of every body that the things have."""
SERVER = "gpu-1"
"""The server that runs the tasks."""
PROJECT = "novel"
TYPES = ("chapter", "default", PROJECT)
"""Types of all tasks that are made here, and one more."""
ATTEMPT_TOKEN = "0123456789abcdefghijkl"
"""The token of the running task's attempt; of all tasks that are made here."""


class Things:
    """Makes things of a user of a service, each kind by the name that its id has in paths."""

    def __init__(self, service: Service, client: Client) -> None:
        self._container = service.container
        self._client = client
        self._made: dict[str, str] = {}
        self.result_sequence = 0
        """Sequence of the event that has the result of the last ended task."""

    async def find(self, kind: str) -> str:
        """Return the id of one, made at the first call. Raises KeyError for an unknown kind."""
        if kind not in self._made:
            self._made[kind] = await KINDS[kind](self)
        return self._made[kind]

    def forget(self) -> None:
        """Make new ones from now on."""
        self._made.clear()

    @staticmethod
    def absent(thing: str) -> str:
        """Return an id like that of a thing, of nothing that exists."""
        return re.sub(r"^((?:resp_|batch_|file-)?)[0-9A-Z]{26}", r"\g<1>" + "0" * 26, thing)

    async def task(self) -> str:
        """Make a task that runs on SERVER."""
        ref = await self._begun()
        progress = task.ReportProgress(reporter=WORKER, progress=50.0, message="half")
        await give(self._container.commands, ref, progress)
        return ref.id

    async def ended_task(self) -> str:
        """Make a task with a result that has files."""
        ref = await self._begun()
        name = f"{ref.unique}-file"
        await self._container.objects.put(name, MARK.encode())
        file = StoredFile(object_name=name, media_type="text/plain", size_bytes=len(MARK))
        inline = Raw(msgspec.json.encode({"data": MARK}))
        result = StoredResult(inline=inline, size_bytes=len(inline), file=file, files=(file,))
        succeed = task.SucceedTask(reporter=WORKER, result=result)
        self.result_sequence = await give(self._container.commands, ref, succeed)
        return ref.id

    async def attempt(self) -> str:
        """Make a task that runs on SERVER; return the id of its attempt, as a puller gets it."""
        return self._container.attempt_ids.make(AttemptKey(await self._begun(), 1))

    async def batch(self) -> str:
        made = await self._client.done("POST", "/api/tasks/batch", [{"payload": {"text": MARK}}])
        return str(made["batchId"])

    async def webhook(self) -> str:
        made = await self._client.done("POST", "/api/webhooks", {"url": "http://127.0.0.1:9/", "description": MARK})
        return str(made["webhook"]["id"])

    async def delivery(self) -> str:
        """Make a delivery of the webhook that `find` returns."""
        webhook = parse_webhook_id(await self.find("webhook_id"))
        made = WebhookDelivery(id=delivery_id(webhook, 1, utc_now()), type="test", created_at=utc_now())
        await self._container.deliveries.make(webhook, made, maybe_made=False)
        return made.id

    async def schedule(self) -> str:
        body = {"name": MARK, "cron": "@yearly", "task": {"payload": {"text": MARK}}}
        return str((await self._client.done("POST", "/api/schedules", body))["id"])

    async def operation(self) -> str:
        """Make an operation, and wait for its end."""
        body = {"action": "cancel", "filter": {"type": ["none"]}, "reason": MARK}
        made = (await self._client.done("POST", "/api/operations", body))["id"]
        await self._client.until(f"/api/operations/{made}", lambda it: it["state"] == "done", "the operation to end")
        return str(made)

    async def key(self) -> str:
        made = await self._client.done("POST", "/api/keys", {"name": MARK, "roles": ["user"]})
        return str(made["details"]["id"])

    async def openai_file(self) -> str:
        return f"file-{await self.file()}"

    async def openai_batch(self) -> str:
        """Make a batch of OpenAI's API; its input is not valid, so nothing runs."""
        body = f'{{"custom_id":"{MARK}"}}\n'.encode()
        file = await self._client.done("POST", f"/api/files?name={MARK}&purpose=batch", body)
        asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        made = await self._client.done("POST", "/openai/v1/batches", asked | {"metadata": {"mark": MARK}})
        path = f"/openai/v1/batches/{made['id']}"
        await self._client.until(path, lambda batch: batch["status"] == "failed", "the end of a batch")
        return str(made["id"])

    async def file(self) -> str:
        return str((await self._client.done("POST", f"/api/files?name={MARK}", MARK.encode()))["id"])

    async def response(self) -> str:
        """Make a background response of OpenAI's API, whose model is the type PROJECT."""
        body = {"model": PROJECT, "input": MARK, "background": True}
        return str((await self._client.done("POST", "/openai/v1/responses", body))["id"])

    async def _begun(self) -> TaskRef:
        ref = new_ref(owner_token(OWNER), utc_now(), secrets.randbits(80))
        asked = submission(OWNER, "chapter", msgspec.json.encode({"text": MARK}))
        asked = replace(asked, submission=replace(asked.submission, project=PROJECT))
        digest = hashlib.sha256(ATTEMPT_TOKEN.encode()).hexdigest()
        await give(self._container.commands, ref, asked, claim(SERVER, digest=digest))
        return ref


KINDS = {
    "task_id": Things.task,
    "ended_task_id": Things.ended_task,
    "attempt_id": Things.attempt,
    "prediction_id": Things.task,
    "replicate_file_id": Things.file,
    "batch_id": Things.batch,
    "webhook_id": Things.webhook,
    "delivery_id": Things.delivery,
    "schedule_id": Things.schedule,
    "operation_id": Things.operation,
    "file_id": Things.file,
    "key_id": Things.key,
    "openai_file_id": Things.openai_file,
    "openai_batch_id": Things.openai_batch,
    "response_id": Things.response,
}
"""Kinds of things that belong to a user, by the parameters of paths that name them."""
