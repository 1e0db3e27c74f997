"""Headers of the queue surface that choose the model of a task (contract, section 2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from ...errors import InvalidInput
from ...events.task import ModelChoice
from ..auth.access import ApiRequest

MODEL_HEADERS = ("X-AI-Provider", "X-AI-Model", "X-AI-Key", "X-AI-BaseUrl")
LONGEST_NAME = 128
LONGEST_KEY = 4_096
LONGEST_URL = 2_048


def read_model(request: ApiRequest) -> tuple[ModelChoice, str]:
    """Return the model and its key from the headers; parts without a header are empty.

    Raises InvalidInput with the name of the header, never with its value.
    """
    model = ModelChoice(
        provider=_header(request, "X-AI-Provider", LONGEST_NAME),
        model=_header(request, "X-AI-Model", LONGEST_NAME),
        base_url=_header(request, "X-AI-BaseUrl", LONGEST_URL),
    )
    _check_url(model.base_url)
    return model, _header(request, "X-AI-Key", LONGEST_KEY)


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
