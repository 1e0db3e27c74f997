"""The settings: each is described, and a bad one is named."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.settings import InvalidSettings, Settings, load, table, unknown, variable

SWITCH, LIST = "TASKSTREAM_ALLOW_PRIVATE_BACKENDS", "TASKSTREAM_CORS_ORIGINS"
FIELDS = Settings.__struct_fields__


def test_without_an_environment_everything_has_its_default() -> None:
    assert load({}) == Settings()


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_has_a_description(field: str) -> None:
    rows = {name: text for name, _, text in table()}

    assert len(rows[variable(field)]) > 5


def test_the_table_has_every_setting_once_in_order_with_its_default() -> None:
    rows = table()

    assert [name for name, _, _ in rows] == [variable(field) for field in FIELDS]
    defaults = {name: default for name, default, _ in rows}
    assert defaults["TASKSTREAM_PORT"] == "8080"
    assert defaults["TASKSTREAM_RETRY_BASE"] == "1"
    assert defaults["TASKSTREAM_ALLOW_PRIVATE_BACKENDS"] == "false"
    assert defaults["TASKSTREAM_JWT_SECRET"] == ""
    assert defaults["TASKSTREAM_CORS_ORIGINS"] == ""


@pytest.mark.parametrize("field", FIELDS)
def test_a_default_shown_in_the_table_is_one_that_may_be_set(field: str) -> None:
    defaults = {name: default for name, default, _ in table()}

    assert load({variable(field): defaults[variable(field)]}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("TASKSTREAM_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("TASKSTREAM_PORT", "9000", "port", 9000),
        ("TASKSTREAM_PORT", " 9000 ", "port", 9000),
        ("TASKSTREAM_RETRY_BASE", "0.25", "retry_base", 0.25),
        ("TASKSTREAM_RETRY_BASE", "2", "retry_base", 2.0),
        ("TASKSTREAM_BALANCING", "weighted", "balancing", "weighted"),
        ("TASKSTREAM_LOG_LEVEL", "debug", "log_level", "debug"),
        ("TASKSTREAM_TASK_RETENTION", "0", "task_retention", 0.0),
        ("TASKSTREAM_METRICS_PORT", "9100", "metrics_port", 9100),
        ("TASKSTREAM_JWT_SECRET", "a,b = c", "jwt_secret", "a,b = c"),
        ("TASKSTREAM_JWT_SECRET", "12345", "jwt_secret", "12345"),
        *(
            (SWITCH, text, "allow_private_backends", True)
            for text in ("true", "1", "True", "TRUE", "yes", "YES", "on", " On ")
        ),
        *((SWITCH, text, "allow_private_backends", False) for text in ("false", "0", "False", "", "no", "No", "off")),
        (LIST, "https://a.example", "cors_origins", ("https://a.example",)),
        (LIST, "https://a.example,https://b.example", "cors_origins", ("https://a.example", "https://b.example")),
        (LIST, " a , b ,, c, ", "cors_origins", ("a", "b", "c")),
        (LIST, ",", "cors_origins", ()),
        (LIST, "", "cors_origins", ()),
    ],
)
def test_a_variable_sets_its_setting(name: str, text: str, field: str, value: Any) -> None:
    found = getattr(load({name: text}), field)

    assert (found, type(found)) == (value, type(value))


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load({variable(field): "  " for field in FIELDS}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TASKSTREAM_PORT", "http"),
        ("TASKSTREAM_PORT", "65536"),
        ("TASKSTREAM_PORT", "-1"),
        ("TASKSTREAM_PORT", "80.5"),
        ("TASKSTREAM_REPLICAS", "0"),
        ("TASKSTREAM_REPLICAS", "6"),
        ("TASKSTREAM_RETRY_BASE", "0"),
        ("TASKSTREAM_RETRY_BASE", "-1"),
        ("TASKSTREAM_RETRY_BASE", "1s"),
        ("TASKSTREAM_RETRY_BASE", "nan"),
        ("TASKSTREAM_RETRY_BASE", "inf"),
        ("TASKSTREAM_RETRY_BASE", "1e300"),
        ("TASKSTREAM_TASK_RETENTION", "inf"),
        ("TASKSTREAM_TASK_RETENTION", "-1"),
        ("TASKSTREAM_SERVER_RETENTION", "1e12"),
        ("TASKSTREAM_SHUTDOWN_GRACE", "inf"),
        ("TASKSTREAM_ATTEMPTS", "0"),
        ("TASKSTREAM_ATTEMPTS", "101"),
        ("TASKSTREAM_MAX_BODY", "0"),
        ("TASKSTREAM_MAX_BODY", "1MB"),
        ("TASKSTREAM_MAX_JSON_DEPTH", "501"),
        ("TASKSTREAM_BALANCING", "fair"),
        ("TASKSTREAM_LOG_LEVEL", "INFO"),
        ("TASKSTREAM_ALLOW_PRIVATE_BACKENDS", "perhaps"),
        ("TASKSTREAM_HEALTH_INTERVAL_STABLE", "0"),
        ("TASKSTREAM_JWT_LEEWAY", "301"),
    ],
)
def test_a_bad_value_is_refused_naming_variable_and_value(name: str, text: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load({name: text})

    assert name in str(caught.value)
    assert repr(text) in str(caught.value)


def test_an_argument_overrules_the_environment_unless_it_is_none() -> None:
    environment = {"TASKSTREAM_PORT": "9000", "TASKSTREAM_HOST": "0.0.0.0"}

    found = load(environment, port=1234, host=None)

    assert (found.port, found.host) == (1234, "0.0.0.0")


def test_an_argument_out_of_range_is_refused_as_the_variable_would_be() -> None:
    with pytest.raises(InvalidSettings, match="TASKSTREAM_PORT=99999: "):
        load({}, port=99_999)


def test_a_variable_that_looks_like_a_setting_and_is_none_is_found() -> None:
    environment = {
        "TASKSTREAM_PROT": "1",
        "TASKSTREAM_PORT": "1",
        "PATH": "/",
        "TASKSTREAM_": "",
        "taskstream_port": "",
    }

    assert unknown(environment) == ["TASKSTREAM_", "TASKSTREAM_PROT"]


def test_other_variables_are_none_of_our_business() -> None:
    assert load({"PORT": "1", "HOST": "x", "taskstream_port": "7"}) == Settings()


# What follows from others


@pytest.mark.parametrize(
    ("more", "stable", "failing"),
    [
        ({}, 60, 10),
        ({"health_interval": 6}, 18, 3),
        ({"health_interval": 6, "health_interval_stable": 7}, 7, 3),
        ({"health_interval": 6, "health_interval_failing": 8}, 18, 8),
    ],
)
def test_intervals_that_are_not_set_follow_the_first_one(more: Any, stable: float, failing: float) -> None:
    settings = Settings(**more)

    assert (settings.stable_interval, settings.failing_interval) == (stable, failing)


@pytest.mark.parametrize(
    ("more", "base"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "10.0.0.1", "port": 9}, "http://10.0.0.1:9"),
        ({"public_url": "https://tasks.example"}, "https://tasks.example"),
        ({"public_url": "https://tasks.example/base//", "port": 9}, "https://tasks.example/base"),
    ],
)
def test_the_callback_url_has_no_slash_at_its_end(more: Any, base: str) -> None:
    assert Settings(**more).callback_base == base


def test_a_wrong_number_is_refused_in_words_of_an_environment() -> None:
    with pytest.raises(InvalidSettings, match=r"^TASKSTREAM_WORKERS='-1': must be a whole number from 0 to 64$"):
        load({"TASKSTREAM_WORKERS": "-1"})


def test_a_pause_limit_that_no_delivery_would_reach_is_refused() -> None:
    given = {"TASKSTREAM_DELIVERY_RETENTION": "86400"}

    with pytest.raises(InvalidSettings, match=r"^TASKSTREAM_WEBHOOK_PAUSE_LIMIT=259200: must be less than TASKSTREAM_"):
        load(given)
    assert load({**given, "TASKSTREAM_WEBHOOK_PAUSE_LIMIT": "3600"}).webhook_pause_limit == 3600


@pytest.mark.parametrize(
    ("given", "cores", "workers"),
    [
        ({}, 1, 0),
        ({}, 2, 1),
        ({"TASKSTREAM_APIS": "2"}, 1, 1),
        ({"TASKSTREAM_WORKERS": "0"}, 8, 0),
        ({"TASKSTREAM_APIS": "1", "TASKSTREAM_WORKERS": "1"}, 1, 1),
        ({"TASKSTREAM_APIS": "2", "TASKSTREAM_WORKERS": "3"}, 8, 3),
    ],
    ids=["one core", "two cores", "two APIs on one core", "one process", "two processes on one core", "many"],
)
def test_workers_have_processes_of_their_own_where_there_are_cores(
    given: dict[str, str], cores: int, workers: int
) -> None:
    assert load(given).worker_processes(cores) == workers
