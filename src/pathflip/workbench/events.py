"""What the server tells every open page as it happens: changed regions, progress, places that cannot be read."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["Events"]

MOST_WAITING = 1000
"""Messages a page may be behind before it is told to load everything again."""
HEARTBEAT_S = 15.0
"""A line is sent this often, so that a page that has gone is noticed."""


class Events:
    """Messages to all listeners, as server-sent events. :meth:`publish` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self._closed = False

    def publish(self, kind: str, **content: Any) -> None:
        """Send a message to every open page."""
        text = f"event: {kind}\ndata: {json.dumps(content, ensure_ascii=True, allow_nan=False)}\n\n"
        self._send(text)

    def close(self) -> None:
        """End every stream: the server stops."""
        self._closed = True
        self._send(None)

    def _send(self, text: str | None) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            try:
                loop.call_soon_threadsafe(_put, queue, text)
            except RuntimeError:  # that loop has ended
                with self._lock:
                    self._listeners.pop(queue, None)

    async def stream(self) -> AsyncIterator[str]:
        """One page's messages, until it goes or the server stops."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(MOST_WAITING)
        with self._lock:
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            yield "event: hello\ndata: {}\n\n"
            while not self._closed:
                try:
                    text = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listeners.pop(queue, None)


def _put(queue: asyncio.Queue[str | None], text: str | None) -> None:
    if not queue.full():
        queue.put_nowait(text)
        return
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(text if text is None else "event: reload\ndata: {}\n\n")
