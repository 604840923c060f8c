"""Runs of the coordinator's own strategy with site services behind their sockets, killed at random; what has left."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import grpc
import numpy as np

import common.errors
from client.advert import load_own_advert
from client.keys import open_keys
from client.ledger_copy import copy_ledger
from client.ledger_look import verify_own
from client.opening import Opening, known_opening
from client.relay import exchange
from client.storage import RunStorage
from common.ckks import PRESETS, EncryptedSum, EncryptedVector, decode_upload
from common.config import load_settings
from common.errors import FedwardError, OperatorError
from common.grid import Grid, plan_grid
from common.identity import Identity
from common.messages import SignedReply, decode_reply
from common.plan import Plan
from common.request_frames import decode_request
from common.site_config import load_site
from server.store import Store
from tests.support.site_keys import site_vault
from tests.support.site_nursery import Nursery
from tests.support.small_federation import NAMES
from tests.support.stored_sums import stored_sums
from tests.support.whole_run import WholeRun

ANSWER_S = 60.0
TRIES = 6
AGAIN = 0.2
"""How often a service is killed once more while it starts."""


@dataclass
class Hit:
    """One kill: what the site had been asked last, and whether it was still at it, waiting, or starting."""

    kind: str
    during: str


@dataclass
class Killer:
    """Decides at which requests a site is killed, and how long after they were sent."""

    random: random.Random
    sites: KilledSites
    seconds: dict[str, float] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    due: set[int] = field(default_factory=set)
    asked: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def plan(self, kills: int, *, requests: int) -> None:
        """Choose at which of a run's first `requests` requests sites will be killed."""
        self.asked, self.due = 0, set(self.random.sample(range(requests), kills))

    def at(self, name: str, kind: str, finished: threading.Event) -> None:
        """Before a request goes out: perhaps let its site die while it is answered, or soon after."""
        self.asked += 1
        if self.asked - 1 not in self.due:
            return
        delay_s = self.random.uniform(0.0, 1.2 * self.seconds.get(kind, 0.05))
        again = self.random.random() < AGAIN
        strike = threading.Thread(target=self._strike, args=(name, kind, finished, delay_s), kwargs={"again": again})
        self.threads.append(strike)
        strike.start()

    def settle(self) -> None:
        """Wait until all that were killed are started again."""
        for thread in self.threads:
            thread.join()
        self.threads.clear()

    def _strike(self, name: str, kind: str, finished: threading.Event, delay_s: float, *, again: bool) -> None:
        # The moment of a kill is random by intention: nothing is waited for here.
        time.sleep(delay_s)
        self.hits.append(Hit(kind, "waiting" if finished.is_set() else "answering"))
        self.sites.restart(name)
        if again:
            time.sleep(self.random.uniform(0.0, 1.5))
            self.hits.append(Hit(kind, "starting"))
            self.sites.restart(name)


@dataclass
class Releases:
    """Every upload that left a hospital, by hospital, run and round: what it held without masks and encryption."""

    integers: dict[tuple[str, str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    frames: dict[tuple[str, str, int, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    kinds: dict[tuple[str, str, int], str] = field(default_factory=dict)


class KilledSites:
    """Real site services, what they were asked, and what they answered; use it as a context, which kills them."""

    def __init__(self, folder: Path, nursery: Nursery, *, flaw: str = "", names: Sequence[str] = NAMES) -> None:
        self.folder, self._nursery, self._flaw = folder, nursery, flaw
        root = folder / "federation"
        self.plan = load_settings(root / "plan.yaml", Plan)
        self.identity = Identity.load(root / "coordinator" / "identity.key")
        self.releases, self._restarting = Releases(), threading.Lock()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.killer = Killer(random.Random(20), self)  # noqa: S311 -- the moments of a test's kills
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
        if request.kind in ("train", "eval"):
            self._note(decode_reply(reply, {h.name: h.identity for h in self.plan.roster}), reply)
        return reply

    def check(self) -> None:
        """Each ledger verifies; each training upload is charged; all uploads of a round hold the same integers.

        Raises:
            AssertionError: If not.
        """
        for name in self.names:
            site = load_site(self.config(name))
            key = self.plan.roster[NAMES.index(name)].identity
            charged = {entry.charge.key for entry in copy_ledger(site.ledger, public_key=key).entries()}
            released = {
                (run, number, kind)
                for (who, run, number), kind in self.releases.kinds.items()
                if who == name and kind == "train"
            }
            assert released <= charged, f"{name} released {len(released - charged)} updates without a charge"
            assert "unaltered" in verify_own(site)
        for place, given in self.releases.integers.items():
            assert len(set(given)) == 1, f"{place}: {len(set(given))} different updates left under one charge"
        for attempt, frames in self.releases.frames.items():
            assert len(frames) == 1, f"{attempt}: {len(frames)} different replies to one attempt"

    def charges(self, name: str) -> int:
        """Training rounds in a site's ledger."""
        key = self.plan.roster[NAMES.index(name)].identity
        entries = copy_ledger(load_site(self.config(name)).ledger, public_key=key).entries()
        return sum(entry.charge.kind == "train" for entry in entries)

    @property
    def grid(self) -> Grid:
        """The plan's grid, as `client.site` makes it."""
        return plan_grid(
            PRESETS[self.plan.encryption.preset],
            [h.declared_units for h in self.plan.roster],
            update_norm_bound=self.plan.update_norm_bound,
            slot_sum_max=self.plan.slot_sum_max,
        )

    def _note(self, reply: SignedReply, frame: bytes) -> None:
        manifest = reply.manifest
        if not reply.body:
            return  # an observer may say another reason the next time: nothing has left
        place = (manifest.hospital, manifest.run, manifest.round)
        self.releases.kinds[place] = manifest.kind
        self.releases.frames[*place, manifest.attempt].add(hashlib.sha256(frame).digest())
        self.releases.integers[place].append(hashlib.sha256(self._integers(reply).tobytes()).digest())

    def _integers(self, reply: SignedReply) -> np.ndarray:
        """What an upload holds, by what only its hospital knows; its round is still open."""
        manifest, parameters = reply.manifest, PRESETS[self.plan.encryption.preset]
        site = load_site(self.config(manifest.hospital))
        storage = RunStorage(site.state / "runs" / manifest.run, plan=self.plan.digest)
        keys = open_keys(site, site_vault(self.config(manifest.hospital).parent), self.plan)
        fixed = known_opening(manifest.round, storage)
        own = load_own_advert(keys.member, storage, run=manifest.run, round_number=manifest.round)
        assert fixed is not None
        upload = decode_upload(reply.body, manifest.chunks, parameters)
        masks = EncryptedVector(parameters, np.zeros_like(upload.words), upload.seeds)
        Opening(fixed.delivered, own).mask(masks, keys.member, run=manifest.run, attempt=manifest.attempt)
        modulus = np.uint64(parameters.modulus)
        words = (upload.words + (modulus - masks.words)) % modulus
        plain = EncryptedSum(parameters, words, (upload.seeds,))
        return np.asarray(keys.epoch(manifest.epoch).ckks.decrypt(plain, self.grid))


def _named(code: str) -> FedwardError:
    return getattr(common.errors, code, common.errors.LocalProtocolError)(code)
