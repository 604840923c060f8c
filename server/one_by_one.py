"""A stand-in for Flower's Grid that hands out replies one at a time, so that no two uploads need to be in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

# One reply is asked for per pause: asking for all would load all that are there.
POLL_S = 0.1


class OneByOneGrid:
    """The part of a Grid that a strategy needs; `send_and_receive` sends at once and returns a generator of replies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> Mapping[str, int]:
        """Node id per name, of the nodes that are connected; a node without a name is left out."""
        return {node.name: node.node_id for node in self._grid.get_nodes() if node.name}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages now; yield each reply as it arrives, until all are there or `timeout` seconds have passed.

        A message to a node that is gone yields nothing: Flower gives it no id.
        """
        batch = list(messages)
        identifiers = list(self._grid.push_messages(batch)) if batch else []
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._replies([identifier for identifier in identifiers if identifier], deadline)

    def _replies(self, pending: list[str], deadline: float | None) -> Iterator[Message]:
        while pending and (deadline is None or time.monotonic() < deadline):
            candidate = pending.pop(0)
            replies = list(self._grid.pull_messages([candidate]))
            yield from replies
            if not replies:
                pending.append(candidate)
                time.sleep(POLL_S)
