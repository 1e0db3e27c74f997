"""How to talk to a server of the dialect `bare`: stored with its registration. Paths and conditions are JSONPath."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import Struct


class AnswerTest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A test of an answer. It holds if each part that is set holds; at least one is set."""

    status: tuple[int, ...] = ()
    """The status is one of these."""
    body: str = ""
    """A condition on the body, as in `$.status == "failed"`."""
    contains: str = ""
    """The body contains this text, in any case."""


class RequestTemplate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request that starts an attempt."""

    method: str = "POST"
    url: str = ""
    """Relative to the predict URL; empty: the predict URL."""
    headers: dict[str, str] = {}
    """Sent with every request of the attempt."""
    body: Any = "$payload"
    """JSON, with placeholders."""


class Acceptance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer by which a server takes a job that it does later."""

    when: AnswerTest
    id: str = ""
    """Path to the server's id of the job; empty: it keeps ours."""
    status_url: str = ""
    """Path to the URL to poll; empty: the `url` of the poll."""
    cancel_url: str = ""
    """Path to the URL that cancels; empty: the `url` of the cancellation."""


class Poll(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to ask for a job until it has ended."""

    done: AnswerTest | None = None
    """None: the answer is streamed."""
    failed: AnswerTest | None = None
    """Beside `fail_when` of the exchange."""
    method: str = "GET"
    url: str = ""
    """Relative to the predict URL. Empty: the acceptance names it."""
    interval: timedelta = timedelta(seconds=1)
    patience: timedelta = timedelta(seconds=60)
    """Pauses without any answer about the job, in sum, after which it is given up."""
    progress: str = ""
    """Path to a number; empty: none."""
    progress_max: float = 100
    """The number that means that the job is done."""
    message: str = ""
    """Path to a text; empty: none."""
    logs: str = ""
    """Path to a text, or a list of texts: the log so far; empty: none."""
    result_url: str = ""
    """Where the result of a finished job is (GET), relative to the predict URL; empty: in the poll's answer."""


class Cancellation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request that stops a job."""

    method: str = "POST"
    url: str = ""
    """Relative to the predict URL. Empty: the acceptance names it."""
    body: Any = None
    """JSON, with placeholders; None: no body."""
    confirmed: AnswerTest | None = None
    """An answer that says that the job has stopped; None: none does."""


class StreamedParts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to read a streamed answer: server-sent events, or JSON on lines."""

    done: AnswerTest
    """A part that ends the stream well."""
    output: str = ""
    """Path to the text that a part adds to the output; empty: none."""
    progress: str = ""
    """Path to a number; empty: none."""
    progress_max: float = 100
    """The number that means that the task is done."""
    message: str = ""
    """Path to a text; empty: none."""
    events: bool = False
    """Parts are `{"event": NAME, "data": …}`, for servers that tell parts apart by the names of events."""


class BareExchange(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sent to a server, and how its answers are read."""

    request: RequestTemplate = RequestTemplate()
    result: str = ""
    """Path to the result in an answer; empty: the answer is the result."""
    fail_when: AnswerTest | None = None
    """The task has failed, whatever the status says."""
    retry_when: AnswerTest | None = None
    """The attempt has failed, and the task may be tried again."""
    busy_when: AnswerTest | None = None
    """The server takes no task now; beside `busy_status` of the registration."""
    error: str = ""
    """Path to the reason of a failure; empty: where servers usually have it."""
    accepted: Acceptance | None = None
    poll: Poll | None = None
    """Set if and only if `accepted` is."""
    cancel: Cancellation | None = None
    """None: closing the connection is all there is."""
    stream: StreamedParts | None = None
    """None: a streamed answer is read whole, as text."""
