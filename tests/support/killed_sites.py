"""Runs of the coordinator's own strategy with site services behind their sockets, killed at random; what has left."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Self

import grpc

import common.errors
from client.ledger_copy import copy_ledger
from client.ledger_look import verify_own
from client.relay import exchange
from common.config import load_settings
from common.errors import FedwardError, OperatorError
from common.identity import Identity
from common.messages import UPLOAD_KINDS, decode_reply
from common.plan import Plan
from common.request_frames import decode_request
from common.site_config import load_site
from server.store import Store
from tests.support.killer import Killer
from tests.support.releases import Releases
from tests.support.site_nursery import Nursery
from tests.support.small_federation import NAMES
from tests.support.stored_sums import stored_sums
from tests.support.whole_run import WholeRun

ANSWER_S = 60.0
TRIES = 6


class KilledSites:
    """Real site services, what they were asked, and what they answered; use it as a context, which kills them."""

    def __init__(self, folder: Path, nursery: Nursery, *, flaw: str = "", names: Sequence[str] = NAMES) -> None:
        self.folder, self._nursery, self._flaw = folder, nursery, flaw
        root = folder / "federation"
        self.plan = load_settings(root / "plan.yaml", Plan)
        self.identity = Identity.load(root / "coordinator" / "identity.key")
        self.releases, self._restarting = Releases(self.plan, self.config), threading.Lock()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.killer = Killer(random.Random(20), self.restart)  # noqa: S311 -- the moments of a test's kills
        self.names = tuple(names)
        for name in names:
            self._nursery.start(self.config(name), flaw=flaw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.killer.settle()
        for name in self.names:
            self._nursery.kill(self.config(name))

    def config(self, name: str) -> Path:
        """A site's file."""
        return self.folder / "federation" / name / f"{name}.yaml"

    def restart(self, name: str) -> None:
        """Kill a service and start it again."""
        # Two kills may strike at one moment: the second finds the service that the first has started.
        with self._restarting:
            self._nursery.kill(self.config(name))
            self._nursery.start(self.config(name), flaw=self._flaw)

    def go(self, run: str, *, kills: int, requests: int) -> int:
        """Carry a run to its end; a stop is followed by another try, as the coordinator's steward does it.

        Args:
            run: Its id.
            kills: How many sites die.
            requests: Within so many requests.

        Returns:
            How many tries it took.
        """
        self.killer.plan(kills, requests=requests)
        folder = self.folder / "runs" / run
        folder.mkdir(parents=True)
        whole = WholeRun(folder, self.plan, self.identity, {n: partial(self.answer, n) for n in NAMES}, run=run)
        for tried in range(1, TRIES + 1):
            try:
                whole.go()
            except OperatorError:
                # Too few were there: so many were killed at once.
                continue
            finally:
                self.killer.settle()
            return tried
        raise AssertionError(f"run {run} did not end in {TRIES} tries: {whole.errors}")

    def contributed(self, run: str) -> dict[str, list[int]]:
        """In which rounds' sums each hospital is."""
        with closing(Store(self.folder / "runs" / run)) as store:
            aggregates = stored_sums(store, run, 1, self.plan.last_round)
        shown = [(a.entry.round, {s.manifest.hospital for s in a.entry.survivors}) for a in aggregates]
        return {name: [number for number, names in shown if name in names] for name in NAMES}

    def last_tags(self, run: str) -> set[tuple[str, str]]:
        """How the `finish` of a run ended, by hospital, and with what code."""
        with closing(Store(self.folder / "runs" / run)) as store:
            finish = [one for one in store.exchanges(run) if one.kind == "finish"][-1]
        return {(o.outcome, o.code) for o in finish.outcomes}

    def answer(self, name: str, frame: bytes) -> bytes:
        """What a site's service says over its socket; a dead one is waited for, as the gateway's relay does."""
        request = decode_request(frame, self.plan.agreed.coordinator).request
        finished = threading.Event()
        hits = len(self.killer.hits)
        self.killer.at(name, request.kind, finished)
        began = time.monotonic()
        try:
            reply = exchange(frame, socket=str(self.config(name).parent / "site.sock"), timeout_s=ANSWER_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise AssertionError(f"{name} gave no answer to {request.kind}: {error}") from error
            self.refusals[request.kind, error.details()] += 1
            raise _named(error.details()) from error
        finally:
            finished.set()
        if len(self.killer.hits) == hits:
            self.killer.seconds[request.kind] = time.monotonic() - began
        if request.kind in UPLOAD_KINDS:
            self.releases.note(decode_reply(reply, {h.name: h.identity for h in self.plan.roster}), reply)
        return reply

    def check(self) -> None:
        """Each ledger verifies; what was released is charged; all uploads of a round hold the same integers.

        Raises:
            AssertionError: If not.
        """
        for name in self.names:
            key = self.plan.roster[NAMES.index(name)].identity
            site = load_site(self.config(name))
            charged = {entry.charge.key for entry in copy_ledger(site.ledger, public_key=key).entries()}
            lacking = sorted(kind for _, _, kind in self.releases.needed[name] - charged)
            assert not lacking, f"{name} released without a charge: {', '.join(lacking)}"
            assert "unaltered" in verify_own(site)
        self.releases.check_same()

    def charges(self, name: str) -> Counter[str]:
        """How many entries of each kind are in a site's ledger."""
        key = self.plan.roster[NAMES.index(name)].identity
        entries = copy_ledger(load_site(self.config(name)).ledger, public_key=key).entries()
        return Counter(entry.charge.kind for entry in entries)


def _named(code: str) -> FedwardError:
    return getattr(common.errors, code, common.errors.LocalProtocolError)(code)
