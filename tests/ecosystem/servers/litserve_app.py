"""A LitServe server with two endpoints: `/predict` answers, `/stream` streams."""

import os
from collections.abc import Iterator

import litserve
from work import loud_words, set_up


class Shout(litserve.LitAPI):
    def setup(self, device: str) -> None:
        set_up()

    def decode_request(self, request):  # an annotation would become the route's schema
        if not isinstance(request.get("text"), str):
            raise litserve.server.HTTPException(422, "`text` must be text")
        return request["text"], request.get("mode", "quick")

    def predict(self, asked: tuple[str, str]) -> str:
        return " ".join(loud_words(*asked))

    def encode_response(self, output):
        return {"shouted": output}


class Stream(Shout):
    def setup(self, device: str) -> None:
        pass

    def predict(self, asked: tuple[str, str]) -> Iterator[str]:
        yield from loud_words(*asked)

    def encode_response(self, output):  # nor may the route's answer have one
        for word in output:
            yield {"output": word + " "}


if __name__ == "__main__":
    apis = [Shout(api_path="/predict"), Stream(api_path="/stream", stream=True)]
    server = litserve.LitServer(
        apis, accelerator="cpu", workers_per_device=1, timeout=float(os.environ.get("LIMIT_SECONDS", "60"))
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, num_api_servers=1)
