"""What a program with Replicate's SDK for Python (1.0.7) does. Each action prints JSON, a text a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import replicate
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def shown(output: Any) -> Any:
    """Return an output as JSON; of a file, its bytes as text."""
    if isinstance(output, FileOutput):
        return {"file": output.read().decode("latin-1")}
    return [shown(each) for each in output] if isinstance(output, list) else output


def run(model: str, given: str, wait: str = "") -> None:
    more = {"wait": json.loads(wait)} if wait else {}
    try:
        say(shown(replicate.run(model, input=json.loads(given), **more)))
    except ModelError as error:
        say({"failed": error.prediction.error})


def iterate(model: str, given: str) -> None:
    version = replicate.models.get(model).latest_version
    for piece in replicate.run(f"{model}:{version.id}", input=json.loads(given)):
        say(piece)


def stream(model: str, given: str) -> None:
    for event in replicate.stream(model, input=json.loads(given)):
        say([event.event.value, str(event.data)])


def reload_until(prediction: Any, holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.1)
        prediction.reload()


def cancel(model: str, given: str) -> None:
    prediction = replicate.models.predictions.create(model, input=json.loads(given))
    reload_until(prediction, lambda: prediction.status == "processing")
    prediction.cancel()
    say(prediction.status)
    prediction.wait()
    say(prediction.status)


def progress(model: str, given: str) -> None:
    prediction = replicate.models.predictions.create(model, input=json.loads(given))
    reload_until(prediction, lambda: "%" in prediction.logs)
    say([prediction.status, prediction.progress and prediction.progress.percentage, prediction.logs])


def pages() -> None:
    page = replicate.predictions.list()
    say(len(page.results))
    while page.next:
        page = replicate.predictions.list(page.next)
        say(len(page.results))


def upload(model: str, path: str) -> None:
    with Path(path).open("rb") as file:
        say(shown(replicate.run(model, input={"mode": "read", "f": file})))
    with Path(path).open("rb") as file:
        say(shown(replicate.run(model, input={"mode": "read", "f": file}, file_encoding_strategy="base64")))
    made = replicate.files.create(path)
    say([made.name, made.size, replicate.files.get(made.id).id == made.id, len(replicate.files.list())])
    replicate.files.delete(made.id)
    say(len(replicate.files.list()))


def webhook(model: str, url: str) -> None:
    prediction = replicate.models.predictions.create(
        model, input={"answer": 1}, webhook=url, webhook_events_filter=["completed"]
    )
    say(prediction.id)


def validate(headers: str, body: str) -> None:
    secret = replicate.webhooks.default.secret()
    replicate.webhooks.validate(headers=json.loads(headers), body=body, secret=secret)
    say(True)


def catalog(model: str) -> None:
    found = replicate.models.get(model)
    say([f"{found.owner}/{found.name}", found.latest_version.id == found.versions.list().results[0].id])
    say([f"{each.owner}/{each.name}" for each in replicate.models.search(model.partition("/")[0])])
    say([each.sku for each in replicate.hardware.list()])
    say(replicate.Client().accounts.current().username)


def errors(model: str) -> None:
    client = replicate.Client(api_token="nonsense")
    for call in (
        client.predictions.list,
        lambda: replicate.predictions.get("00000000000000000000000000~alice"),
        lambda: replicate.predictions.create(version="0" * 64, input={}),
        lambda: replicate.models.predictions.create(model, input={"answer": 1, "mode": 7}),
    ):
        try:
            call()
            say(None)
        except ReplicateError as error:
            say([error.status, error.title])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
