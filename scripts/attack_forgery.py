"""What a malicious coordinator works with: a run to lie in, and aggregates to take apart and forge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.encode import decode_sum_of_updates
from common.ckks import EncryptedSum, EncryptedVector, chunks_for, decode_sum, decode_upload, encode_sum
from common.errors import FedwardError
from common.messages import AggregateEntry, SignedManifest
from common.request_frames import decode_request
from scripts.attack_hospitals import Snapshot
from scripts.attack_stage import Attempt, Stage, light
from server.aggregate import Aggregate


@dataclass(frozen=True, slots=True)
class Forgery:
    """One message that must be refused.

    Args:
        hospital: Who gets it.
        frame: The message; the coordinator's signature on it is right.
        errors: Names of the errors with which it may be refused.
        rounds_later: After how many rounds the lie can be seen; 0: at once.
        touched: Other hospitals whose state the lie has changed.
    """

    hospital: str
    frame: bytes
    errors: frozenset[str]
    rounds_later: int = 0
    touched: tuple[str, ...] = ()


@dataclass(slots=True)
class World:
    """A run at its third round, with the hospitals' folders at the moments at which a coordinator can lie.

    Args:
        stage: The run.
        draw: Chooses what is forged.
        delivering: Round 2 is unmasked, of which one hospital dropped out; its sum has not been sent yet.
        uploaded: Round 3's uploads are in, nothing is revealed.
        revealed: Shares of round 3 were given.
        made: Round 3 as the coordinator has it.
        split: Manifests of round 3, played again with two openings.
    """

    stage: Stage
    draw: random.Random
    delivering: Snapshot
    uploaded: Snapshot
    revealed: Snapshot
    made: Attempt
    split: list[SignedManifest] = field(default_factory=list)

    @classmethod
    def play(cls, stage: Stage, folder: Path, *, seed: int) -> World:
        """Play two rounds honestly, and the third up to its unmasking."""
        stage.round(1)
        stage.round(2, names=stage.names[:-1])
        stage.open_round(3)
        delivering = Snapshot.of(stage.sites, folder / "delivering")
        made = stage.collect(3)
        uploaded = Snapshot.of(stage.sites, folder / "uploaded")
        stage.unmask(made)
        revealed = Snapshot.of(stage.sites, folder / "revealed")
        return cls(stage, random.Random(seed), delivering, uploaded, revealed, made)  # noqa: S311 -- no secrets

    @property
    def upload_names(self) -> tuple[str, ...]:
        """Who was in the sum that is to be delivered; the last hospital was not, and has it already."""
        return self.stage.names[:-1]

    def someone(self) -> str:
        """A hospital that waits for the sum of round 2."""
        return self.draw.choice(self.upload_names)

    def two(self, names: Sequence[str] = ()) -> tuple[str, str]:
        """Two different ones, in roster order."""
        names = names or self.upload_names
        first, second = sorted(self.draw.sample(range(len(names)), 2))
        return names[first], names[second]

    def deliver(self, aggregate: Aggregate, *errors: str, to: str = "") -> Forgery:
        """Send a forged sum of round 2 with the opening of round 3."""
        hospital = to or self.someone()
        frame = self.stage.open_with(self.stage.openings[3], 3, hospital, send=(aggregate,))
        return Forgery(hospital, frame, frozenset(errors))

    def sum_of(self, number: int) -> Parts:
        """A round's aggregate, taken apart."""
        return Parts.of(self.stage, self.stage.aggregates[number - 1])

    def survivors(self, *names: str) -> tuple[SignedManifest, ...]:
        """Manifests of round 3."""
        return self.made.survivors(*names)


@dataclass(slots=True)
class Parts:
    """An aggregate with its sum and uploads in hand."""

    stage: Stage
    entry: AggregateEntry
    total: EncryptedSum
    uploads: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, stage: Stage, aggregate: Aggregate) -> Parts:
        """Take one apart."""
        entry, chunks = aggregate.entry, chunks_for(stage.plan.upload_values, stage.parameters)
        total = decode_sum(aggregate.body[: entry.sum_bytes], chunks, len(entry.survivors), stage.parameters)
        size = entry.transcript.upload_bytes if entry.transcript else 0
        starts = range(entry.sum_bytes, len(aggregate.body), size) if size else ()
        return cls(stage, entry, total, [aggregate.body[start : start + size] for start in starts])

    def upload(self, index: int) -> EncryptedVector:
        """One of its uploads."""
        return decode_upload(self.uploads[index], len(self.total.words), self.stage.parameters)

    def with_seeds(self, seeds: Sequence[bytes]) -> None:
        """Other seeds of c1."""
        self.total = replace(self.total, seeds=tuple(seeds))

    def change(self, **changes: Any) -> None:  # noqa: ANN401 -- any field of an entry
        """Change the entry."""
        self.entry = self.entry.model_copy(update=changes)

    def change_transcript(self, **changes: Any) -> None:  # noqa: ANN401 -- any field of a transcript
        """Change what the sum is verified with."""
        if self.entry.transcript is not None:
            self.change(transcript=self.entry.transcript.model_copy(update=changes))

    def keep(self, *indices: int) -> None:
        """Leave only some survivors, in this order, with what belongs to each."""
        self.with_seeds([self.total.seeds[index] for index in indices])
        self.uploads = [self.uploads[index] for index in indices]
        transcript = self.entry.transcript
        self.change(survivors=tuple(self.entry.survivors[index] for index in indices))
        if transcript is not None:
            self.change_transcript(seeds=tuple(transcript.seeds[index] for index in indices))

    def together(self) -> Aggregate:
        """The aggregate of these parts."""
        body = encode_sum(self.total)
        entry = self.entry.model_copy(update={"sum_bytes": len(body)})
        return Aggregate.held(entry, b"".join([body, *self.uploads]) if entry.transcript else body)


def bare(aggregate: Aggregate, witnesses: Sequence[SignedManifest]) -> Aggregate:
    """An aggregate without transcript, for which some manifests are to vouch."""
    one = light(aggregate)
    return Aggregate.held(one.entry.model_copy(update={"witnesses": tuple(witnesses)}), one.body)


Forge = Callable[[World], Forgery]


def naive_accepts(stage: Stage, forgery: Forgery) -> bool:
    """What a hospital without these defences does: it checks the coordinator's signature, the form, and decrypts."""
    site, plan = stage.sites[forgery.hospital], stage.plan
    try:
        signed = decode_request(forgery.frame, plan.agreed.coordinator)
        for entry, body in zip(signed.request.aggregates, signed.aggregate_bodies(), strict=True):
            if entry.survivors:
                total = decode_sum(
                    body[: entry.sum_bytes],
                    chunks_for(plan.upload_values, stage.parameters),
                    len(entry.survivors),
                    stage.parameters,
                )
                decode_sum_of_updates(
                    site.keys.epoch(1).ckks.decrypt(total, site.grid),
                    parameter_count=plan.agreed.trainable_parameters,
                    slot_count=plan.metric_slots,
                    grid=site.grid,
                )
    except FedwardError:
        return False
    return True
