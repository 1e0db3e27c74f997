"""Batches of OpenAI's API: files of requests, run as tasks within a window of time."""
