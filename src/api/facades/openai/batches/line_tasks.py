"""The tasks of a batch's lines: the type by the model, low priority, and the end of the batch's window as deadline."""

from __future__ import annotations

import hashlib

from .....commands.batch_job import BatchJob
from .....container import Container
from .....errors import InvalidInput
from .....events.ids import BatchJobRef, BatchRef
from .....events.task import FacadeRequest, TaskSubmitted
from .....submission.body import Submission, TaskRequest
from ..errors import OpenAIError, param_of
from ..models import Models
from .requests import BatchRequest, InvalidLine, read_request

CUSTOM_ID, LINE, JOB = "custom_id", "line", "batch_id"
"""Names in the metadata of a line's task."""


class WindowOver(Exception):
    """The end of the batch's window has come."""


class LineTasks:
    """Turns lines into tasks, by the rules of their types."""

    def __init__(self, container: Container) -> None:
        settings = container.settings
        self._models = Models(container)
        self._rules = container.submissions.rules
        self._max_depth = settings.max_json_depth
        self.longest = settings.max_body

    async def catch_up(self) -> None:
        """Wait until models that other processes have defined are known here."""
        await self._models.catch_up()

    def read(self, job: BatchJob, text: bytes) -> BatchRequest:
        """Return the request of a line. Raises InvalidLine."""
        return read_request(text, job.created.endpoint, self._max_depth, self.longest)

    def check(self, job: BatchJob, text: bytes) -> str:
        """Return the custom_id of a line that could be submitted now. Raises InvalidLine, WindowOver."""
        request = self.read(job, text)
        self.task_of(job, request, 0)
        return request.custom_id

    def task_of(self, job: BatchJob, request: BatchRequest, line: int, batch: BatchRef | None = None) -> TaskSubmitted:
        """Return the event that submits the task of a line. Raises InvalidLine, WindowOver.

        `line`: its number among the requests, from 1. `batch`: of tasks, which the task is stored in.
        """
        created = job.created
        try:
            task_type = self._models.known(request.model).task_type
        except OpenAIError as error:
            raise InvalidLine("model_not_found", str(error), "body.model") from None
        if created.types and task_type not in created.types:
            message = f"The API key of this batch may not use the model `{request.model[:64]}`."
            raise InvalidLine("model_not_found", message, "body.model")
        wanted = TaskRequest(
            owner=created.owner,
            submission=Submission(payload=request.body, type=task_type, priority="low", deadline=created.expires_at),
            payload=request.content,
            payload_path="$",
            fingerprint="",
            repeatable=True,
            batch=batch.id if batch else "",
            facade=FacadeRequest(
                name="openai",
                endpoint=created.endpoint.removeprefix("/v1/"),
                model=request.model,
                metadata={JOB: created.job_id, CUSTOM_ID: request.custom_id, LINE: str(line)},
            ),
        )
        try:
            return self._rules.submitted(wanted)
        except InvalidInput as error:
            if error.path == "$.deadline":
                raise WindowOver from None
            param = param_of(error.path)
            raise InvalidLine("invalid_request", error.detail, f"body.{param}" if param else "body") from None


def fingerprint_of(ref: BatchJobRef, number: int, first: int, last: int, count: int) -> str:
    """Return what a batch of tasks is known by. A process that stores other lines under the number is refused."""
    return hashlib.sha256(f"{ref.id}\n{number}\n{first}\n{last}\n{count}".encode()).hexdigest()
