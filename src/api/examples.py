"""Examples for the API description: real bodies, as clients send and get them."""

from __future__ import annotations

from typing import Any

from litestar.openapi.spec import Example

TASK_ID_EXAMPLE = "01KDW1Z6P00000000000000000~alice"

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
        },
    )
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
    )
}
REASON_EXAMPLES = {"reason": Example(summary="With a reason", value={"reason": "submitted by mistake"})}
HEARTBEAT_EXAMPLES = {
    "load": Example(summary="With its load", value={"status": "busy", "activeTasks": 3, "metrics": {"gpu": 0.8}})
}
MAINTENANCE_EXAMPLES = {
    "begin": Example(summary="Begin", value={"maintenance": True, "reason": "new driver"}),
    "end": Example(summary="End", value={"maintenance": False}),
}
CLEANUP_EXAMPLES = {"hour": Example(summary="Offline for an hour", value={"maxAgeMins": 60})}

WEBHOOK_EXAMPLES = {
    "ends": Example(
        summary="The ends of all my tasks",
        value={"url": "https://example.org/hooks/tasks", "events": ["ended"], "description": "billing"},
    )
}
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
    "labels": {},
    "hasApiKey": False,
    "status": "online",
    "statusReason": "health check: 200",
    "statusSince": "2026-01-01T00:00:00.000Z",
    "maintenance": False,
    "maintenanceReason": None,
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
ANSWER_EXAMPLES: dict[str, Any] = {
    "TaskAnswer": {
        "taskId": TASK_ID_EXAMPLE,
        "taskDetails": {
            **_SUMMARY,
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
    "QueueSubmitted": {"success": True, "taskId": TASK_ID_EXAMPLE},
    "QueueTaskAnswer": {"success": True, "task": _QUEUED},
    "QueueTasksAnswer": {"success": True, "tasks": [_QUEUED]},
    "Done": {"success": True},
    "ServerSummary": _SERVER,
    "ServerPage": {"servers": [_SERVER], "nextCursor": None},
    "ServerDone": {"id": "gpu-1", "success": True},
    "HeartbeatAnswer": {"id": "gpu-1", "success": True, "lastHeartbeat": "2026-01-01T00:00:20.000Z"},
    "MaintenanceAnswer": {"id": "gpu-1", "success": True, "maintenance": True},
    "CleanupAnswer": {"success": True, "removedServers": ["gpu-7"]},
    "TypeSummary": _TYPE,
    "TypePage": {"types": [_TYPE], "nextCursor": None},
    "TypeDone": {"name": "resize", "success": True},
    "WebhookSummary": _WEBHOOK,
    "WebhookSecret": {
        "webhook": _WEBHOOK,
        "secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "previousUntil": None,
    },
    "WebhookPage": {"webhooks": [_WEBHOOK], "nextCursor": None},
    "WebhookDone": {"id": _WEBHOOK_ID, "success": True},
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
