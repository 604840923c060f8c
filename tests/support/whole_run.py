"""A whole run in one process: the coordinator's own strategy and stores, and hospitals without network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from client.member import Member
from client.paged_site import PagedSite
from common.config import load_settings
from common.errors import FedwardError
from common.identity import Identity
from common.messages import Request
from common.plan import Plan
from common.request_frames import decode_request
from server.history import StoredHistory
from server.long_messages import LongMessages
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.progress import Progress, ProgressFile
from server.requests import RequestWriter
from server.steps import steps_after
from server.store import Exchange, Store
from server.strategy import SecureAggregation
from tests.support.flower_federation import Federation
from tests.support.in_process_grid import Answer, InProcessGrid
from tests.support.stored_sums import stored_sums
from tests.support.trivial_site import TrivialSite

Whole = Callable[[bytes | memoryview], bytes]


@dataclass
class WholeRun:
    """Carries runs to their end, and notes what each hospital was asked and answered.

    `lie` may change the strategy's parts before it starts; `before` is told each whole request before its hospital is,
    and may raise. `members` are the hospitals that take and send long messages in pages; `gateway` may change
    what passes between Flower and a hospital; `grid` is that of all carriages.
    """

    folder: Path
    plan: Plan
    identity: Identity
    sites: Mapping[str, Whole]
    run: str = "a" * 32
    lie: Callable[[SecureAggregation], None] = lambda _: None
    before: Callable[[Request], None] = lambda _: None
    requests: list[tuple[str, Request, int]] = field(default_factory=list)
    errors: list[tuple[str, Request, FedwardError]] = field(default_factory=list)
    members: Mapping[str, Member] = field(default_factory=dict)
    gateway: Callable[[str, Answer], Answer] = lambda _, answer: answer
    grid: InProcessGrid = field(default_factory=lambda: InProcessGrid({}))

    def go(self) -> None:
        """Carry the run to its end, or to its next stop, as the ServerApp does."""
        self.grid.sites = {
            name: self.gateway(name, self._paged(name, self._noting(name, answer)))
            for name, answer in self.sites.items()
        }
        carry(self.plan, self.run, self.identity, folder=self.folder, grid=self.grid, lie=self.lie)

    def asked(self, kind: str, round_number: int) -> list[str]:
        """Who was asked for that, in order."""
        return [name for name, one, _ in self.requests if (one.kind, one.round) == (kind, round_number)]

    def refusals(self, kind: str) -> list[tuple[int, str, str]]:
        """Round, hospital and error's name of each answer to a kind that was an error."""
        return [(one.round, name, error.code) for name, one, error in self.errors if one.kind == kind]

    def exchanges(self) -> tuple[Exchange, ...]:
        """What the coordinator has recorded."""
        with closing(Store(self.folder)) as store:
            return store.exchanges(self.run)

    def ended(self, round_number: int) -> tuple[str, ...]:
        """Whose uploads are in a round's sum; nobody's if it was skipped."""
        with closing(Store(self.folder)) as store:
            (aggregate,) = stored_sums(store, self.run, round_number, round_number)
        return tuple(signed.manifest.hospital for signed in aggregate.entry.survivors)

    def _paged(self, name: str, answer: Whole) -> Answer:
        if name not in self.members:
            return answer
        return PagedSite(answer, self.members[name], folder=self.folder / name / "pages").answer

    def _noting(self, name: str, answer: Whole) -> Whole:
        def noting(frame: bytes | memoryview) -> bytes:
            request = decode_request(frame, self.plan.agreed.coordinator).request
            self.requests.append((name, request, len(frame)))
            try:
                self.before(request)
                return answer(frame)
            except FedwardError as error:
                self.errors.append((name, request, error))
                raise

        return noting


def carry(  # noqa: PLR0913 -- the parts of one run
    plan: Plan,
    run: str,
    identity: Identity,
    *,
    folder: Path,
    grid: InProcessGrid,
    lie: Callable[[SecureAggregation], None] = lambda _: None,
) -> None:
    """Carry a run to its end, or to its next stop, as the ServerApp does.

    Args:
        plan: The plan.
        run: Run id.
        identity: The coordinator's.
        folder: The coordinator's.
        grid: Reaches the hospitals.
        lie: Changes the strategy's parts before it starts.
    """
    with closing(Store(folder)) as store, closing(MaskStore(folder, run)) as masks:
        store.begin(run, plan_digest=plan.digest, plan_json="{}", now=1.0)
        history = StoredHistory(store, masks, run)
        long = LongMessages(plan, run, sign=identity.sign, folder=folder)
        writer = RequestWriter(plan, run, identity.sign, history, long=long)
        steps = steps_after(plan, store.last_complete_round(run))
        progress = ProgressFile(folder, Progress(run, plan.name, plan.last_training_round))
        with closing(OneByOneGrid(grid, long)) as one_by_one:
            strategy = SecureAggregation(
                writer, steps, grid=one_by_one, store=store, masks=masks, progress=progress, connect_timeout_s=0.0
            )
            lie(strategy)
            timeout_s = plan.cohort.round_timeout_s
            strategy.start(cast(Grid, one_by_one), ArrayRecord(), num_rounds=len(steps), timeout=timeout_s)


def trivial_run(  # noqa: PLR0913 -- keyword-only from the third on
    folder: Path,
    names: tuple[str, ...],
    *,
    rounds: int,
    verification: str = "full",
    attempts: int = 2,
    trainable_parameters: int = 5000,
    page_kib: int = 4096,
    whole_kib: int = 16_384,
    round_timeout_s: float = 2.0,
) -> WholeRun:
    """A run of hospitals without data, whose signatures, masks and checks are real; none is waited for long."""
    files = Federation(
        folder,
        names,
        rounds=rounds,
        round_timeout_s=round_timeout_s,
        attempts=attempts,
        trainable_parameters=trainable_parameters,
        verification=verification,
        page_kib=page_kib,
        whole_kib=whole_kib,
    )
    files.write()
    plan = load_settings(files.plan_file, Plan)
    sites = {name: TrivialSite(name, folder / name, plan) for name in names}
    return WholeRun(
        folder,
        plan,
        Identity.load(files.server_file.parent / "identity.key"),
        {name: site.answer for name, site in sites.items()},
        members={name: site.member for name, site in sites.items()},
    )
