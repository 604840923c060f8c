"""Which CKKS key a round may be under: each serves a bounded number of rounds, and none comes back."""

from __future__ import annotations

from dataclasses import dataclass

from client.storage import RunStorage
from common.errors import EpochExpired
from common.messages import UPLOAD_KINDS, Kind, Request
from common.plan import Plan

_OF_A_ROUND: frozenset[Kind] = frozenset(("keys", *UPLOAD_KINDS))


@dataclass(frozen=True, slots=True)
class EpochBook:
    """What this hospital knows of the keys of a run; it is on the disk, so that a restart forgets none of it.

    Args:
        plan: The plan.
        storage: Of the run.
    """

    plan: Plan
    storage: RunStorage

    def check(self, request: Request) -> None:
        """Refuse a request under a key whose time is over.

        Raises:
            EpochExpired: If the plan asks for a newer key by that round, a newer one was used already, or this one has
                served all its rounds.
            SiteStorageError: If the disk refuses or its content is damaged.
        """
        number = min(request.round, self.plan.last_round)
        check_epoch(request.epoch, number, plan=self.plan)
        known = self.storage.load_epoch()
        if known is None:
            return
        newest, first_round = known
        if request.epoch < newest:
            raise EpochExpired(
                f"{request.kind} {request.round} under key epoch {request.epoch} after epoch {newest}; none comes "
                "back; refuse it"
            )
        if request.epoch == newest and number >= first_round + self.plan.encryption.epoch_rounds:
            raise _served(request.epoch, number, newest + 1)

    def note(self, request: Request) -> None:
        """Remember the key of a round that this hospital takes part in, before anything is made under it.

        Raises:
            SiteStorageError: If the disk refuses.
        """
        known = self.storage.load_epoch()
        if request.kind not in _OF_A_ROUND:
            return
        # A later round may be named first; a key's rounds count from the earliest that it was used for.
        if known is None or request.epoch > known[0] or (request.epoch == known[0] and request.round < known[1]):
            self.storage.save_epoch(request.epoch, request.round)

    def epoch_of_next(self, round_number: int) -> int:
        """The epoch that the next round will be under, unless keys are renewed on demand."""
        least = self.plan.least_epoch(round_number)
        known = self.storage.load_epoch()
        if known is None:
            return least
        newest, first_round = known
        return max(least, newest + (round_number - first_round) // self.plan.encryption.epoch_rounds)


def check_epoch(epoch: int, round_number: int, *, plan: Plan) -> None:
    """Refuse a round under a key that is older than the plan allows.

    Raises:
        EpochExpired: If it is.
    """
    least = plan.least_epoch(round_number)
    if epoch < least:
        raise _served(epoch, round_number, least)


def _served(epoch: int, round_number: int, least: int) -> EpochExpired:
    return EpochExpired(
        f"round {round_number} under key epoch {epoch}, which has served its rounds; at least epoch {least} is "
        "allowed; refuse it"
    )
