"""An MLServer runtime."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import loud_words_async, set_up_async


class Shouter(MLModel):
    async def load(self) -> bool:
        await set_up_async()
        return True

    def asked(self, payload: InferenceRequest) -> tuple[str, str]:
        values = {each.name: StringCodec.decode_input(each)[0] for each in payload.inputs}
        if "text" not in values:
            raise InferenceError("the input `text` is missing")
        return values["text"], values.get("mode", "quick")

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        said = " ".join([word async for word in loud_words_async(*self.asked(payload))])
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[StringCodec.encode_output("shouted", [said])]
        )

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            async for word in loud_words_async(*self.asked(payload)):
                yield InferenceResponse(
                    id=payload.id, model_name=self.name, outputs=[StringCodec.encode_output("shouted", [word])]
                )
