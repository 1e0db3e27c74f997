"""Examples for the API description: bodies as clients send them, and fields of answers."""

from __future__ import annotations

from typing import Any

from litestar.openapi.spec import Example

TASK_ID_EXAMPLE = "01KDW1Z6P00000000000000000~alice"
BATCH_ID_EXAMPLE = "01KDW1Z6P0ABCDEFGHJKMNPQ00~alice"

SUBMISSION_EXAMPLES = {
    "full": Example(
        summary="Full form: a payload and options",
        value={"type": "resize", "payload": {"url": "https://example.org/a.png", "width": 640}, "priority": "high"},
    ),
    "short": Example(
        summary="Short form: the whole body is the payload",
        value={"mimeType": "video/mp4", "model": "m1", "video_quality": "high", "video_url": "https://example.org/v"},
    ),
}
BATCH_EXAMPLES = {
    "two": Example(
        summary="Two tasks; the second waits for the first",
        value=[
            {"type": "resize", "payload": {"url": "https://example.org/a.png", "width": 640}},
            {"type": "publish", "payload": {"page": "a"}, "dependsOn": [0]},
        ],
    ),
    "short": Example(summary="Payloads only", value=[{"prompt": "a cat"}, {"prompt": "a dog"}]),
}

BODY_EXAMPLES: dict[str, dict[str, Example]] = {
    "NewBatch": {
        "chats": Example(
            summary="Chat completions within a day",
            value={
                "input_file_id": f"file-{TASK_ID_EXAMPLE}",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"run": "7"},
            },
        ),
    },
    "FileLinkBody": {"hour": Example(summary="Valid for an hour", value={"expiresIn": 3600})},
    "UpdateBody": {
        "progress": Example(
            summary="Progress",
            value={
                "metadata": {"server_id": "gpu-1", "status": "PROCESSING", "progress": 40, "message": "frame 4 of 10"}
            },
        ),
        "finished": Example(
            summary="Final result",
            value={
                "backend_task_id": "b-17",
                "data": {"url": "https://example.org/out.mp4"},
                "metadata": {"server_id": "gpu-1", "status": "FINISHED", "progress": 100, "processing_time": 5210},
            },
        ),
    },
    "BulkBody": {
        "ids": Example(summary="By ids", value={"ids": [TASK_ID_EXAMPLE], "reason": "not needed any more"}),
        "filter": Example(
            summary="Count the tasks that match a filter",
            value={"filter": {"status": ["FAILED"], "createdAfter": "2026-01-01T00:00:00Z"}, "dryRun": True},
        ),
    },
    "DeadLettersBody": {
        "kind": Example(summary="Only timeouts", value={"filter": {"kind": ["timeout"]}}),
        "all": Example(summary="All", value={"filter": {}}),
    },
    "OwnerLimitsBody": {
        "five": Example(summary="Five running tasks; other limits from the service", value={"concurrency": 5}),
        "rate": Example(summary="Two starts per second, bursts of ten", value={"perSecond": 2, "burst": 10}),
        "stored": Example(summary="Fifty gigabytes of events and results", value={"stored": 50_000_000_000}),
        "free": Example(summary="No limits", value={"concurrency": 0, "perSecond": 0, "waiting": 0, "stored": 0}),
    },
    "ScheduleBody": {
        "nightly": Example(
            summary="Every night at 02:30 in Berlin",
            value={
                "name": "nightly report",
                "cron": "30 2 * * *",
                "timeZone": "Europe/Berlin",
                "task": {"type": "report", "payload": {"of": "yesterday"}},
                "missed": "catch_up",
            },
        )
    },
    "PreviewBody": {
        "nightly": Example(
            summary="Every night, in a zone whose clocks change",
            value={"cron": "30 2 * * *", "timeZone": "Europe/Berlin"},
        )
    },
    "ScheduleChange": {"earlier": Example(summary="An hour earlier", value={"cron": "30 1 * * *"})},
    "WebhookBody": {
        "ends": Example(
            summary="The end of each of my tasks",
            value={"url": "https://example.org/hooks/tasks", "events": ["ended"], "description": "billing"},
        )
    },
    "KeyBody": {
        "narrow": Example(
            summary="A key for one program: it submits and reads my tasks of one type, for a year",
            value={
                "name": "thumbnails in the shop",
                "roles": ["user"],
                "types": ["resize"],
                "expiresAt": "2027-11-30T00:00:00Z",
                "rate": 20,
            },
        )
    },
    "OperationBody": {
        "timeouts": Example(
            summary="Retry what failed in the last hour for want of an answer",
            value={"action": "retry", "filter": {"kind": ["timeout"], "endedSince": "1h"}, "reason": "gpu-7 is back"},
        ),
        "discard": Example(
            summary="How many dead letters would be discarded?",
            value={"action": "discard", "filter": {"before": "30d"}, "dryRun": True},
        ),
    },
    "ResendBody": {
        "failed": Example(summary="How many failed in the last day?", value={"since": "1d", "dryRun": True}),
    },
    "WebhookChange": {"enable": Example(summary="Enable it again", value={"active": True})},
    "ServerPatch": {
        "limit": Example(summary="More tasks at once", value={"maxConcurrent": 8}),
        "health": Example(
            summary="A check with the API key that expects a loaded model",
            value={"healthAuth": True, "healthExpect": {"json": {"$.model.loaded": True}}},
        ),
        "keep": Example(summary="Never remove it", value={"removeAfter": None}),
    },
    "RestoreBody": {
        "as_it_was": Example(summary="As it was", value={}),
        "key": Example(summary="With its API key, which was destroyed", value={"apiKey": "sk-0123456789"}),
    },
    "TryBody": {
        "inference": Example(
            summary="A model of KServe",
            value={
                "payload": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good morning"]}]},
                "timeout": 20,
            },
        )
    },
    "CheckBody": {
        "auto": Example(
            summary="Find out whether it answers, and what it speaks",
            value={
                "server": {
                    "id": "kserve-1",
                    "name": "KServe",
                    "provider": "kserve",
                    "dialect": "auto",
                    "endpoints": {"predict": "https://kserve.example.com/v2/models/shouter/infer"},
                },
            },
        ),
    },
    "TryUnregisteredBody": {
        "auto": Example(
            summary="Find out what it speaks, and call it",
            value={
                "server": {
                    "id": "kserve-1",
                    "name": "KServe",
                    "provider": "kserve",
                    "dialect": "auto",
                    "endpoints": {"predict": "https://kserve.example.com/v2/models/shouter/infer"},
                },
                "payload": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good morning"]}]},
            },
        )
    },
    "RegisterBody": {
        "pull": Example(
            summary="A server without an address: its pullers ask for tasks",
            value={"id": "site-b", "name": "Site B", "provider": "example", "mode": "pull", "types": ["resize"]},
        ),
        "async": Example(
            summary="A server that reports by callback",
            value={
                "id": "gpu-1",
                "name": "GPU 1",
                "provider": "example",
                "endpoints": {
                    "predict": "https://gpu1.example.org/predict",
                    "health": "https://gpu1.example.org/health",
                },
                "async": True,
                "callback": True,
                "types": ["resize"],
                "maxConcurrent": 4,
                "labels": {"gpu": "a100"},
            },
        ),
        "overflow": Example(
            summary="An overflow server: takes work when 100 tasks wait, or one for a minute",
            value={
                "id": "cloud-1",
                "name": "Cloud 1",
                "provider": "example",
                "endpoints": {"predict": "https://cloud1.example.org/predict"},
                "types": ["resize"],
                "overflow": {"waiting": 100, "oldest": 60},
            },
        ),
    },
    "TakeBody": {
        "one": Example(summary="One task, within half a minute", value={"server": "site-b", "max": 1, "wait": 30}),
        "some": Example(
            summary="Up to four tasks of one type",
            value={"server": "site-b", "types": ["resize"], "max": 4},
        ),
    },
    "PulledProgress": {"some": Example(summary="Progress", value={"progress": 40, "message": "frame 4 of 10"})},
    "PulledResult": {
        "result": Example(summary="A result", value={"result": {"url": "https://example.org/out.mp4"}}),
    },
    "PulledFailure": {
        "final": Example(summary="The task cannot be done", value={"error": "no such model"}),
        "again": Example(summary="Try it again", value={"error": "out of memory", "retry": True, "retryAfter": 10}),
    },
    "CancelledBody": {
        "one": Example(summary="One attempt", value={"server": "site-b", "attempts": ["gAAAAAB2"], "wait": 30}),
    },
    "HeartbeatBody": {
        "load": Example(summary="With its load", value={"status": "busy", "activeTasks": 3, "metrics": {"gpu": 0.8}})
    },
    "CleanupBody": {"hour": Example(summary="Offline for an hour", value={"maxAgeMins": 60})},
    "MaintenanceBody": {
        "begin": Example(summary="Begin", value={"maintenance": True, "reason": "new driver"}),
        "end": Example(summary="End", value={"maintenance": False}),
    },
    "ReasonBody": {"reason": Example(summary="With a reason", value={"reason": "submitted by mistake"})},
    "TypeBody": {
        "from": Example(
            summary="The schema of a registered server's model", value={"schemaFrom": {"server": "kserve-1"}}
        ),
        "resize": Example(
            summary="A type with a schema for its payload",
            value={
                "schema": {
                    "type": "object",
                    "required": ["url", "width"],
                    "properties": {"url": {"type": "string"}, "width": {"type": "integer", "minimum": 1}},
                },
                "attempts": 5,
                "timeout": 120,
                "indexed": ["$.customer"],
            },
        ),
        "limited": Example(
            summary="A type with limits, and one running task for each concurrency key",
            value={"concurrency": 20, "perSecond": 5, "burst": 10, "keyConcurrency": 1, "onConflict": "replace"},
        ),
    },
    "OutlineBody": {
        "short": Example(summary="An outline of ten chapters", value={"targetChapters": 10, "targetWordCount": 20})
    },
    "ChaptersBody": {"three": Example(summary="Three chapters", value={"chaptersToGenerate": 3})},
}
"""Examples of bodies, by the name of their shape."""

INSTANT_EXAMPLES = {"integer": 1767225600000, "string": "2026-01-01T00:00:00.000Z"}
"""Example of every field that is an instant, by its type."""
FIELD_EXAMPLES: dict[str, Any] = {
    "attempts": 3,
    "backoffBase": 1.0,
    "backoffCap": 30.0,
    "batchId": BATCH_ID_EXAMPLE,
    "body": "down for maintenance",
    "callbackUrl": f"https://tasks.example.org/api/task/{TASK_ID_EXAMPLE}",
    "concurrency": 20,
    "counts": {"WAITING": 1, "PROCESSING": 0, "FINISHED": 1, "FAILED": 0, "CANCELLED": 0},
    "cron": "30 2 * * *",
    "dependsOn": [],
    "endpoints": {"predict": "https://gpu1.example.org/predict", "health": "https://gpu1.example.org/health"},
    "error": "the server answered 500",
    "events": ["task.succeeded", "task.failed"],
    "id": TASK_ID_EXAMPLE,
    "inHand": {"high": 0, "normal": 3, "low": 0},
    "labels": {"gpu": "a100"},
    "lastTriggeredTaskId": TASK_ID_EXAMPLE,
    "latencyMs": 12.5,
    "maxConcurrent": 4,
    "message": "frame 4 of 10",
    "messageId": "msg_01KDW1Z6P0C6N4T0Z5V3Q9H8RB",
    "metrics": {"gpu": 0.8},
    "name": "resize",
    "owner": "alice",
    "params": {"chaptersToGenerate": 3},
    "path": "$.payload.width",
    "perSecond": 5.0,
    "pool": "resize",
    "progress": 40,
    "projectId": "novel",
    "provider": "example",
    "removedServers": ["gpu-7"],
    "request": {"url": "https://example.org/a.png", "width": 640},
    "result": {"url": "https://example.org/out.png"},
    "schema": {"type": "object", "required": ["url", "width"]},
    "secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "serverId": "gpu-1",
    "taskId": TASK_ID_EXAMPLE,
    "taskIds": [BATCH_ID_EXAMPLE, "01KDW1Z6P0ABCDEFGHJKMNPQ01~alice"],
    "timeZone": "Europe/Berlin",
    "timeout": 120.0,
    "token": "c2VhbGVk",
    "type": "resize",
    "types": ["resize"],
    "url": "https://example.org/hooks/tasks",
    "userId": "alice",
    "waiting": {"high": 0, "normal": 12, "low": 340},
}
"""Examples of fields in answers, by their name on the wire. `Shape.field` overrides `field`."""
FIELD_EXAMPLES |= {
    f"{shape}.id": "gpu-1"
    for shape in (
        "DrainAnswer",
        "HeartbeatAnswer",
        "MaintenanceAnswer",
        "PoolServer",
        "RegisterAnswer",
        "RegisterBody",
        "ServerSummary",
    )
} | {
    "DeliverySummary.type": "task.succeeded",
    "TryBody.timeout": 20.0,
    "TryUnregisteredBody.timeout": 20.0,
    "BatchSummary.id": BATCH_ID_EXAMPLE,
    "ListedBatch.id": BATCH_ID_EXAMPLE,
    "Problem.type": "about:blank",
    "Problem.error": '$.payload: "width" is a required property (rule `required`)',
}
