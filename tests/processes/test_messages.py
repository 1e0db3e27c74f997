"""Frames over socket pairs: whole, in order, with their descriptors."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from taskstream.processes.messages import (
    LINK_AND_LISTENER,
    Link,
    MetricsPage,
    frame,
    receive_blocking,
    send_with,
)


@given(st.lists(st.text(max_size=300), max_size=5), st.integers(1, 30))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(texts: list[str], parts: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        content = b"".join(frame(MetricsPage(number=1, text=text)) for text in texts)
        size = len(content) // parts + 1  # the socket takes some hundred parts at once
        for start in range(0, len(content), size):
            ours.sendall(content[start : start + size])
        ours.shutdown(socket.SHUT_WR)
        for text in texts:
            received = receive_blocking(theirs, LINK_AND_LISTENER)
            assert received == (frame(MetricsPage(number=1, text=text))[4:], [])
        assert receive_blocking(theirs, LINK_AND_LISTENER) is None


async def test_descriptors_come_with_their_frame_though_it_does_not_fit_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    found: list[tuple[bytes, list[int]] | None] = []
    reader = threading.Thread(target=lambda: found.append(receive_blocking(theirs, LINK_AND_LISTENER)))
    message = MetricsPage(number=1, text="x" * 5_000_000)
    with ours, theirs, Path(os.devnull).open() as first:
        reader.start()
        await send_with(ours, message, [first.fileno(), first.fileno()])
        reader.join()
        [received] = found
        assert received is not None
        assert received[0] == frame(message)[4:]
        assert len(received[1]) == LINK_AND_LISTENER
        for descriptor in received[1]:
            assert os.fstat(descriptor) == os.fstat(first.fileno())
            os.close(descriptor)


async def test_a_link_ends_with_its_other_end() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.sendall(frame(MetricsPage(number=1, text="cut"))[:7])
    theirs.close()
    assert await link.receive() is None
    link.send(MetricsPage(number=2, text=""))
    await link.sent()
    link.close()
