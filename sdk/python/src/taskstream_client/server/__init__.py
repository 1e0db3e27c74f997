"""A kit for servers that do the work of tasks: called over HTTP, or pulling their tasks.

    from taskstream_client.server import Server

    server = Server(capacity=2)

    @server.predict("shout")
    async def shout(job):
        for word in job.payload["text"].split():
            job.report(output=word.upper() + " ")
        return {"words": len(job.payload["text"].split())}

`server` is an ASGI application with `POST /predict` and `GET /health`: run it with uvicorn, or mount it in FastAPI or
Starlette. `server.aiohttp_app()` is one for aiohttp. `Puller(server, "site-b").run_forever()` fetches tasks instead.
"""

from __future__ import annotations

from .jobs import Busy, Failed, Job, JobCancelled, Reject
from .puller import Puller
from .serving import Server

__all__ = ["Busy", "Failed", "Job", "JobCancelled", "Puller", "Reject", "Server"]
