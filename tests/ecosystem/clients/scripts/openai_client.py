"""What a program with OpenAI's SDK for Python does. Each action prints JSON, a text a line."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import openai

MESSAGES = [{"role": "user", "content": "tell"}]


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def chat(model: str) -> None:
    answer = openai.OpenAI().chat.completions.create(model=model, messages=MESSAGES, n=2)
    say([answer.choices[1].message.content, answer.usage.total_tokens, bool(answer._request_id)])


def stream(model: str, wish: str = "tell") -> None:
    messages = [{"role": "user", "content": wish}]
    try:
        with openai.OpenAI().chat.completions.create(model=model, messages=messages, stream=True) as parts:
            for part in parts:
                say(part.choices[0].delta.content)
    except openai.APIError as error:
        say({"error": error.message})


def others(model: str) -> None:
    client = openai.OpenAI()
    say(client.completions.create(model=model, prompt="tell").choices[0].text)
    say(client.embeddings.create(model=model, input="a", encoding_format="float").data[0].embedding)
    say([each.id for each in client.models.list()])
    say(client.models.retrieve(model).object)


def errors(model: str) -> None:
    client = openai.OpenAI()
    calls = [
        lambda: client.chat.completions.create(model="none", messages=MESSAGES),
        lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "refuse 400"}]),
        lambda: client.responses.retrieve("resp_00000000000000000000000000"),
        lambda: client.responses.create(model=model, input="a", previous_response_id="resp_1"),
        openai.OpenAI(api_key="wrong").models.list,
    ]
    for call in calls:
        try:
            call()
        except openai.APIStatusError as error:
            say([type(error).__name__, error.status_code, str(error.code), error.param])


def many(model: str, count: str) -> None:
    """Make calls at the same time; say one line for each that was answered."""

    async def run() -> None:
        async with openai.AsyncOpenAI(max_retries=0) as client:

            async def call() -> None:
                answer = await client.chat.completions.create(model=model, messages=MESSAGES)
                say(answer.choices[0].message.content)

            await asyncio.gather(*(call() for _ in range(int(count))))

    asyncio.run(run())


def background(model: str) -> None:
    client = openai.OpenAI()
    response = client.responses.create(model=model, input="tell", background=True, metadata={"a": "b"})
    say(response.status)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    say([response.status, response.output_text, response.usage.output_tokens, response.metadata])
    say([item.role for item in client.responses.input_items.list(response.id)])
    client.responses.delete(response.id)
    try:
        client.responses.retrieve(response.id)
    except openai.NotFoundError:
        say("gone")


def cancel(model: str) -> None:
    client = openai.OpenAI()
    response = client.responses.create(model=model, input="hold", background=True)
    say([client.responses.cancel(response.id).status for _ in range(2)])


def resume(model: str, wish: str) -> None:
    """Stream a background response, and resume it after each cut until its last event; say every event."""
    client = openai.OpenAI(max_retries=5)
    response_id, last, has_ended = "", -1, False
    events = client.responses.create(model=model, input=wish, background=True, stream=True)
    while not has_ended:
        try:
            for event in events:
                last = event.sequence_number
                if event.type == "response.created":
                    response_id = event.response.id
                has_ended = event.type in ("response.completed", "response.failed", "response.incomplete")
                say([last, event.type, event.delta if event.type.endswith("text.delta") else None])
        except openai.APIError:
            pass
        while not has_ended:
            try:
                events = client.responses.retrieve(response_id, stream=True, starting_after=last)
                break
            except openai.APIError:
                time.sleep(0.1)
    say({"text": client.responses.retrieve(response_id).output_text})


def requests_of(model: str, count: int, wish: str) -> bytes:
    """Return the input of a batch of chats."""
    body = {"model": model, "messages": [{"role": "user", "content": wish}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    return b"".join(json.dumps({"custom_id": f"line-{n}", **line}).encode() + b"\n" for n in range(count))


def batch(model: str, count: str, wish: str = "tell") -> None:
    """Run a batch to its end; with the wish `hold`, cancel it. Then delete its input."""
    client = openai.OpenAI(max_retries=5)
    content = requests_of(model, int(count), wish)
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    say([file.purpose, file.bytes == len(content), client.files.content(file.id).read() == content])
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    say([made.status, made.metadata])
    while (made := client.batches.retrieve(made.id)).status not in ("completed", "failed", "expired", "cancelled"):
        if wish == "hold" and made.status == "in_progress":
            client.batches.cancel(made.id)
        time.sleep(0.1)
    lines = client.files.content(made.output_file_id).text.splitlines() if made.output_file_id else []
    results = {line["custom_id"]: line["response"]["body"]["choices"] for line in map(json.loads, lines)}
    say([made.status, made.request_counts.completed, len(lines), len(results)])
    say([made.id in [each.id for each in client.batches.list()], file.id in [each.id for each in client.files.list()]])
    say(client.files.delete(file.id).deleted)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
