"""Every setting, its unit and its default: the only reader of the environment.

A setting `retry_base` is the variable `TASKSTREAM_RETRY_BASE`. Durations are seconds, sizes are
bytes, lists are separated by commas. `taskstream settings` prints this table.

A setting that is a secret can also be the content of a file: `TASKSTREAM_JWT_SECRET_FILE` holds its path.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from .wire.validation_errors import invalid

PREFIX = "TASKSTREAM_"
FILE = "_FILE"
LONGEST_SECRET = 64 * 1024
"""Bytes of a file with a secret: a path such as /dev/zero must not fill the memory."""
HIDDEN = "…"
BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
"""The spellings of a boolean, in any case."""

Seconds = Annotated[float, Meta(gt=0, le=366 * 86400)]
Patience = Annotated[float, Meta(ge=0, le=86400)]
Age = Annotated[float, Meta(ge=0, le=100 * 366 * 86400)]
Bytes = Annotated[int, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Concurrency = Annotated[int, Meta(ge=1, le=1_000_000)]
PerSecond = Annotated[float, Meta(ge=0.00001, le=1_000_000)]
"""The minimum is about one per day."""
Waiting = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Streams = Annotated[int, Meta(ge=0, le=1_000_000)]
Processes = Annotated[int, Meta(ge=0, le=64)]
Stored = Annotated[int, Meta(ge=0, le=2**60)]
SettingSource = Literal["default", "environment", "file", "option"]
PayloadAccess = Literal["roles", "granted"]
Balancing = Literal["least-loaded", "round-robin", "weighted", "random"]


def about(text: str) -> Meta:
    return Meta(description=text)


SECRET = Meta(extra={"secret": True})
"""Marks a setting whose value is never shown, and which can be the content of a file."""


class OperatorSettings(Struct, frozen=True):
    """Variables of the operators' commands, which may run far from the service. They are no settings of it."""

    url: str | None = None
    token: str | None = None
    token_file: str | None = None


class InvalidSettings(Exception):
    """A setting has a value the service cannot start with; the message names it and says what to do."""


class Settings(Struct, frozen=True, kw_only=True):
    """All configuration of the service, read once at start."""

    # Where
    host: Annotated[str, about("host the API listens on")] = "127.0.0.1"
    port: Annotated[Port, about("port the API listens on")] = 8080
    public_url: Annotated[str | None, about("base URL for callbacks from backends; default: http://HOST:PORT")] = None
    data_dir: Annotated[str, about("data folder of the embedded nats-server")] = "./data"
    index_dir: Annotated[
        str | None, about("folder of the API's index of tasks, on a local disk; default: DATA_DIR/index")
    ] = None
    nats_url: Annotated[
        str | None, about("URLs of NATS servers; required by `api` and `worker`; unset: `up` starts its own")
    ] = None
    nats_monitor_url: Annotated[
        str | None, about("monitoring URL of an external NATS, to check its `sync_interval`")
    ] = None
    nats_ca: Annotated[str | None, about("file with the CA of NATS' certificates; default: the system's CAs")] = None
    nats_cert: Annotated[str | None, about("file with the client certificate for NATS")] = None
    nats_key: Annotated[str | None, about("file with the certificate's key; default: in the certificate's file")] = None
    nats_user: Annotated[str | None, about("user name for NATS; may also be in the URL")] = None
    nats_password: Annotated[str | None, SECRET, about("password for NATS; may also be in the URL")] = None
    nats_token: Annotated[
        str | None, SECRET, about("token for NATS instead of user and password; may also be in the URL")
    ] = None
    nats_creds: Annotated[
        str | None, about("credentials file for NATS (`.creds`: user JWT and seed), read at each connection")
    ] = None
    nats_inbox_prefix: Annotated[
        str,
        Meta(pattern=r"^[\w-]+(\.[\w-]+)*$"),
        about("subject prefix of replies; NATS permissions may require another"),
    ] = "_INBOX"
    cluster: Annotated[Literal[1, 3, 5], about("number of nats-servers that `up` starts: 1, 3 or 5")] = 1
    apis: Annotated[int, Meta(ge=1, le=64), about("API processes of `up`, on one port")] = 1
    workers: Annotated[
        Processes | None,
        about(
            "worker processes of `up`; 0: one process is API and worker; "
            "default: 1, or 0 with one API on a machine with one core"
        ),
    ] = None
    replicas: Annotated[int, Meta(ge=1, le=5), about("replicas of every stream (3 on a cluster)")] = 1
    nats_placement_cluster: Annotated[str | None, about("NATS cluster that stores the streams")] = None
    nats_placement_tags: Annotated[
        tuple[str, ...], about("`server_tags` required of the NATS servers that store the streams")
    ] = ()

    # API
    jwt_secret: Annotated[str | None, SECRET, about("HS256 secret, at least 32 bytes; no default")] = None
    jwt_old_secrets: Annotated[
        tuple[str, ...],
        Meta(max_length=8),
        SECRET,
        about("former values of TASKSTREAM_JWT_SECRET, whose tokens are still accepted"),
    ] = ()
    jwt_public_key: Annotated[
        str | None, about("PEM public key (or its path) for RS256, ES256 or EdDSA, instead of a secret")
    ] = None
    jwt_jwks_url: Annotated[str | None, about("URL of a JWKS document with the public keys")] = None
    jwt_algorithms: Annotated[
        tuple[str, ...], about("accepted algorithms; default: HS256 with a secret, else RS256,ES256,EdDSA")
    ] = ()
    jwt_issuer: Annotated[str | None, about("required `iss`, if set")] = None
    jwt_audience: Annotated[str | None, about("required `aud`, if set")] = None
    jwt_leeway: Annotated[float, Meta(ge=0, le=300), about("tolerated clock difference in `exp` and `iat`")] = 10
    payload_access: Annotated[
        PayloadAccess,
        about(
            "who reads payloads and results of other users' tasks: `roles`: admins and auditors, `granted`: of these "
            "only tokens with the claim `payloads: true`"
        ),
    ] = "roles"
    cors_origins: Annotated[tuple[str, ...], about("allowed browser origins; default: none")] = ()
    max_body: Annotated[Bytes, about("maximum request body; a larger one is a 413")] = 1024 * 1024
    max_file: Annotated[int, Meta(ge=1, le=2**40), about("maximum size of a file; a larger one is a 413")] = 1024**3
    max_batch_body: Annotated[Bytes, about("maximum body of a batch; a larger one is a 413")] = 8 * 1024 * 1024
    max_json_depth: Annotated[
        int, Meta(ge=2, le=500), about("maximum nesting of a JSON body; a deeper one is a 400")
    ] = 64
    openai_wait: Annotated[
        Seconds, about("longest wait of a call of OpenAI's API for its answer; then its task is cancelled")
    ] = 600.0
    user_streams: Annotated[
        Streams,
        about("open streams per user and process: event streams, waits, WebSockets, subscriptions; 0: no limit"),
    ] = 500
    max_streams: Annotated[Streams, about("open streams of all users per process; 0: no limit")] = 5_000
    max_connections: Annotated[
        Streams, about("open connections of clients per process; 0: half of the file descriptors, 10000 at most")
    ] = 0
    address_connections: Annotated[
        Streams | None,
        about("open connections per client address (IPv6: per /64); 0: no limit; default: a quarter of all"),
    ] = None
    proxies: Annotated[
        tuple[str, ...],
        about("addresses and CIDR blocks of reverse proxies, without a limit per address; default: loopback"),
    ] = ()
    metrics_token: Annotated[
        Annotated[str, Meta(min_length=16)] | None,
        SECRET,
        about("token required for /metrics, at least 16 characters; unset: none"),
    ] = None
    drain: Annotated[Patience, about("time an API continues to answer at shutdown, while /health/ready is 503")] = 0.0
    seal_keys: Annotated[
        tuple[str, ...],
        SECRET,
        about(
            "keys that encrypt secrets at rest, newest first (see `taskstream seal-key`); "
            "default: those of DATA_DIR/seal.key, which `up` makes"
        ),
    ] = ()

    # Backends
    allow_private_backends: Annotated[bool, about("accept backends at private, loopback and link-local addresses")] = (
        False
    )
    backend_allow: Annotated[
        tuple[str, ...], about("host names and CIDR blocks accepted as backends although private")
    ] = ()
    balancing: Annotated[Balancing, about("choice of a server: least-loaded, round-robin, weighted or random")] = (
        "least-loaded"
    )
    max_result: Annotated[Bytes, about("maximum answer of a backend")] = 32 * 1024 * 1024
    inline_result: Annotated[Bytes, about("maximum result stored in the log; a larger one is in the object store")] = (
        512 * 1024
    )
    parent_results: Annotated[
        int, Meta(ge=0), about("maximum total of parents' results that a task's server gets; others are links")
    ] = 1024 * 1024

    # Attempts
    attempts: Annotated[int, Meta(ge=1, le=100), about("attempts of a task, including the first")] = 3
    retry_base: Annotated[Seconds, about("maximum first backoff; doubles with each attempt")] = 1.0
    retry_cap: Annotated[Seconds, about("maximum backoff")] = 30.0
    attempt_timeout: Annotated[Seconds, about("maximum time of one attempt, unless its type or task says another")] = (
        300.0
    )
    callback_timeout: Annotated[
        Seconds, about("the same on a server that reports by callback, if it is longer than the one above")
    ] = 3_600.0

    pull_lease: Annotated[
        Annotated[float, Meta(ge=1, le=3_600)],
        about("time after which an attempt of a pulled server is lost that its puller did not renew"),
    ] = 60.0

    # Health
    health_interval: Annotated[Seconds, about("time between health checks of a new server")] = 20.0
    health_interval_stable: Annotated[
        Seconds | None, about("time between checks of a stable server; default: 3 x health_interval")
    ] = None
    health_interval_failing: Annotated[
        Seconds | None, about("time between checks after a failure; default: health_interval / 2")
    ] = None
    health_timeout: Annotated[Seconds, about("maximum time of a health check")] = 5.0
    health_retries: Annotated[int, Meta(ge=0, le=10), about("retries before a failed check counts")] = 3
    health_retry_delay: Annotated[Seconds, about("time between those retries")] = 2.0
    health_stable_checks: Annotated[
        int, Meta(ge=1), about("consecutive successful checks that make a server stable")
    ] = 5
    server_remove_after: Annotated[
        Seconds, about("time offline after which a server is removed, unless its `removeAfter` says otherwise")
    ] = 180.0
    server_forget_after: Annotated[
        Seconds,
        about("time after that in which a server that answers is restored; then its key is destroyed"),
    ] = 86_400.0
    heartbeat_ttl: Annotated[
        Seconds, about("time without heartbeat after which a server without health URL is offline")
    ] = 60.0
    circuit_failures: Annotated[
        int, Meta(ge=1), about("failures since the last success that open a server's circuit breaker")
    ] = 5
    circuit_cooldown: Annotated[
        float, Meta(gt=0, le=300), about("time a circuit breaker stays open before one trial; doubles up to 300")
    ] = 15.0

    # Workers
    lease_ttl: Annotated[Seconds, about("time after which a silent worker loses its leases")] = 10.0
    ack_wait: Annotated[Seconds, about("time after which a silent worker's task is redelivered")] = 30.0
    shutdown_grace: Annotated[Patience, about("time for running calls to finish at shutdown")] = 20.0
    priority_ageing: Annotated[
        Age, about("waiting time after which a task alternates with higher priorities; 0: never")
    ] = 600.0
    reconcile_interval: Annotated[Seconds, about("time between searches for tasks missing from their queue")] = 30.0
    schedule_grace: Annotated[Seconds, about("maximum delay of a schedule's run before it counts as missed")] = 60.0
    metrics_port: Annotated[Port | None, about("port of /metrics and /health of `taskstream worker`; unset: none")] = (
        None
    )

    # Owners
    owner_concurrency: Annotated[
        Concurrency | None,
        about("concurrent tasks per owner, unless an admin sets another limit; unset: no limit"),
    ] = None
    owner_per_second: Annotated[
        PerSecond | None, about("starts per second per owner, unless an admin sets another limit; unset: no limit")
    ] = None
    owner_burst: Annotated[
        Concurrency | None, about("starts at once after a quiet time; default: owner_per_second, at least 1")
    ] = None
    owner_waiting: Annotated[Waiting, about("waiting tasks per owner; a submit over it is a 429; 0: no limit")] = (
        100_000
    )
    owner_stored: Annotated[
        Stored | None,
        about(
            "stored bytes per owner (events and results within the retention); a submit over it is a 429; 0: no limit; "
            "default: a quarter of NATS' storage, 10 GiB if that is unknown"
        ),
    ] = None

    # Webhooks
    webhook_allow: Annotated[
        tuple[str, ...],
        about("host names and CIDR blocks that webhooks may call although private"),
    ] = ()
    webhook_attempts: Annotated[int, Meta(ge=1, le=50), about("tries of a webhook delivery")] = 8
    webhook_retry_base: Annotated[
        Seconds, about("maximum wait before a delivery's second try; times four for each further try")
    ] = 5.0
    webhook_retry_cap: Annotated[
        Seconds, about("maximum wait between two tries of a delivery, and maximum pause of a webhook")
    ] = 21_600.0
    webhook_pause_limit: Annotated[
        Seconds,
        about(
            "time after which deliveries fail whose receiver only asks for pauses (429); "
            "must be less than TASKSTREAM_DELIVERY_RETENTION"
        ),
    ] = 259_200.0
    webhook_timeout: Annotated[Seconds, about("maximum time for a webhook's receiver to answer")] = 15.0

    # Retention
    task_retention: Annotated[Age, about("age at which task events are dropped; 0: never")] = 0
    file_retention: Annotated[Age, about("age at which a file without an `expiresAt` is deleted; 0: never")] = (
        30 * 86_400
    )
    server_retention: Annotated[Age, about("age at which server events are dropped; 0: never")] = 0
    delivery_retention: Annotated[
        Seconds, about("age at which webhook deliveries are dropped; must exceed the time of all tries")
    ] = 604_800.0
    max_storage: Annotated[
        int, Meta(ge=0), about("maximum storage of the embedded JetStream; 0: limited by the disk")
    ] = 0
    storage_reserve: Annotated[
        Stored | None,
        about(
            "bytes of the store kept for accepted tasks: with less free, new work is a 503; "
            "default: 5 % of the store, 1 GiB at most"
        ),
    ] = None

    # Logs
    slow_request: Annotated[
        Seconds, about("time to the beginning of an answer above which a request is logged as slow")
    ] = 5.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], about("minimum severity of log lines")] = "info"
    log_format: Annotated[Literal["auto", "json", "text"], about("auto: text on a terminal, else JSON lines")] = "auto"

    def worker_processes(self, cores: int) -> int:
        """Return the number of worker processes of `up` on a machine with so many cores; 0: the API's process works."""
        if self.workers is not None:
            return self.workers
        return 1 if cores > 1 or self.apis > 1 else 0

    def shown(self) -> dict[str, Any]:
        """Return the settings that are not at their defaults, without secrets and without passwords in URLs."""
        return {
            field: HIDDEN if is_secret(field) else _without_password(value)
            for field, default in zip(self.__struct_fields__, self.__struct_defaults__, strict=True)
            if (value := getattr(self, field)) != default
        }

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in self.shown().items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self.shown().items())

    @property
    def callback_base(self) -> str:
        """Base URL for callbacks from backends, without a trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def index_folder(self) -> Path:
        """Folder of the index of tasks."""
        return Path(self.index_dir or Path(self.data_dir) / "index").expanduser()

    @property
    def stable_interval(self) -> float:
        return self.health_interval_stable or 3 * self.health_interval

    @property
    def failing_interval(self) -> float:
        return self.health_interval_failing or self.health_interval / 2


class DescribedSetting(NamedTuple):
    """A setting as operators see it."""

    name: str
    """Of its variable."""
    value: Any
    """A secret is HIDDEN, and a URL has no password."""
    default: Any
    source: SettingSource
    is_secret: bool
    meaning: str


def described(loaded: Settings, environ: Mapping[str, str] = os.environ) -> list[DescribedSetting]:
    """Return every setting of a process, in order, and where its value is from. No file is read."""
    defaults = Settings()
    found = []
    for (field, hint), (name, _, meaning) in zip(hints().items(), table(), strict=True):
        value, default = getattr(loaded, field), getattr(defaults, field)
        hides = is_secret(field) and value != default
        found.append(
            DescribedSetting(
                name,
                HIDDEN if hides else _without_password(value),
                default,
                _source_of(field, hint, value, default, environ),
                is_secret(field),
                meaning,
            )
        )
    return found


def _source_of(field: str, hint: Any, value: Any, default: Any, environ: Mapping[str, str]) -> SettingSource:
    name = variable(field)
    if is_secret(field) and environ.get(name + FILE, "").strip():
        return "file"
    if text := environ.get(name, "").strip():
        with contextlib.suppress(InvalidSettings):
            if _convert(name, HIDDEN, _raw(text, hint), hint) == value:
                return "environment"
    return "default" if value == default else "option"


def _raw(text: str, hint: Any) -> Any:
    """Return the text of a variable, or the parts of a list."""
    is_list = "tuple" in str(hint)
    return [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()] if is_list else text


def variable(field: str) -> str:
    return PREFIX + field.upper()


@cache
def hints() -> dict[str, Any]:
    """Return the type of each setting, with its marks."""
    return get_type_hints(Settings, include_extras=True)


@cache
def is_secret(field: str) -> bool:
    return SECRET in hints()[field].__metadata__


def is_boolean(hint: Any) -> bool:
    return get_args(hint)[:1] == (bool,)


OTEL = ("SDK_DISABLED", "TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of OpenTelemetry, without their prefix, that say whether traces are exported."""


def load(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Return the settings from the environment; `overrides` that are not None win.

    Raises InvalidSettings naming the variable that has a bad value.
    """
    values: dict[str, Any] = {}
    for field, hint in hints().items():
        name, text = variable(field), environ.get(variable(field), "").strip()
        path = environ.get(name + FILE, "").strip() if is_secret(field) else ""
        if path and text:
            raise InvalidSettings(f"{name} and {name + FILE} are both set: unset one of them")
        if path:
            name, text = name + FILE, _content(name + FILE, path)
        if text:
            values[field] = _convert(name, HIDDEN if is_secret(field) else repr(text), _raw(text, hint), hint)
    for field, value in overrides.items():
        if value is not None:
            values[field] = _convert(variable(field), repr(value), value, hints()[field])
    settings = Settings(**values)
    if settings.workers == 0 and settings.apis > 1:
        apis, workers = variable("apis"), variable("workers")
        raise InvalidSettings(
            f"{workers}=0: runs API and worker in one process, but {apis}={settings.apis}: set {workers} to 1 or more"
        )
    if settings.webhook_pause_limit >= settings.delivery_retention:
        limit, retention = variable("webhook_pause_limit"), variable("delivery_retention")
        raise InvalidSettings(
            f"{limit}={settings.webhook_pause_limit:g}: must be less than {retention}={settings.delivery_retention:g}"
        )
    return settings


def _content(name: str, path: str) -> str:
    """Return the content of a file with a secret, without its last line break. Raises InvalidSettings."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST_SECRET + 1)
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{name}={path!r}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > LONGEST_SECRET:
        raise InvalidSettings(f"{name}={path!r}: the file has more than {LONGEST_SECRET} bytes")
    text = content.decode(errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text or "\0" in text:
        raise InvalidSettings(f"{name}={path!r}: the file is not UTF-8 text")
    text = re.sub(r"\r?\n\Z", "", text)
    if not text.strip():
        raise InvalidSettings(f"{name}={path!r}: the file is empty: it must contain the secret")
    return text


def _convert(name: str, given: str, raw: Any, hint: Any) -> Any:
    if is_boolean(hint) and isinstance(raw, str):
        if raw.lower() not in BOOLEANS:
            raise InvalidSettings(f"{name}={given}: must be yes or no (or true, on, 1, or false, off, 0)")
        raw = BOOLEANS[raw.lower()]
    try:
        return msgspec.convert(raw, hint, strict=False)
    except msgspec.ValidationError as error:
        requirement, _, _ = invalid(error, hint).detail.partition("; given: ")
        requirement = requirement.removesuffix(", or null")  # an environment has no null
        raise InvalidSettings(f"{name}={given}: {requirement}") from None


def _without_password(value: Any) -> Any:
    """Return a URL, or a list of them, without user and password; anything else as it is."""
    return re.sub(r"//[^,\s]*@", f"//{HIDDEN}@", value) if isinstance(value, str) else value


def variables() -> set[str]:
    """Return the names of all variables that are read."""
    return {variable(field) for field in hints()} | {variable(field) + FILE for field in hints() if is_secret(field)}


def operator_settings(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """Return where the service is and which token to send, as far as variables say so.

    Raises InvalidSettings if there are two tokens.
    """
    found = {name: environ.get(variable(name), "").strip() or None for name in OperatorSettings.__struct_fields__}
    if found["token"] and found["token_file"]:
        raise InvalidSettings("TASKSTREAM_TOKEN and TASKSTREAM_TOKEN_FILE are both set: unset one of them")
    return OperatorSettings(**found)


def environment_of_nats_server(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of an embedded nats-server: what sets up Go's runtime, and none of our settings."""
    return {name: environ[name] for name in ("GOGC", "GOMAXPROCS", "GOMEMLIMIT", "TZ") if name in environ}


def wants_traces(environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if OpenTelemetry's own variables ask for traces to be exported."""
    found = {name: environ.get(f"OTEL_{name}", "").strip().lower() for name in OTEL}
    if found["SDK_DISABLED"] == "true" or (found["TRACES_EXPORTER"] or "otlp") != "otlp":
        return False
    return any(found[name] for name in ("TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT"))


def traces_protocol(environ: Mapping[str, str] = os.environ) -> str:
    """Return the protocol in which OpenTelemetry's variables ask for traces; empty: the default, `http/protobuf`."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(name, "").strip().lower():
            return protocol
    return ""


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return variables with our prefix that are not settings, usually typing errors."""
    known = variables() | {variable(name) for name in OperatorSettings.__struct_fields__}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def table() -> list[tuple[str, str, str]]:
    """Return (variable, default, meaning) of every setting, in order."""
    defaults = Settings()
    rows = []
    for field, hint in hints().items():
        texts = [meta.description for meta in hint.__metadata__ if getattr(meta, "description", None)]
        value = getattr(defaults, field)
        shown = (
            ""
            if value in (None, ())
            else str(value).lower()
            if isinstance(value, bool)
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
        )
        or_file = f"; or {variable(field)}{FILE}" if is_secret(field) else ""
        rows.append((variable(field), shown, texts[0] + or_file))
    return rows
