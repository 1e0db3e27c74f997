"""A KServe model server with the model `shouter`: v1 (`instances`) and v2 (`infer`)."""

from __future__ import annotations

import os
from typing import Any

import kserve
from kserve.errors import InvalidInput
from work import loud_words_async, set_up


class Shouter(kserve.Model):
    def load(self) -> bool:
        set_up()  # before the server listens: KServe does not start without a ready model
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "BYTES", "shape": [1]} for name in ("text", "mode")]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": "shouted", "datatype": "BYTES", "shape": [1]}]

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        if isinstance(payload, dict):
            asks = [(each.get("text"), each.get("mode", "quick")) for each in payload["instances"]]
        else:
            values = {each.name: each.data[0] for each in payload.inputs}
            asks = [(values.get("text"), values.get("mode", "quick"))]
        if not all(isinstance(text, str) for text, _ in asks):
            raise InvalidInput("`text` must be text")
        said = [" ".join([word async for word in loud_words_async(text, mode)]) for text, mode in asks]
        if isinstance(payload, dict):
            return {"predictions": [{"shouted": each} for each in said]}
        output = kserve.InferOutput(name="shouted", shape=[1], datatype="BYTES", data=said)
        return kserve.InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    model = Shouter("shouter")
    model.load()
    kserve.ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, workers=1).start([model])
