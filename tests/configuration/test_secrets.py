"""Secrets: each can be the content of a file, and none is shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from taskstream.runtime import logs
from taskstream.settings import (
    HIDDEN,
    LONGEST_SECRET,
    InvalidSettings,
    Settings,
    hints,
    is_secret,
    load,
    unknown,
    variable,
)
from taskstream.streams.client.access import Access, Credentials, shown

SECRETS = [field for field in hints() if is_secret(field)]
VALUE = "a secret of more than 32 characters"
LISTS = {field for field in SECRETS if "tuple" in str(hints()[field])}


def kept(field: str, *values: str) -> Any:
    return values if field in LISTS else values[0]


def in_file(folder: Path, field: str, content: str | bytes) -> dict[str, str]:
    """Return the environment that names a file with this content."""
    path = folder / "secret"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {f"{variable(field)}_FILE": str(path)}


def test_these_settings_are_secrets() -> None:
    assert {"jwt_secret", "nats_password", "nats_token", "seal_keys"} <= set(SECRETS)


@pytest.mark.parametrize("field", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["bare", "lf", "crlf"])
def test_a_secret_is_the_content_of_its_file_without_the_last_line_break(field: str, end: str, tmp_path: Path) -> None:
    given = in_file(tmp_path, field, VALUE + end)

    assert getattr(load(given), field) == kept(field, VALUE)
    assert unknown(given) == []


def test_only_the_last_line_break_is_stripped(tmp_path: Path) -> None:
    assert load(in_file(tmp_path, "jwt_secret", f" {VALUE}\n\n")).jwt_secret == f" {VALUE}\n"


@pytest.mark.parametrize("content", ["one,two", "one\ntwo\n", "one\r\ntwo\r\n\r\n", " one , two "])
def test_a_list_in_a_file_has_one_value_per_line_or_commas(content: str, tmp_path: Path) -> None:
    assert load(in_file(tmp_path, "seal_keys", content)).seal_keys == ("one", "two")


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_given_twice_is_refused(field: str, tmp_path: Path) -> None:
    given = in_file(tmp_path, field, VALUE)

    with pytest.raises(
        InvalidSettings, match=rf"^{variable(field)} and {variable(field)}_FILE are both set: unset one"
    ):
        load({**given, variable(field): VALUE})
    assert getattr(load({**given, variable(field): " "}), field) == kept(field, VALUE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b" \r\n\n", "is empty"),
        (b"\xff" * 40, "not UTF-8"),
        (b"a\0b", "not UTF-8"),
        (b"x" * (LONGEST_SECRET + 1), "more than"),
    ],
    ids=["empty", "line", "blank", "binary", "nul", "long"],
)
def test_a_file_without_a_usable_secret_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    given = in_file(tmp_path, "jwt_secret", content)

    with pytest.raises(InvalidSettings, match=rf"^TASKSTREAM_JWT_SECRET_FILE='{tmp_path}/secret': .*{said}"):
        load(given)


@pytest.mark.parametrize(
    ("path", "said"), [("/no/such/file", "No such file"), ("/", "Is a directory"), ("a\0b", "null")]
)
def test_a_file_that_cannot_be_read_is_named_with_its_variable(path: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load({"TASKSTREAM_JWT_SECRET_FILE": path})

    assert str(refused.value).startswith(f"TASKSTREAM_JWT_SECRET_FILE={path!r}: ")
    assert said in str(refused.value)


def test_only_secrets_have_a_file_variable() -> None:
    given = {f"{variable(field)}_FILE": "/no/such/file" for field in hints() if field not in SECRETS}

    assert load(given) == Settings()
    assert unknown(given) == sorted(given)


@pytest.mark.parametrize("field", SECRETS)
def test_settings_are_shown_without_secrets(field: str) -> None:
    settings = Settings(**{field: kept(field, VALUE)})

    for text in (repr(settings), str(settings), f"{settings}", str(settings.shown()), str(settings.__rich_repr__())):
        assert VALUE not in text
        assert HIDDEN in text
    assert repr(Settings(port=7)) == "Settings(port=7)"


@pytest.mark.parametrize("user", ["alice:p", "alice:p@ss", "alice:p/ss", "token"])
def test_a_url_is_shown_without_the_password_in_it(user: str) -> None:
    url = f"nats://{user}@one:4222,tls://{user}@two"

    assert Settings(nats_url=url).shown() == {"nats_url": f"nats://{HIDDEN}@one:4222,tls://{HIDDEN}@two"}
    assert shown(url) == "nats://one:4222,tls://two"


def test_access_and_credentials_are_shown_without_secrets() -> None:
    text = repr([Access(user="alice", password=VALUE, token=VALUE), Credentials(VALUE, VALUE)])

    assert VALUE not in text
    assert "alice" in text


@pytest.fixture
def log_is_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs._json_lines = None  # else each later request of this process would write to a closed file
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("log_is_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_in_the_log_shows_no_local_variables(log_format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format=log_format))
    hidden = VALUE
    try:
        raise RuntimeError("failed")
    except RuntimeError:
        structlog.get_logger("a").exception("tried", length=len(hidden))
        logging.getLogger("b").exception("tried too")

    written = capsys.readouterr().err
    assert written.count("RuntimeError") >= 2
    assert VALUE not in written
