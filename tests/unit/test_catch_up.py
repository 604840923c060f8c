"""A hospital that missed many rounds comes back part by part, while the others go on. No network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from common.config import load_settings
from common.errors import DeploymentError, TranscriptError
from common.identity import Identity
from common.plan import Plan
from common.request_frames import decode_request
from server.history import StoredHistory
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.parts import PartLimits
from server.progress import Progress, ProgressFile
from server.requests import RequestWriter
from server.steps import steps_after
from server.store import Store
from server.strategy import SecureAggregation
from tests.support.flower_federation import Federation
from tests.support.in_process_grid import Answer, InProcessGrid, as_server_app
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template
from tests.support.stored_sums import stored_sums
from tests.support.trivial_site import TrivialSite

ROUNDS = 12
LATE = NAMES[3]
LIMITS = PartLimits(aggregates=2)


@dataclass
class Run:
    """A coordinator of four hospitals of which some are connected."""

    plan: Plan
    identity: Identity
    sites: Mapping[str, Answer]
    store: Store
    grid: InProcessGrid
    run: str = "a" * 32
    events: dict[int, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str, int, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in NAMES[:3]:
            self.connect(name)
        self.grid.on_pull = self.happen

    def connect(self, name: str) -> None:
        """Connect a hospital that notes what it is asked: name, kind, round, delivered rounds."""

        def answer(frame: bytes) -> bytes:
            request = decode_request(frame, self.plan.agreed.coordinator).request
            self.requests.append((name, request.kind, request.round, [e.round for e in request.aggregates]))
            return self.sites[name](frame)

        self.grid.sites[name] = answer

    def go(self) -> None:
        """Carry the run to its end, or to its next stop, as the ServerApp does."""
        plan = self.plan
        self.store.begin(self.run, plan_digest=plan.digest, plan_json="{}", now=1.0)
        with closing(MaskStore(self.store.path.parent, self.run)) as masks:
            self._start(masks)

    def _start(self, masks: MaskStore) -> None:
        plan, history = self.plan, StoredHistory(self.store, masks, self.run)
        writer = RequestWriter(plan, self.run, self.identity.sign, history, LIMITS)
        steps, grid = steps_after(plan, self.store.last_complete_round(self.run)), OneByOneGrid(self.grid)
        progress = ProgressFile(self.store.path.parent, Progress(self.run, plan.name, ROUNDS))
        strategy = SecureAggregation(
            writer, steps, grid=grid, store=self.store, masks=masks, progress=progress, connect_timeout_s=0.0
        )
        strategy.start(cast(Grid, grid), ArrayRecord(), num_rounds=len(steps), timeout=plan.cohort.round_timeout_s)

    def outcomes(self, name: str) -> dict[int, str]:
        """What a hospital did, by round, in the last attempt."""
        exchanges = (e for e in self.store.exchanges(self.run) if e.kind in ("train", "eval"))
        return {e.round: o.outcome for e in exchanges for o in e.outcomes if o.hospital == name}

    @property
    def skipped(self) -> list[int]:
        """Rounds without a sum."""
        over = stored_sums(self.store, self.run, 1, self.store.last_complete_round(self.run))
        return [aggregate.entry.round for aggregate in over if not aggregate.entry.survivors]

    def asked(self, name: str, kind: str) -> list[tuple[int, list[int]]]:
        """Round and delivered rounds of each request of a kind."""
        return [(number, sent) for who, what, number, sent in self.requests if (who, what) == (name, kind)]

    def leave_after(self, name: str, number: int, *, kind: str = "train") -> None:
        """Disconnect a hospital with its answer to a request of a round."""
        answer = self.grid.sites[name]

        def last(frame: bytes) -> bytes:
            request = decode_request(frame, self.plan.agreed.coordinator).request
            if (request.round, request.kind) == (number, kind):
                del self.grid.sites[name]
            return answer(frame)

        self.grid.sites[name] = last

    def at_round(self, number: int, what: str) -> None:
        """Once a round was asked for, have hospital-4 join ("join"), fall silent ("slow") or speak again ("speak")."""
        self.events.setdefault(number, []).append(what)

    def happen(self) -> None:
        """Called whenever an answer is pulled for."""
        reached = max((number for _, kind, number, _ in self.requests if kind == "train"), default=0)
        for number in [n for n in self.events if n <= reached]:
            for what in self.events.pop(number):
                if what == "join":
                    self.connect(LATE)
                elif what == "slow":
                    self.grid.slow.add(LATE)
                else:
                    self.grid.slow.discard(LATE)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Hospitals without data, three of them connected."""
    as_server_app(monkeypatch)
    files = Federation(tmp_path, NAMES, rounds=ROUNDS, round_timeout_s=5.0, trainable_parameters=500)
    files.write()
    plan = load_settings(files.plan_file, Plan)
    sites = {name: TrivialSite(name, tmp_path / name, plan).answer for name in NAMES}
    identity = Identity.load(files.server_file.parent / "identity.key")
    with closing(Store(tmp_path)) as store:
        yield Run(plan, identity, sites, store, InProcessGrid({}))


def test_a_hospital_that_missed_everything_comes_back_and_contributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real hospitals: part by part beside the rounds of the others, none of which is lost or repeated.

    It has no advert in the round that it joins, so it observes that one, and contributes from the next on.
    """
    as_server_app(monkeypatch)
    provision_small(tmp_path, template(training={"rounds": ROUNDS}, cohort={"round_timeout_s": 30.0, "attempts": 2}))
    with (
        SmallFederation.copy_of(tmp_path, tmp_path / "sites") as federation,
        closing(Store(tmp_path)) as store,
    ):
        sites: dict[str, Answer] = {name: site.answer for name, site in federation.sites.items()}
        coordinator = federation.coordinator
        run = Run(federation.plan, coordinator.identity, sites, store, InProcessGrid({}), run=coordinator.run)
        run.at_round(6, "join")
        run.go()
        assert len({federation.state(name).optimiser.parameters.tobytes() for name in NAMES}) == 1
        assert federation.charges(LATE) == ROUNDS - 8
        late, others = run.outcomes(LATE), [run.outcomes(name) for name in NAMES[:3]]
        assert run.skipped == []
    assert run.asked(LATE, "hello") == [(0, []), (0, [1, 2]), (0, [3, 4]), (0, [5, 6])]
    assert run.asked(LATE, "train")[0] == (8, [7])
    assert list(late.values()) == ["absent"] * 6 + ["catching-up", "observed"] + ["contributed"] * (ROUNDS - 7)
    assert [set(outcomes.values()) for outcomes in others] == [{"contributed"}] * 3
    assert [len(run.asked(name, "train")) for name in NAMES[:3]] == [ROUNDS] * 3
    assert all(len(sent) <= LIMITS.aggregates for _, _, _, sent in run.requests)
    results = [tmp_path / "sites" / "federation" / name / "results" / run.run for name in NAMES]
    assert len({(folder / "model.safetensors").read_bytes() for folder in results}) == 1


def test_its_pages_are_in_the_record_of_the_rounds(run: Run) -> None:
    """An operator who wonders about traffic finds it, and where it went."""
    run.at_round(6, "join")
    run.go()
    outcomes = [outcome for exchange in run.store.exchanges(run.run) for outcome in exchange.outcomes]
    for name in NAMES:
        recorded = sum(outcome.down_bytes for outcome in outcomes if outcome.hospital == name)
        assert recorded == sum(size for who, _, size in run.grid.sent if who == name) > 0


def test_a_hospital_that_takes_long_over_a_part_stalls_nobody(run: Run) -> None:
    """While its answer is awaited it gets nothing more; after it the next part goes out."""
    run.at_round(5, "join")
    run.at_round(6, "slow")
    run.at_round(9, "speak")
    run.go()
    late = ["absent"] * 5 + ["catching-up"] * 4 + ["observed"] + ["contributed"] * (ROUNDS - 10)
    assert list(run.outcomes(LATE).values()) == late
    assert [sent for _, sent in run.asked(LATE, "hello")] == [[], [1, 2], [3, 4], [5, 6], [7, 8]]
    assert run.asked(LATE, "train")[0] == (10, [9])
    assert {e.attempt for e in run.store.exchanges(run.run)} == {0}
    assert [set(run.outcomes(name).values()) for name in NAMES[:3]] == [{"contributed"}] * 3


def test_a_round_that_needs_the_hospital_waits_until_it_has_caught_up(run: Run) -> None:
    """Fewer than the minimum are up to date: all parts go out before the round is asked for, and no attempt is lost."""
    gone = NAMES[0]
    run.at_round(9, "join")
    run.leave_after(gone, 9)
    run.go()
    assert run.outcomes(gone) == {n: "contributed" if n <= 9 else "absent" for n in range(1, ROUNDS + 1)}
    assert run.outcomes(LATE) == {n: "absent" if n <= 9 else "contributed" for n in range(1, ROUNDS + 1)}
    # The one that is gone gave no shares of round 9, which was skipped: it goes with the sum before it.
    assert run.skipped == [9]
    assert run.asked(LATE, "hello") == [(0, []), (0, [1, 2]), (0, [3, 4]), (0, [5, 6])]
    assert run.asked(LATE, "train")[0] == (10, [7, 8, 9])
    assert {e.attempt for e in run.store.exchanges(run.run)} == {0}


def test_a_round_is_opened_with_those_that_are_there(run: Run) -> None:
    """One has left behind its advert for the next round: with it, but without the newcomer's, too few could upload."""
    gone = NAMES[0]
    run.at_round(9, "join")
    run.leave_after(gone, 9, kind="unmask")
    run.go()
    assert run.skipped == []
    assert run.outcomes(gone) == {n: "contributed" if n <= 9 else "absent" for n in range(1, ROUNDS + 1)}
    assert run.outcomes(LATE) == {n: "absent" if n <= 9 else "contributed" for n in range(1, ROUNDS + 1)}
    assert run.asked(LATE, "train")[0] == (10, [9])
    assert {e.attempt for e in run.store.exchanges(run.run)} == {0}


def test_a_hospital_that_refuses_its_page_gets_it_once_in_a_round(run: Run) -> None:
    """It may be mended meanwhile; it is not flooded, and its name and reason are on record."""

    def refuse(_: bytes) -> bytes:
        raise TranscriptError("another history than ours")

    run.sites = {**run.sites, LATE: refuse}
    run.at_round(4, "join")
    run.go()
    # In rounds 5 to the last, and in both attempts to finish.
    assert len(run.asked(LATE, "hello")) == ROUNDS - 4 + 2
    assert run.outcomes(LATE) == {n: "absent" if n <= 4 else "catching-up" for n in range(1, ROUNDS + 1)}
    codes = {o.code for e in run.store.exchanges(run.run) for o in e.outcomes if o.hospital == LATE}
    assert codes == {"", "TranscriptError"}


def test_a_run_stops_with_the_names_of_those_that_did_not_catch_up(run: Run) -> None:
    """A minimum that is not reached is waited for as long as a round may take, and no longer."""
    run.at_round(6, "join")
    run.at_round(7, "slow")
    run.leave_after(NAMES[0], 8, kind="unmask")
    with pytest.raises(DeploymentError, match=f"2 of 4 hospitals .* 3 are needed; {LATE} did not catch up"):
        run.go()
    assert run.store.last_complete_round(run.run) == 8
    assert run.skipped == []


def test_a_hospital_that_is_behind_at_the_end_still_gets_the_finished_model(run: Run) -> None:
    """The last parts go out before it is told to finish; the others have finished by then."""
    run.at_round(ROUNDS, "join")
    run.go()
    assert run.asked(LATE, "train") == []
    assert [sent for _, sent in run.asked(LATE, "hello")] == [[], [1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert run.asked(LATE, "finish") == [(ROUNDS + 1, [11, 12])]
    kinds = [kind for name, kind, _, _ in run.requests]
    last_hello = len(kinds) - kinds[::-1].index("hello")
    assert [name for name, kind, _, _ in run.requests[:last_hello] if kind == "finish"] == list(NAMES[:3])
