"""What a hospital that misses many rounds gets at once: a part of them that one request carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.messages import AggregateEntry
from common.page_sizes import CATCH_UP_BYTES
from server.bodies import Body
from server.steps import Rounds


class History(Protocol):
    """The completed rounds of a run, whose bodies are not read before they are sent; see `server.history`."""

    def entries(self, rounds: Rounds) -> tuple[AggregateEntry, ...]:
        """What a request says of each one, in order."""

    def body(self, rounds: Rounds) -> Body:
        """Their bodies, one after the other."""

    def sizes(self, rounds: Rounds) -> Sequence[tuple[int, int]]:
        """Bytes of each one's entry and body, in order."""


@dataclass(frozen=True, slots=True)
class PartLimits:
    """What one request carries at most; one aggregate fits always.

    Args:
        aggregates: So many a site applies well within a round's timeout.
        header_bytes: Of the entries; half of what a site takes as a header.
        body_bytes: Of the bodies.
    """

    aggregates: int = 256
    header_bytes: int = 4 << 20
    body_bytes: int = CATCH_UP_BYTES


def first_part(missing: Rounds, history: History, limits: PartLimits) -> Rounds:
    """The first of the missing rounds, as many as fit into one request."""
    if missing.first >= missing.last:
        return missing
    last = missing.first - 1
    entries = bodies = 0
    for number, (entry_bytes, body_bytes) in enumerate(_sizes(missing, history, limits), start=missing.first):
        entries, bodies = entries + entry_bytes, bodies + body_bytes
        full = number - missing.first >= limits.aggregates
        full = full or entries > limits.header_bytes or bodies > limits.body_bytes
        # Skipped rounds go with the sum before them: the manifests that vouch for it cover them too.
        if body_bytes and full and number > missing.first:
            break
        last = number
    return Rounds(missing.first, last)


def _sizes(missing: Rounds, history: History, limits: PartLimits) -> Iterator[tuple[int, int]]:
    """Sizes of the missing rounds, asked for as far as they are taken."""
    step = limits.aggregates + 1
    for first in range(missing.first, missing.last + 1, step):
        yield from history.sizes(Rounds(first, min(missing.last, first + step - 1)))
