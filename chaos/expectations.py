"""The least evidence that each kind of run leaves, by its plan: with less, its checks would have looked at nothing."""

from __future__ import annotations

from collections.abc import Sequence

from .evidence import ANY_API, Expected
from .hostile import OWNERS as HOSTILE_OWNERS
from .load import CLIENTS_PER_TENANT, TENANTS
from .schedule import APIS, MODEL_SERVERS, OURS, PULLED, Fault

STREAMS = (
    *("TASKS", "SERVERS", "WEBHOOKS", "SCHEDULES", "TIMERS", "RETRIES", "DISPATCH"),
    *(
        "KV_tasks",
        "KV_registry",
        "KV_heartbeats",
        "KV_leases",
        "KV_secrets",
        "KV_deliveries",
        "OBJ_results",
        "OBJ_index",
    ),
)
CONSUMERS = (
    ("TIMERS", "due-timers"),
    *(("DISPATCH", f"pool-{priority}-default") for priority in ("high", "normal", "low")),
)
BUCKETS = ("tasks", "registry", *(f"index of {name}" for name in APIS))
RECOVERIES = 2
"""Kills of NATS at the end of a run."""
ORDINARY_CLIENTS = tuple(f"{tenant}-{number}" for tenant in TENANTS for number in range(CLIENTS_PER_TENANT))


def of_run(
    seconds: float,
    planned: Sequence[Fault],
    holding: Sequence[str],
    subscribers: Sequence[str],
    receivers: Sequence[tuple[str, str, str]],
    shared_limits: int,
) -> Expected:
    """Return what a run with faults leaves; each client makes each call that changes nothing to each API at the end."""
    closing = len(ORDINARY_CLIENTS) * len(APIS)
    counts = dict.fromkeys(("list", "read", "pry", "usurp", "odd", "cancel"), closing)
    counts |= {"submit": round(seconds), "repeat": closing, "conflict": closing // 2}
    return Expected(
        clients=(*ORDINARY_CLIENTS, *(f"{owner}-0" for owner in (*holding, *HOSTILE_OWNERS))),
        apis=APIS,
        answers=counts | {"batch": 1, "schedule": 6},
        tasks=round(3 * seconds),
        server_calls=round(seconds / 3),
        calls_of=dict.fromkeys((*MODEL_SERVERS, PULLED), round(seconds / 10)),
        subscribers=tuple(subscribers),
        followers=round(seconds / 2),
        receivers=tuple(receivers),
        faults=tuple((fault.kind, fault.target) for fault in planned),
        processes=OURS,
        streams=STREAMS,
        consumers=CONSUMERS,
        buckets=BUCKETS,
        probes=len(APIS) + 2,
        recoveries=RECOVERIES,
        shared_limits=shared_limits,
        occurrences=round(seconds / 10),  # a cluster can lack its majority for half of a run
    )


def of_rolling(restarted: Sequence[str]) -> Expected:
    """Return what a rolling restart leaves."""
    return Expected(
        clients=ORDINARY_CLIENTS,
        apis=(ANY_API,),
        answers={"submit": 30, "read": 5, "list": 1},
        tasks=30,
        server_calls=5,
        faults=tuple(("restart", name) for name in restarted),
        processes=OURS,
        streams=STREAMS,
        consumers=CONSUMERS,
        buckets=BUCKETS,
    )


def of_containment(windows: int) -> Expected:
    """Return what a containment run leaves."""
    return Expected(
        clients=tuple(f"{owner}-0" for owner in (*TENANTS, *HOSTILE_OWNERS)),
        apis=APIS,
        answers={"submit": 5 * windows},
        tasks=5 * windows,
        server_calls=5 * windows,
        processes=OURS,
        streams=STREAMS,
        consumers=CONSUMERS,
        buckets=BUCKETS,
        windows=windows,
    )
