"""What a field of an event means where it is absent: the same in every version.

An event that was written before a field existed has its default for ever. A new field needs a row here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from taskstream.events import (
    batch_job,
    envelope,
    exchange,
    file,
    key,
    limits,
    operation,
    owner,
    pool,
    schedule,
    server,
    task,
    task_type,
    webhook,
)
from taskstream.events.envelope import NULL

DEFAULTS: dict[type[Struct], dict[str, Any]] = {
    envelope.Recorded: {"cause": ""},
    file.FileReferenced: {"schedule": ""},
    file.FileCreated: {"purpose": "", "metadata": {}, "expires_at": None, "task": "", "attempt": 0},
    envelope.Actor: {"key": ""},
    key.KeyCreated: {
        "types": (),
        "servers": None,
        "payloads": None,
        "expires_at": None,
        "per_second": None,
        "parent": "",
    },
    key.KeyRevoked: {"reason": ""},
    limits.Limits: {"concurrency": None, "per_second": None, "burst": None},
    task.RetryPolicy: {"busy_for": timedelta(hours=1)},
    task.StoredResult: {"inline": NULL, "object_name": None, "file": None, "files": ()},
    task.ModelChoice: {"provider": "", "model": "", "base_url": ""},
    task.Plan: {
        "not_before": None,
        "expires_at": None,
        "ends_by": None,
        "depends_on": (),
        "on_parent_failure": "fail",
        "concurrency_key": "",
        "prefer": {},
        "require": {},
        "model": "",
        "session": "",
    },
    task.TaskSubmitted: {
        "project": "",
        "model": None,
        "key_id": "",
        "held": False,
        "plan": None,
        "batch": "",
        "batch_size": 0,
        "schedule": "",
        "files": (),
        "indexed": {},
        "facade": None,
    },
    task.FacadeRequest: {
        "endpoint": "",
        "model": "",
        "webhook": "",
        "webhook_events": (),
        "is_stream": False,
        "metadata": {},
    },
    task.TaskHeld: {"renewed": False},
    task.TaskQueued: {"renewed": False, "granted": False, "submission": 0, "bulk": False},
    task.AttemptStarted: {"token_digest": ""},
    task.AttemptAccepted: {"backend_task_id": None, "lease": None},
    task.ProgressReported: {
        "progress": None,
        "message": None,
        "custom_data": NULL,
        "lines": (),
        "output": "",
        "batch": "",
        "reports": 1,
        "notes": (),
    },
    task.AttemptReturned: {"kind": "shutdown"},
    task.TaskSucceeded: {"update_digest": "", "notes": ()},
    task.TaskFailed: {"result": None, "update_digest": "", "notes": ()},
    server.Overflow: {"waiting": None, "oldest": None},
    server.ServerRegistered: {
        "health_url": None,
        "is_async": False,
        "callback": False,
        "types": (),
        "max_concurrent": 10,
        "weight": 1,
        "api_key_id": "",
        "labels": {},
        "overflow": None,
        "busy_status": None,
        "auth_header": "",
        "health_auth": False,
        "health_expect": None,
        "remove_after": None,
        "is_permanent": False,
        "dialect": "",
        "model": "",
        "mode": "push",
        "exchange": None,
        "preset": "",
        "models": None,
        "finds_models": False,
    },
    exchange.AnswerTest: {"status": (), "body": "", "contains": ""},
    exchange.RequestTemplate: {"method": "POST", "url": "", "headers": {}, "body": "$payload"},
    exchange.Acceptance: {"id": "", "status_url": "", "cancel_url": ""},
    exchange.Poll: {
        "done": None,
        "failed": None,
        "method": "GET",
        "url": "",
        "interval": timedelta(seconds=1),
        "patience": timedelta(seconds=60),
        "progress": "",
        "progress_max": 100,
        "message": "",
        "logs": "",
        "result_url": "",
    },
    exchange.Cancellation: {"method": "POST", "url": "", "body": None, "confirmed": None},
    exchange.StreamedParts: {"output": "", "progress": "", "progress_max": 100, "message": "", "events": False},
    exchange.BareExchange: {
        "request": exchange.RequestTemplate(),
        "result": "",
        "fail_when": None,
        "retry_when": None,
        "busy_when": None,
        "error": "",
        "accepted": None,
        "poll": None,
        "cancel": None,
        "stream": None,
    },
    server.HealthExpectation: {"status": (), "json": {}},
    server.DetectionEvidence: {"status": 0, "sign": ""},
    server.DialectDetected: {"preset": "", "program": "", "exchange": None, "evidence": ()},
    server.ServerRemoved: {"is_kept": False},
    server.ServerRestored: {"api_key_id": ""},
    server.MaintenanceStarted: {"reason": ""},
    server.MaintenanceEnded: {"reason": ""},
    server.CircuitOpened: {"owner": ""},
    task_type.TypeDefined: {
        "payload_schema": NULL,
        "attempts": None,
        "backoff_base": None,
        "backoff_cap": None,
        "timeout": None,
        "priority": "normal",
        "description": "",
        "limits": None,
        "key_concurrency": 1,
        "on_conflict": "wait",
        "busy_for": None,
        "accepts": "any",
        "session_affinity": False,
        "indexed": (),
        "dialect": "",
        "schema_source": None,
        "model": "",
    },
    task_type.TypePaused: {"reason": ""},
    task_type.TypeResumed: {"reason": ""},
    pool.PoolPaused: {"reason": ""},
    pool.PoolResumed: {"reason": ""},
    owner.OwnerLimited: {"concurrency": None, "per_second": None, "burst": None, "waiting": None},
    webhook.WebhookRegistered: {"facade": ""},
    webhook.WebhookSettings: {"types": (), "task_id": "", "description": ""},
    schedule.ScheduleSettings: {"time_zone": "UTC", "missed": "skip", "catch_up": 1, "name": "", "description": ""},
    schedule.Counts: {"fired": 0, "skipped": 0, "failed": 0, "triggered": 0},
    schedule.ScheduleCreated: {"fingerprint": ""},
    schedule.ScheduleFailed: {"path": ""},
    operation.OperationCounts: {"done": 0, "unchanged": 0, "refused": ()},
    operation.OperationStarted: {
        "is_admin": False,
        "dead_letters": False,
        "filter": NULL,
        "ids": (),
        "reason": "",
        "dry_run": False,
        "total": 0,
        "total_capped": False,
        "fingerprint": "",
    },
    operation.OperationAdvanced: {"ids": (), "cursor": "", "is_last": False},
    operation.OperationPaused: {"reason": ""},
    operation.OperationStopped: {"reason": ""},
    batch_job.LineError: {"line": 0, "param": ""},
    batch_job.LineCounts: {"completed": 0, "failed": 0},
    batch_job.TokenUsage: {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0},
    batch_job.BatchJobCreated: {"metadata": {}, "output_seconds": 0, "types": (), "fingerprint": ""},
    batch_job.BatchJobFinished: {"output_file": "", "error_file": "", "usage": None, "errors": ()},
}


@pytest.mark.parametrize("struct", DEFAULTS, ids=lambda struct: struct.__name__)
def test_an_absent_field_means_what_it_meant_when_it_was_introduced(struct: type[Struct]) -> None:
    found = {
        field.name: field.default if field.default is not NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(struct)
        if field.default is not NODEFAULT or field.default_factory is not NODEFAULT
    }

    assert {name: found[name] for name in DEFAULTS[struct]} == DEFAULTS[struct]


def test_the_bytes_of_json_null_are_no_other() -> None:
    assert bytes(NULL) == b"null"
