"""One look for a reply, which nobody needs to wait for."""

from __future__ import annotations

import threading

from flwr.app import Message
from flwr.serverapp import Grid


class Pull:
    """One look for a reply.

    Once a hospital has begun to send, Flower's own call returns only when the last byte is there: hours later, if the
    hospital's line is slow or was cut. So it has a thread, which nobody needs to wait for.
    """

    def __init__(self, grid: Grid, identifier: str) -> None:
        self._grid, self._identifier = grid, identifier
        self._replies: list[Message] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def replies(self, *, wait_s: float) -> list[Message] | None:
        """The reply, or nothing if there is none yet; None if it has begun to arrive and is not all there."""
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return None
        if self._failure is not None:
            raise self._failure
        return self._replies

    def _look(self) -> None:
        try:
            self._replies = list(self._grid.pull_messages([self._identifier]))
        except Exception as error:  # noqa: BLE001 -- raised again where the reply is asked for
            self._failure = error
