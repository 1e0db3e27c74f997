"""Examples for the API description: real bodies, as clients send and get them."""

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
        summary="Two tasks, of which the second waits for the first",
        value=[
            {"type": "resize", "payload": {"url": "https://example.org/a.png", "width": 640}},
            {"type": "publish", "payload": {"page": "a"}, "dependsOn": [0]},
        ],
    ),
    "short": Example(summary="Payloads alone", value=[{"prompt": "a cat"}, {"prompt": "a dog"}]),
}
BULK_EXAMPLES = {
    "ids": Example(summary="By ids", value={"ids": [TASK_ID_EXAMPLE], "reason": "not needed any more"}),
    "filter": Example(
        summary="What a filter would come to",
        value={"filter": {"status": ["FAILED"], "createdAfter": "2026-01-01T00:00:00Z"}, "dryRun": True},
    ),
}
DEAD_LETTERS_EXAMPLES = {
    "kind": Example(summary="Those that timed out", value={"filter": {"kind": ["timeout"]}}),
    "all": Example(summary="All", value={"filter": {}}),
}
UPDATE_EXAMPLES = {
    "progress": Example(
        summary="Progress",
        value={"metadata": {"server_id": "gpu-1", "status": "PROCESSING", "progress": 40, "message": "frame 4 of 10"}},
    ),
    "finished": Example(
        summary="The end",
        value={
            "backend_task_id": "b-17",
            "data": {"url": "https://example.org/out.mp4"},
            "metadata": {"server_id": "gpu-1", "status": "FINISHED", "progress": 100, "processing_time": 5210},
        },
    ),
}
CHAPTERS_EXAMPLES = {"three": Example(summary="Three chapters", value={"chaptersToGenerate": 3})}
OUTLINE_EXAMPLES = {
    "short": Example(summary="An outline of ten chapters", value={"targetChapters": 10, "targetWordCount": 20})
}
REGISTER_EXAMPLES = {
    "async": Example(
        summary="A server that reports by callback",
        value={
            "id": "gpu-1",
            "name": "GPU 1",
            "provider": "example",
            "endpoints": {"predict": "https://gpu1.example.org/predict", "health": "https://gpu1.example.org/health"},
            "async": True,
            "callback": True,
            "types": ["resize"],
            "maxConcurrent": 4,
            "labels": {"gpu": "a100"},
        },
    ),
    "overflow": Example(
        summary="A server that helps out when more than 100 tasks wait, or one for a minute",
        value={
            "id": "cloud-1",
            "name": "Cloud 1",
            "provider": "example",
            "endpoints": {"predict": "https://cloud1.example.org/predict"},
            "types": ["resize"],
            "overflow": {"waiting": 100, "oldest": 60},
        },
    ),
}
TYPE_EXAMPLES = {
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
        },
    ),
    "limited": Example(
        summary="A type of which few run at once, and one for each concurrency key",
        value={"concurrency": 20, "perSecond": 5, "burst": 10, "keyConcurrency": 1, "onConflict": "replace"},
    ),
}
OWNER_EXAMPLES = {
    "five": Example(summary="Five at once, the rest as for everybody", value={"concurrency": 5}),
    "rate": Example(summary="Two a second, at most ten at a time", value={"perSecond": 2, "burst": 10}),
    "free": Example(summary="As many as there is room for", value={"concurrency": 0, "perSecond": 0, "waiting": 0}),
}
REASON_EXAMPLES = {"reason": Example(summary="With a reason", value={"reason": "submitted by mistake"})}
HEARTBEAT_EXAMPLES = {
    "load": Example(summary="With its load", value={"status": "busy", "activeTasks": 3, "metrics": {"gpu": 0.8}})
}
MAINTENANCE_EXAMPLES = {
    "begin": Example(summary="Begin", value={"maintenance": True, "reason": "new driver"}),
    "end": Example(summary="End", value={"maintenance": False}),
}
DRAIN_EXAMPLES = {"reason": Example(summary="With a reason", value={"reason": "new driver"})}
PAUSE_EXAMPLES = {"reason": Example(summary="With a reason", value={"reason": "the model is being replaced"})}
CLEANUP_EXAMPLES = {"hour": Example(summary="Offline for an hour", value={"maxAgeMins": 60})}

WEBHOOK_EXAMPLES = {
    "ends": Example(
        summary="The ends of all my tasks",
        value={"url": "https://example.org/hooks/tasks", "events": ["ended"], "description": "billing"},
    )
}
SCHEDULE_EXAMPLES = {
    "nightly": Example(
        summary="Every night at half past two in Berlin",
        value={
            "name": "nightly report",
            "cron": "30 2 * * *",
            "timeZone": "Europe/Berlin",
            "task": {"type": "report", "payload": {"of": "yesterday"}},
            "missed": "catch_up",
        },
    )
}
SCHEDULE_CHANGE_EXAMPLES = {"earlier": Example(summary="An hour earlier", value={"cron": "30 1 * * *"})}
WEBHOOK_CHANGE_EXAMPLES = {"enable": Example(summary="Enable it again", value={"active": True})}

_SUMMARY = {
    "id": TASK_ID_EXAMPLE,
    "status": "FINISHED",
    "type": "resize",
    "priority": "high",
    "owner": "alice",
    "serverId": "gpu-1",
    "error": None,
    "progress": 100.0,
    "message": None,
    "attempt": 1,
    "attempts": 3,
    "createdAt": 1767225600000,
    "updatedAt": 1767225605215,
    "startedAt": 1767225600004,
    "endedAt": 1767225605215,
    "nextAttemptAt": None,
    "callbackUrl": f"https://tasks.example.org/api/task/{TASK_ID_EXAMPLE}",
    "held": False,
    "failureKind": None,
    "runAt": None,
    "expiresAt": None,
    "deadline": None,
    "concurrencyKey": None,
    "batchId": None,
    "scheduleId": None,
}
_SERVER = {
    "id": "gpu-1",
    "name": "GPU 1",
    "provider": "example",
    "endpoints": {"predict": "https://gpu1.example.org/predict", "health": "https://gpu1.example.org/health"},
    "async": True,
    "callback": True,
    "types": ["resize"],
    "maxConcurrent": 4,
    "weight": 1,
    "labels": {"gpu": "a100"},
    "overflow": None,
    "hasApiKey": False,
    "status": "online",
    "statusReason": "health check: 200",
    "statusSince": "2026-01-01T00:00:00.000Z",
    "maintenance": False,
    "maintenanceReason": None,
    "maintenanceSince": None,
    "circuit": "closed",
    "circuitOpenUntil": None,
    "registeredAt": "2026-01-01T00:00:00.000Z",
    "lastHeartbeat": "2026-01-01T00:00:20.000Z",
    "latencyMs": 12.5,
    "activeTasks": None,
    "metrics": None,
}
_TYPE = {
    "name": "resize",
    "defined": True,
    "schema": {"type": "object", "required": ["url", "width"]},
    "attempts": 5,
    "backoffBase": 1.0,
    "backoffCap": 30.0,
    "timeout": 120.0,
    "priority": "normal",
    "pool": "resize",
    "description": "",
    "concurrency": 20,
    "perSecond": 5.0,
    "burst": 10,
    "keyConcurrency": 1,
    "onConflict": "wait",
    "pause": None,
}
_PAUSE = {"since": "2026-01-01T00:00:00.000Z", "by": "root", "reason": "the model is being replaced"}
_POOL = {
    "name": "resize",
    "pause": _PAUSE,
    "types": ["resize"],
    "pausedTypes": [],
    "servers": [{"id": "gpu-1", "available": True, "running": 3, "room": 1, "overflow": False}],
    "serverCount": 1,
    "waiting": {"high": 0, "normal": 12, "low": 340},
    "inHand": {"high": 0, "normal": 3, "low": 0},
    "oldestWaiting": "2025-12-31T23:40:00.000Z",
}
_OWNER_LIMITS = {
    "owner": "alice",
    "concurrency": 5,
    "perSecond": None,
    "burst": None,
    "waiting": 100000,
    "own": {"concurrency": 5},
}
_QUEUED = {
    "id": TASK_ID_EXAMPLE,
    "type": "chapter",
    "projectId": "novel",
    "projectName": "novel",
    "userId": "alice",
    "params": {"chaptersToGenerate": 3},
    "status": "processing",
    "progress": 33,
    "message": "chapter 1 of 3",
    "createdAt": 1767225600000,
    "updatedAt": 1767225660000,
    "startedAt": 1767225600004,
}
_WEBHOOK_ID = "01KDW1Z6P00000000000000001~alice"
_WEBHOOK = {
    "id": _WEBHOOK_ID,
    "owner": "alice",
    "url": "https://example.org/hooks/tasks",
    "events": ["task.succeeded", "task.failed", "task.cancelled"],
    "types": [],
    "taskId": None,
    "description": "billing",
    "active": True,
    "disabledReason": None,
    "createdAt": 1767225600000,
    "updatedAt": 1767225600000,
}
_DELIVERY = {
    "id": "01KDW1Z6P0C6N4T0Z5V3Q9H8RB",
    "messageId": "msg_01KDW1Z6P0C6N4T0Z5V3Q9H8RB",
    "type": "task.succeeded",
    "taskId": TASK_ID_EXAMPLE,
    "sequence": 4713,
    "status": "waiting",
    "attempts": 1,
    "createdAt": 1767225605215,
    "nextAttemptAt": 1767225609120,
    "endedAt": None,
    "lastAttempt": {
        "at": 1767225605230,
        "status": 503,
        "error": "the receiver answered 503",
        "body": "down for maintenance",
        "elapsedMs": 12,
    },
}
_BATCH = {
    "id": BATCH_ID_EXAMPLE,
    "owner": "alice",
    "size": 2,
    "counts": {"WAITING": 1, "PROCESSING": 0, "FINISHED": 1, "FAILED": 0, "CANCELLED": 0},
    "held": 0,
    "progress": 50.0,
    "done": False,
    "createdAt": 1767225600000,
    "updatedAt": 1767225605215,
    "endedAt": None,
}
_BATCH_TASK_IDS = [BATCH_ID_EXAMPLE, "01KDW1Z6P0ABCDEFGHJKMNPQ01~alice"]
_RESULT = {
    "task_id": BATCH_ID_EXAMPLE,
    "backend_task_id": "b-17",
    "data": {"url": "https://example.org/out.png"},
    "metadata": {"server_id": "gpu-1", "status": "FINISHED", "progress": 100, "processing_time": 5210},
}
_BULK = {
    "dryRun": False,
    "matched": 3,
    "done": 1,
    "unchanged": 1,
    "refused": [{"reason": "the task has already ended: succeeded", "count": 1, "ids": [TASK_ID_EXAMPLE]}],
    "nextCursor": None,
}
_SCHEDULE_ID = "01KDW1Z6P00000000000000002~alice"
_SCHEDULE = {
    "id": _SCHEDULE_ID,
    "owner": "alice",
    "name": "nightly report",
    "description": "",
    "cron": "30 2 * * *",
    "timeZone": "Europe/Berlin",
    "missed": "catch_up",
    "catchUp": 1,
    "paused": False,
    "pauseReason": None,
    "nextAt": 1767317400000,
    "lastFired": {"at": 1767231000012, "runs": [{"dueAt": 1767231000000, "taskId": TASK_ID_EXAMPLE}]},
    "lastFailure": None,
    "lastTriggeredTaskId": None,
    "counts": {"fired": 1, "skipped": 0, "failed": 0, "triggered": 0},
    "createdAt": 1767225600000,
    "updatedAt": 1767231000012,
}
ANSWER_EXAMPLES: dict[str, Any] = {
    "BatchAnswer": {"batchId": BATCH_ID_EXAMPLE, "taskIds": _BATCH_TASK_IDS, "repeated": False},
    "BatchSummary": _BATCH,
    "BatchTaskPage": {
        "batchId": BATCH_ID_EXAMPLE,
        "tasks": [{**_SUMMARY, "id": BATCH_ID_EXAMPLE, "batchId": BATCH_ID_EXAMPLE, "index": 0, "result": _RESULT}],
        "nextCursor": None,
    },
    "BulkAnswer": _BULK,
    "DeadLetterPage": {
        "deadLetters": [{**_SUMMARY, "status": "FAILED", "error": "the server answered 500", "failureKind": "error"}],
        "nextCursor": None,
    },
    "TaskAnswer": {
        "taskId": TASK_ID_EXAMPLE,
        "taskDetails": {
            **_SUMMARY,
            "dependsOn": [],
            "onParentFailure": "fail",
            "prefer": {},
            "require": {},
            "request": {"url": "https://example.org/a.png", "width": 640},
            "result": {
                "task_id": TASK_ID_EXAMPLE,
                "backend_task_id": "b-17",
                "data": {"url": "https://example.org/out.png"},
                "metadata": {"server_id": "gpu-1", "status": "FINISHED", "progress": 100, "processing_time": 5210},
            },
        },
    },
    "TaskPage": {"tasks": [_SUMMARY], "nextCursor": None},
    "EventPage": {
        "taskId": TASK_ID_EXAMPLE,
        "events": [
            {
                "sequence": 4711,
                "id": "01KDW1Z6P0C6N4T0Z5V3Q9H8RB",
                "at": "2026-01-01T00:00:00.004Z",
                "by": {"kind": "worker", "id": "w-1"},
                "cause": "4710",
                "event": {
                    "type": "AttemptStarted",
                    "attempt": 1,
                    "server_id": "gpu-1",
                    "worker_id": "w-1",
                    "deadline": "2026-01-01T00:02:00.004Z",
                },
            }
        ],
        "nextAfter": None,
    },
    "WhyAnswer": {
        "taskId": TASK_ID_EXAMPLE,
        "status": "WAITING",
        "held": True,
        "since": 1767225600000,
        "summary": "It waits: 3 of its owner's tasks run or are about to, of at most 3, until one of those ends.",
        "holds": [
            {
                "kind": "owner-limit",
                "since": 1767225600000,
                "text": "3 of its owner's tasks run or are about to, of at most 3",
                "release": "one of those ends",
                "data": {
                    "counted": 3,
                    "concurrency": 3,
                    "perSecond": None,
                    "burst": None,
                    "opensAt": None,
                    "ahead": 0,
                },
            }
        ],
        "verdicts": [{"verdict": "able", "text": "has room", "count": 1}],
        "servers": [
            {"serverId": "gpu-1", "verdict": "able", "text": "runs 3 of at most 10 tasks", "until": None},
        ],
        "running": None,
        "ended": None,
        "attempt": 0,
        "attempts": 3,
        "lastError": None,
        "keeper": "answered",
    },
    "QueueSubmitted": {"success": True, "taskId": TASK_ID_EXAMPLE},
    "QueueTaskAnswer": {"success": True, "task": _QUEUED},
    "QueueTasksAnswer": {"success": True, "tasks": [_QUEUED]},
    "Done": {"success": True},
    "ServerSummary": _SERVER,
    "ServerPage": {"servers": [_SERVER], "nextCursor": None},
    "ServerDone": {"id": "gpu-1", "success": True},
    "HeartbeatAnswer": {"id": "gpu-1", "success": True, "lastHeartbeat": "2026-01-01T00:00:20.000Z"},
    "MaintenanceAnswer": {"id": "gpu-1", "success": True, "maintenance": True},
    "DrainAnswer": {
        "id": "gpu-1",
        "success": True,
        "since": "2026-01-01T00:00:00.000Z",
        "running": 2,
        "drained": False,
    },
    "CleanupAnswer": {"success": True, "removedServers": ["gpu-7"]},
    "TypeSummary": _TYPE,
    "TypePage": {"types": [_TYPE], "nextCursor": None},
    "PoolSummary": _POOL,
    "PoolPage": {"pools": [_POOL], "nextCursor": None},
    "PauseAnswer": {"name": "resize", "success": True, "pause": _PAUSE},
    "TypeDone": {"name": "resize", "success": True},
    "OwnerLimitsAnswer": _OWNER_LIMITS,
    "OwnerPage": {"owners": [_OWNER_LIMITS], "nextCursor": None},
    "WebhookSummary": _WEBHOOK,
    "WebhookSecret": {
        "webhook": _WEBHOOK,
        "secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "previousUntil": None,
    },
    "WebhookPage": {"webhooks": [_WEBHOOK], "nextCursor": None},
    "WebhookDone": {"id": _WEBHOOK_ID, "success": True},
    "ScheduleDetail": {
        **_SCHEDULE,
        "task": {"type": "report", "payload": {"of": "yesterday"}},
        "nextRuns": [1767317400000, 1767403800000, 1767490200000, 1767576600000, 1767663000000],
    },
    "SchedulePage": {"schedules": [_SCHEDULE], "nextCursor": None},
    "ScheduleRun": {"id": _SCHEDULE_ID, "taskId": TASK_ID_EXAMPLE, "success": True},
    "ScheduleDone": {"id": _SCHEDULE_ID, "success": True},
    "DeliverySummary": _DELIVERY,
    "DeliveryPage": {"deliveries": [_DELIVERY], "nextCursor": None},
    "Problem": {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": '$.payload: "width" is a required property (rule `required`)',
        "instance": "/api/task",
        "error": '$.payload: "width" is a required property (rule `required`)',
        "path": "$.payload",
    },
}
