"""A fake of the service for unit tests: in memory, without processes, threads or pauses.

    from taskstream_client.testing import FakeTaskstream

    def test_shouting():
        fake = FakeTaskstream()

        @fake.predict("shout")
        def shout(job):
            job.report(50, output="half ")
            return job.payload["text"].upper()

        with fake.client() as client:
            assert client.run("shout", {"text": "a"}) == "A"

`fake.async_client()` returns an AsyncClient. The clients are the real ones; only what they send their requests to is
not. The same tests run against this fake and against the service, so that it behaves alike. It knows tasks, batches
and results; `fake.answer` sets the answers of other calls.
"""

from __future__ import annotations

from .service import FakeTaskstream
from .tasks import FakeJob

__all__ = ["FakeJob", "FakeTaskstream"]
