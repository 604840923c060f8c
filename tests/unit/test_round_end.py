"""The end of a round: one sum and what verifies it, or nothing at all, also if the coordinator is killed on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from flwr.serverapp import Grid
from numpy.typing import NDArray

from common.ckks import decode_sum, decode_upload
from common.errors import DeploymentError, LocalProtocolError
from common.messages import Manifest, decode_reply
from server.aggregate import Aggregate, skipped
from server.ask import expected_answer
from server.exchange import Collection
from server.history import StoredHistory
from server.mask_exchange import MaskExchange
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.progress import Progress, ProgressFile
from server.requests import RequestWriter
from server.round_end import RoundEnd
from server.steps import HELLO, Rounds, Step
from server.store import Store
from server.verification import Verification
from server.verify_exchange import VerifyExchange
from tests.support.in_process_grid import Answer, InProcessGrid, as_server_app, number
from tests.support.masked_sites import MaskedSites
from tests.support.replies import CHUNKS, NAMES, PARAMETERS, RUN
from tests.support.stored_sums import sent_aggregates, stored_sums
from tests.support.trivial_site import TrivialSite

STEP = Step("train", 1)
THREE, GONE = NAMES[:3], NAMES[3]


@dataclass
class Coordinator:
    """A coordinator's process on its folder; several of them are one after another, or copies."""

    folder: Path
    sites: MaskedSites
    grid: InProcessGrid
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        plan = self.sites.plan
        self.store = self.stack.enter_context(closing(Store(self.folder)))
        self.masks = self.stack.enter_context(closing(MaskStore(self.folder, RUN)))
        self.store.begin(RUN, plan_digest=plan.digest, plan_json="{}", now=1.0)
        self.writer = RequestWriter(plan, RUN, self.sites.coordinator.sign, self.history)
        self.exchange = MaskExchange(
            self.writer,
            OneByOneGrid(cast(Grid, self.grid)),
            store=self.store,
            masks=self.masks,
            progress=ProgressFile(self.folder, Progress(RUN, plan.name, plan.training.rounds)),
        )
        verify = VerifyExchange(
            self.writer,
            OneByOneGrid(cast(Grid, self.grid)),
            verification=Verification(plan, RUN, store=self.store, masks=self.masks),
            store=self.store,
            progress=ProgressFile(self.folder, Progress(RUN, plan.name, plan.training.rounds)),
            applied={},
        )
        self.end = RoundEnd(
            self.writer,
            store=self.store,
            masks=self.masks,
            exchange=self.exchange,
            verify=verify,
            ready=lambda _: self.nodes,
        )

    @property
    def history(self) -> StoredHistory:
        """What hospitals get."""
        return StoredHistory(self.store, self.masks, RUN)

    @property
    def nodes(self) -> dict[str, int]:
        """Of the connected hospitals."""
        return {name: number(name) for name in self.grid.sites}

    @property
    def aggregate(self) -> Aggregate:
        """How round 1 ended."""
        (aggregate,) = stored_sums(self.store, RUN, 1, 1)
        return aggregate

    def collect(self, *names: str, step: Step = STEP, attempt: int = 0) -> Collection:
        """Open a round with all that are connected, and take the uploads of some."""
        opening = self.exchange.opening(step.round, self.nodes)
        self.masks.open(step.round, opening, attempt=attempt)
        expected = expected_answer(self.sites.plan, RUN, step, attempt=attempt, epoch=1, opening=opening.digest)
        collection = Collection(expected, {}, uploads=self.masks.uploads(step.round, attempt))
        rounds = dict.fromkeys(names, Rounds(1, step.round - 1))
        for name, frame in self.writer.write(step, attempt=attempt, rounds=rounds, opening=opening):
            outcome = collection.take(name, self.grid.sites[name](frame), seconds=1.0)
            assert outcome.outcome == "contributed", outcome
        return collection

    def tell(self, name: str) -> Manifest:
        """Bring a hospital all that is over; what it says then."""
        rounds = {name: Rounds(1, self.store.last_complete_round(RUN))}
        ((_, frame),) = self.writer.write(HELLO, attempt=0, rounds=rounds)
        identities = {hospital.name: hospital.identity for hospital in self.sites.plan.roster}
        return decode_reply(self.grid.sites[name](frame), identities).manifest

    def killed(self) -> None:
        """Nothing of it is left but its files."""
        self.stack.close()

    def plain_sum(self, *names: str) -> NDArray[np.uint64]:
        """What these hospitals had before they masked it in round 1."""
        bodies = [(self.sites.folder / name / "upload-1.bin").read_bytes() for name in names]
        words = [decode_upload(body, CHUNKS, PARAMETERS).words for body in bodies]
        return np.asarray(np.stack(words).sum(axis=0) % PARAMETERS.modulus)


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    """Four connected hospitals without data, of which three are needed."""
    as_server_app(monkeypatch)
    sites, answers = MaskedSites(tmp_path / "sites", attempts=1, round_timeout_s=5.0), dict[str, Answer]()
    for name in NAMES:
        home = sites.folder / name
        sites.identities[name].save(home / "identity.key")
        (home / "box.key").write_bytes(sites.boxes[name])
        answers[name] = TrivialSite(name, home, sites.plan).answer
    made = Coordinator(tmp_path, sites, InProcessGrid(answers))
    with made.stack:
        yield made


def test_a_round_ends_with_the_survivors_sum_and_what_verifies_it(coordinator: Coordinator) -> None:
    """One hospital fell silent after the opening; all that are there take the sum up, with their own checks."""
    collection = coordinator.collect(*THREE)
    coordinator.end.unmask(STEP, collection.total, attempt=0, answered=frozenset(NAMES))
    body, entry = coordinator.aggregate.body, coordinator.aggregate.entry
    np.testing.assert_array_equal(decode_sum(body, CHUNKS, 3, PARAMETERS).words, coordinator.plain_sum(*THREE))
    assert [signed.manifest.hospital for signed in entry.survivors] == list(THREE)
    assert coordinator.masks.transcript(1) is not None
    # The shares came with adverts for the next round, which needs no exchange of its own for them.
    assert set(coordinator.masks.adverts(2)) == set(THREE)
    kinds = {exchange.kind: exchange.outcomes for exchange in coordinator.store.exchanges(RUN)}
    assert [(o.hospital, o.outcome) for o in kinds["unmask"]] == [
        *((name, "answered") for name in THREE),
        (GONE, "failed"),
    ]
    for name in NAMES:
        assert coordinator.tell(name).applied.round == 1


def test_a_coordinator_that_is_killed_while_it_asks_goes_on_to_the_same_sum(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """From what it kept: hospitals give shares for one set of survivors only, and give them again."""
    total = coordinator.collect(*THREE).total
    coordinator.masks.ask_for(1, total.survivors(NAMES))
    copies = [tmp_path / "before", tmp_path / "while"]
    for copy in copies:
        copy.mkdir()
    shutil.copy(coordinator.store.path, copies[0])
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    shutil.copy(coordinator.store.path, copies[1])
    known, transcript = coordinator.aggregate, coordinator.masks.transcript(1)
    coordinator.killed()
    # In the second copy the sum is lost and its transcript is not, as after a kill between the two.
    with closing(Store(copies[1])) as store:
        store._connection.execute("DELETE FROM exchanges WHERE kind = 'unmask'")
    for copy in copies:
        again = Coordinator(copy, coordinator.sites, coordinator.grid)
        with again.stack:
            assert again.store.last_complete_round(RUN) == 0
            again.end.resume(STEP)
            assert again.aggregate == known
            assert again.masks.transcript(1) == transcript
            assert set(again.masks.adverts(2)) == set(THREE)


def test_nothing_is_resumed_of_a_round_whose_shares_were_not_asked_for(coordinator: Coordinator) -> None:
    """Its uploads are asked for once more instead: the same request gets the same bytes."""
    coordinator.end.resume(STEP)
    coordinator.collect(*THREE)
    coordinator.end.resume(STEP)
    assert coordinator.store.last_complete_round(RUN) == 0
    assert coordinator.masks.transcript(1) is None


def test_a_round_that_was_never_opened_is_not_unmasked(coordinator: Coordinator) -> None:
    """No hospital would know what for."""
    total = coordinator.collect(*THREE).total
    with pytest.raises(LocalProtocolError, match="was never opened"):
        coordinator.end.unmask(Step("train", 2), total, attempt=0, answered=frozenset(NAMES))


def test_with_too_few_shares_the_round_is_skipped(coordinator: Coordinator) -> None:
    """It is over, without a sum; hospitals are told, and go on from the model that they had."""
    total = coordinator.collect(*THREE).total
    before = coordinator.tell("hospital-1")
    away = coordinator.grid.sites.pop("hospital-3")
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.aggregate == skipped(1, 0)
    assert coordinator.masks.transcript(1) is None
    (unmasking,) = [e for e in coordinator.store.exchanges(RUN) if e.kind == "unmask"]
    assert [o.outcome for o in unmasking.outcomes] == ["answered", "answered", "absent", "failed"]
    coordinator.grid.sites["hospital-3"] = away
    for name in NAMES:
        applied = coordinator.tell(name).applied
        assert applied == before.applied.followed_by("")
    # The next round has a sum again, and its adverts come from an exchange of their own: two of three gave theirs.
    nxt = Step("train", 2)
    total = coordinator.collect(*THREE, step=nxt).total
    coordinator.end.unmask(nxt, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.masks.transcript(2) is not None
    assert [coordinator.tell(name).applied.round for name in NAMES] == [2] * 4


def test_a_round_that_is_skipped_after_all_leaves_no_transcript(coordinator: Coordinator, tmp_path: Path) -> None:
    """Killed between transcript and sum, and too few are there afterwards: a transcript without a sum would be refused.

    The control is what the hospitals would be sent with it.
    """
    total = coordinator.collect(*THREE).total
    coordinator.masks.ask_for(1, total.survivors(NAMES))
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(coordinator.store.path, copy)
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    transcript = coordinator.masks.transcript(1)
    assert transcript is not None
    coordinator.killed()
    del coordinator.grid.sites["hospital-3"]
    again = Coordinator(copy, coordinator.sites, coordinator.grid)
    with again.stack:
        again.masks.save_transcript(1, 0, transcript)
        again.end.resume(STEP)
        assert again.aggregate == skipped(1, 0)
        assert again.masks.transcript(1) is None
        assert sent_aggregates(again.history, Rounds(1, 1)) == (skipped(1, 0),)
        again.masks.save_transcript(1, 0, transcript)
        assert sent_aggregates(again.history, Rounds(1, 1)) != (skipped(1, 0),)


def test_a_round_that_cannot_begin_to_unmask_leaves_no_transcript(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where the sum before has not been recomputed by enough when the coordinator is there again."""
    total = coordinator.collect(*THREE).total
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.masks.transcript(1) is not None
    monkeypatch.setattr(coordinator.end._verify, "complete", lambda *_: False)
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.aggregate == skipped(1, 0)
    assert coordinator.masks.transcript(1) is None


@pytest.mark.parametrize(("liar", "about"), [("hospital-2", "commitment"), (GONE, "mask_key"), ("hospital-2", "box")])
def test_a_dealer_of_bad_shares_costs_one_round_and_is_left_out_of_the_next(
    coordinator: Coordinator, liar: str, about: str
) -> None:
    """Its shares were all as it had signed them, so nobody could know before its boxes were opened."""
    coordinator.sites.deal_badly(liar, 1, about=about)
    total = coordinator.collect(*THREE).total
    coordinator.end.unmask(STEP, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.aggregate == skipped(1, 0)
    for name in NAMES:
        coordinator.tell(name)
    honest = tuple(name for name in NAMES if name != liar)
    nxt = Step("train", 2)
    total = coordinator.collect(*honest, step=nxt).total
    opened = coordinator.masks.opened(2)
    assert opened is not None
    assert opened.opening.hospitals == honest
    coordinator.end.unmask(nxt, total, attempt=0, answered=frozenset(NAMES))
    assert coordinator.masks.transcript(2) is not None


def test_a_round_with_too_few_adverts_is_not_opened(coordinator: Coordinator) -> None:
    """By name and reason; one that observes says why."""
    (coordinator.sites.folder / "hospital-1" / "observe").touch()
    del coordinator.grid.sites["hospital-2"]
    with pytest.raises(DeploymentError, match=r"2 of 4 hospitals take part, 3 are needed; hospital-1 failed"):
        coordinator.exchange.opening(1, coordinator.nodes)
    assert coordinator.masks.opened(1) is None
