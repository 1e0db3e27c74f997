"""What a program with Replicate's SDK for Python (2.0 beta) does. Each action prints JSON, a text a line."""

from __future__ import annotations

import json
import sys
from typing import Any

from replicate import Replicate


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def run(model: str, given: str) -> None:
    output = Replicate().run(model, input=json.loads(given))
    say({"file": output.read().decode("latin-1")} if hasattr(output, "read") else output)


def stream(model: str, given: str) -> None:
    for piece in Replicate().stream(model, input=json.loads(given)):
        say(str(piece))


def rest(model: str) -> None:
    client = Replicate()
    owner, name = model.split("/")
    made = client.models.predictions.create(model_owner=owner, model_name=name, input={"answer": 1})
    say(client.predictions.wait(made.id).status)
    say(len(list(client.predictions.list())))
    say(client.account.get().username)
    say([each.name for each in client.models.list()])
    say(client.predictions.cancel(prediction_id=made.id).status)
    say(client.webhooks.default.secret.get().key.startswith("whsec_"))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
