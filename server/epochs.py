"""Which CKKS key each round of a run is under, as the coordinator plans it."""

from __future__ import annotations

from common.messages import UPLOAD_KINDS
from common.plan import Plan
from server.key_store import KeyStore
from server.steps import Step


class Epochs:
    """The keys of a run.

    A key serves at most `encryption.epoch_rounds` rounds; the next one begins then, or earlier if it was asked for.

    Args:
        plan: The plan.
        run: The run.
        store: Remembers them.
    """

    def __init__(self, plan: Plan, run: str, store: KeyStore) -> None:
        self._plan, self._run, self._store = plan, run, store
        # Of several that begin with one round the last one serves: the others' dealers were away.
        self._served = list(dict([(plan.first_round, plan.agreed.epoch), *store.epochs(run)]).items())

    @property
    def newest(self) -> int:
        """The key in force."""
        return self._served[-1][1]

    def of(self, step: Step) -> int:
        """The key that a step is under: a round's own, of anything else the one in force."""
        if step.kind not in ("keys", *UPLOAD_KINDS, "unmask"):
            return self.newest
        return self.since(step.round)[0]

    def since(self, round_number: int) -> tuple[int, ...]:
        """Numbers of the keys from that round's on, in order."""
        begun = [index for index, (first, _) in enumerate(self._served) if first <= round_number]
        return tuple(epoch for _, epoch in self._served[begun[-1] if begun else 0 :])

    def due(self, round_number: int) -> int | None:
        """The least number of the key that must be dealt before a round that was not opened yet; None: none."""
        first, newest = self._served[-1]
        is_over = round_number - first >= self._plan.encryption.epoch_rounds
        if not is_over and not self._store.rotation_is_asked(self._run):
            return None
        return max(newest + 1, self._plan.least_epoch(round_number))

    def begin(self, round_number: int, epoch: int) -> None:
        """Note that hospitals hold a new key, which serves from that round on."""
        self._store.begin_epoch(self._run, epoch, first_round=round_number)
        self._served = list((dict(self._served) | {round_number: epoch}).items())
