"""New tasks of the queue surface: what their requests say, and one task for all who generate in a project at once."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ...commands.handler import Handled
from ...commands.task_state import TaskState, Unknown
from ...container import Container
from ...errors import IdempotencyConflict, InvalidInput, Refused
from ...events.ids import TaskRef, owner_token, project_task_ref
from ...events.subjects import history_filter, task_root
from ...events.task import ModelChoice, TaskEvent
from ...index.query import TaskQuery
from ...projections.task_view import ACTIVE, Listed
from ...streams.jetstream.messages import last_sequence
from ...streams.topology.definitions import TASKS
from ...submission.body import Submission, TaskRequest, fingerprint
from ...wire.trace import TraceContext
from ..auth.access import ApiRequest, Origin
from ..parameters import decoded
from ..schemas.legacy_queue import ChaptersBody, OutlineBody, chapters_asked, params_of

LONGEST_PROJECT = 256
MODEL_HEADERS = ("X-AI-Provider", "X-AI-Model", "X-AI-Key", "X-AI-BaseUrl")
REQUIRED_HEADERS = MODEL_HEADERS[:3]
MISSING_MODEL = "Missing AI configuration"
"""The `error` older clients look for."""
LONGEST_NAME = 128
LONGEST_MODEL_KEY = 4_096
LONGEST_URL = 2_048
MOST_RUNNING = 100
"""Tasks of a project that have not ended among which one is taken up."""


class MissingModel(InvalidInput):
    """A request names no model to use, or has no key for it."""

    def __init__(self, header: str) -> None:
        super().__init__(MISSING_MODEL)
        self.path = header


def read_model(request: ApiRequest) -> tuple[ModelChoice, str]:
    """Return the model and its key from the headers.

    Raises MissingModel for a missing header, InvalidInput with the name of a malformed one, never with its value.
    """
    for name in REQUIRED_HEADERS:
        if not request.headers.get(name, "").strip():
            raise MissingModel(name)
    model = ModelChoice(
        provider=_header(request, "X-AI-Provider", LONGEST_NAME),
        model=_header(request, "X-AI-Model", LONGEST_NAME),
        base_url=_header(request, "X-AI-BaseUrl", LONGEST_URL),
    )
    _check_url(model.base_url)
    return model, _header(request, "X-AI-Key", LONGEST_MODEL_KEY)


def _header(request: ApiRequest, name: str, longest: int) -> str:
    text: str = request.headers.get(name, "").strip()
    if len(text) > longest or not (text.isascii() and text.isprintable()):
        raise InvalidInput(f"must be at most {longest} printable ASCII characters", name)
    return text


def _check_url(url: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.password
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput("must be an http or https address without user name and password", "X-AI-BaseUrl")


def project_name(segment: str) -> str:
    """Return the project name in a percent-encoded path segment. Raises InvalidInput."""
    name = decoded(segment, "name")
    if not 0 < len(name) <= LONGEST_PROJECT or any(map(_is_control, name)):
        raise InvalidInput(f"a project name has 1 to {LONGEST_PROJECT} characters, without control characters", "name")
    return name


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def queue_request(
    owner: str,
    project: str,
    model: ModelChoice,
    body: ChaptersBody | OutlineBody,
    *,
    repeatable: bool,
    trace: TraceContext,
) -> TaskRequest:
    """Return the task a body asks for. Raises InvalidInput.

    Chapters of one project run one after another. An attempt may take the timeout of the type once for each chapter.
    """
    payload = {"projectName": project, **params_of(body)}
    encoded = msgspec.json.encode(payload)
    chapters = chapters_asked(body) if isinstance(body, ChaptersBody) else None
    return TaskRequest(
        owner=owner,
        submission=Submission(payload=Raw(encoded), type="chapter" if chapters else "outline"),
        payload=payload,
        fingerprint=fingerprint(encoded + msgspec.json.encode(model)),
        repeatable=repeatable,
        project=project,
        in_turn=chapters is not None,
        model=model,
        units=chapters or 1,
        trace=trace,
    )


async def submit_with_key(
    container: Container, ref: TaskRef, request: TaskRequest, key: str, signed: Origin
) -> Handled[TaskState, TaskEvent]:
    """Seal the model's key, then append the task that names it. The key is destroyed if no task came to use it."""
    key_id = await container.secrets.put(ref, key) if key else ""
    try:
        handled = await container.submissions.submit(ref, replace(request, key_id=key_id), **signed)
    except Refused:
        await container.secrets.destroy(ref, key_id)
        raise
    state = handled.known.state
    if not handled.appended and not isinstance(state, Unknown) and state.facts.key_id != key_id:
        await container.secrets.destroy(ref, key_id)  # an earlier request made the task, with a key of its own
    return handled


class Generation(NamedTuple):
    """The task of a project that a stream follows."""

    ref: TaskRef
    is_new: bool
    """False: another request made it."""


async def generate(container: Container, request: TaskRequest, key: str, signed: Origin) -> Generation:
    """Return the task of a type that runs in a project, or submit one. Requests at the same time make one task.

    The id of a new task follows from the project and the number of such tasks before it. It is chosen before the
    running tasks are read: whatever another request makes in between is either among these, or has this very id, and
    the log takes one submission of an id only.
    """
    owner, task_type = owner_token(request.owner), request.submission.type
    number = await _unused_number(container, owner, task_type, request.project)
    before = [project_task_ref(owner, task_type, request.project, number - 1)] if number else []
    running = await _running(
        container, owner, TaskQuery(owner=owner, statuses=ACTIVE, types=frozenset([task_type]), project=request.project)
    )
    running += [listed for listed in await container.tasks.views(before) if listed.view.status in ACTIVE]
    if running:
        # One that runs, else the newest.
        chosen = max(running, key=lambda each: (each.view.status == "PROCESSING", each.view.created_sequence))
        return Generation(chosen.ref, is_new=False)
    ref = project_task_ref(owner, task_type, request.project, number)
    try:
        handled = await submit_with_key(container, ref, replace(request, repeatable=True), key, signed)
    except IdempotencyConflict:
        return Generation(ref, is_new=False)
    return Generation(ref, is_new=bool(handled.appended))


async def _running(container: Container, owner: str, wanted: TaskQuery) -> list[Listed]:
    return (await container.lists.page(wanted, MOST_RUNNING, user=owner)).tasks


async def _unused_number(container: Container, owner: str, task_type: str, project: str) -> int:
    """Return the number of a task that was never submitted, in a time that grows with the logarithm of the number."""

    async def exists(number: int) -> bool:
        root = task_root(project_task_ref(owner, task_type, project, number))
        return bool(await last_sequence(container.reading, TASKS, history_filter(root)))

    if not await exists(0):
        return 0
    known, unknown = 0, 1
    while await exists(unknown):
        known, unknown = unknown, 2 * unknown
    while unknown - known > 1:
        middle = (known + unknown) // 2
        if await exists(middle):
            known = middle
        else:
            unknown = middle
    return unknown
