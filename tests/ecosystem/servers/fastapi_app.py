"""A plain FastAPI application, as people write them: one route that answers, one that streams."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from work import loud_words_async, set_up_async


class Ask(BaseModel):
    text: str
    mode: str = "quick"


class State:
    ready = False
    running = 0


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async def prepare() -> None:
        await set_up_async()
        State.ready = True

    preparing = asyncio.create_task(prepare())
    yield
    preparing.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    if not State.ready:
        raise HTTPException(503, "loading the weights")
    return {"status": "ok"}


@app.post("/shout")
async def shout(ask: Ask) -> dict[str, str]:
    if State.running:
        raise HTTPException(429, "one at a time", headers={"Retry-After": "1"})
    State.running += 1
    try:
        return {"shouted": " ".join([word async for word in loud_words_async(ask.text, ask.mode)])}
    finally:
        State.running -= 1


@app.post("/text")
async def text(ask: Ask) -> PlainTextResponse:
    return PlainTextResponse((await shout(ask))["shouted"])


@app.post("/stream")
async def stream(ask: Ask) -> StreamingResponse:
    if State.running:
        raise HTTPException(429, "one at a time", headers={"Retry-After": "1"})

    async def lines() -> AsyncIterator[str]:
        State.running += 1
        try:
            words = []
            async for word in loud_words_async(ask.text, ask.mode):
                words.append(word)
                progress = 100 * len(words) / len(ask.text.split())
                yield f"data: {json.dumps({'output': word + ' ', 'progress': progress})}\n\n"
            yield f"data: {json.dumps({'data': {'shouted': ' '.join(words)}})}\n\n"
        finally:
            State.running -= 1

    return StreamingResponse(lines(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]))
