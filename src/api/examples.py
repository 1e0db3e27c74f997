"""Examples for the API description: real bodies, as clients send them."""

from __future__ import annotations

from litestar.openapi.spec import Example

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
REGISTER_EXAMPLE = {
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
TYPE_EXAMPLE = {
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
