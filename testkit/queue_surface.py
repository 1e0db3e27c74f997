"""What clients of the queue surface send: the headers that name the model to use."""

from __future__ import annotations

MODEL_KEY = 'sk-a-secret-of-alice-"0123456789\\abcdef'
MODEL = {
    "X-AI-Provider": "openai",
    "X-AI-Model": "gpt",
    "X-AI-Key": MODEL_KEY,
}
MODEL_AT = MODEL | {"X-AI-BaseUrl": "https://models.example.org/v1"}
