"""One hospital's part of a run, request by request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from client.advert import own_advert
from client.approval import approved_plans
from client.asked import check_asked
from client.checkpoint import continued_state, make_checkpoint, open_checkpoint
from client.contribute import Contributor
from client.epochs import EpochBook
from client.freshness import Freshness
from client.history import History
from client.keys import Keys
from client.member import Member
from client.opening import Opening, open_round
from client.past_runs import plans_of_runs, remove_past_runs
from client.peers_seen import PeersSeen
from client.reply import ReplyWriter
from client.reveal import Revealer
from client.state import RunState, initial_state
from client.status import StatusFile
from client.storage import RunStorage
from common.ckks import encode_upload
from common.errors import AlreadyRevealed, BudgetExceeded, LedgerError, LedgerRolledBack, NotFresh, WrongRound
from common.mask_messages import encode_document
from common.messages import KEY_KINDS, Request, decode_reply
from common.plan_content import RoundKind
from common.request_frames import decode_request
from common.site_config import SiteConfig

log = logging.getLogger(__name__)

PHASES: dict[RoundKind, str] = {"stat": "taking statistics", "train": "training", "eval": "evaluating"}
Finish = Callable[[str, RunState, RunStorage], None]


class Hospital:
    """Answers the coordinator's requests for the one plan that this site approved."""

    def __init__(
        self, config: SiteConfig, contributor: Contributor, *, keys: Keys, status: StatusFile, finish: Finish
    ) -> None:
        self._config, self._contributor, self._keys = config, contributor, keys
        self._status, self._finish = status, finish
        self._plan = contributor.plan
        self._freshness = Freshness(keys.member, contributor.ledger, PeersSeen(config.state))
        self._replies = ReplyWriter(keys, contributor.ledger, self._freshness)

    @property
    def member(self) -> Member:
        """This hospital in its roster."""
        return self._keys.member

    def answer(self, frame: bytes | memoryview) -> bytes:
        """Answer one request of the coordinator.

        Args:
            frame: Bytes from the gateway, which may be hostile.

        Returns:
            A signed reply. The same request gets the same bytes.

        Raises:
            PeerError: If the request is refused.
            HospitalError: If this site cannot answer; nothing was released then.
        """
        signed = decode_request(frame, self._plan.agreed.coordinator)
        request = signed.request
        check_asked(request, self._plan, self._config.hospital)
        if request.kind in KEY_KINDS:
            return self._take_part_in_ceremony(request, bytes(signed.body))
        history = self._history(request)
        storage = history.storage
        EpochBook(self._plan, storage).check(request)
        # Before anything is kept for a run: without the epoch's key no part of it can be answered.
        self._keys.epoch(request.epoch)
        if request.kind == "restore":
            return self._restore(request, bytes(signed.body), storage=storage)
        state = storage.load_state() or self._first_state(storage)
        self._freshness.learn(request)
        self._freshness.take(request, storage, applied=state.applied.round)
        return self._go_on(request, history.catch_up(signed, state), history=history)

    def _go_on(self, request: Request, state: RunState, *, history: History) -> bytes:
        storage = history.storage
        if request.kind == "hello":
            if request.aggregates:
                self._status.update(phase="catching up", run=request.run, round=state.applied.round)
            return self._replies.write(request, state, storage=storage)
        if request.kind == "checkpoint":
            return make_checkpoint(state, request, self._keys.member, tag_key=self._keys.epoch(request.epoch).tag)
        if request.kind == "keys":
            return self._advertise(request, state, storage=storage)
        return self._take_part(request, state, history=history)

    def _take_part(self, request: Request, state: RunState, *, history: History) -> bytes:
        """Answer what is asked of the round behind the model."""
        if state.applied.round != request.round - 1:
            raise WrongRound(
                f"round {request.round} was asked for, the model here is after round {state.applied.round}; "
                "send what lies between"
            )
        if request.kind == "finish":
            return self._end(request, state, history=history)
        if request.kind == "verify":
            return self._replies.write(request, state, storage=history.storage)
        if request.kind == "unmask":
            return self._reveal(request, state, history=history)
        return self._upload(request, state, storage=history.storage)

    def _history(self, request: Request) -> History:
        return History(
            member=self._keys.member,
            epoch_key=self._keys.epoch,
            grid=self._contributor.grid,
            run=request.run,
            storage=RunStorage(self._config.state / "runs" / request.run, plan=self._plan.digest),
        )

    def _first_state(self, storage: RunStorage) -> RunState:
        if self._plan.agreed.continues is None:
            return initial_state(self._contributor.learner.initial, statistics=self._plan.statistics)
        return continued_state(self._config.state / "runs", storage, self._plan)

    def _restore(self, request: Request, data: bytes, *, storage: RunStorage) -> bytes:
        state = storage.load_state()
        if state is None:
            state = open_checkpoint(request, data, self._keys.member, tag_key=self._keys.epoch(request.epoch).tag)
            storage.take_over({}, state)
        return self._replies.write(request, state, storage=storage)

    def _end(self, request: Request, state: RunState, *, history: History) -> bytes:
        storage = history.storage
        history.recomputer.require_verdicts(request.verdicts, run=request.run, applied=state.applied)
        self._finish(request.run, state, storage)
        storage.finish(state)
        runs, continues = self._config.state / "runs", self._plan.agreed.continues
        if continues is not None:
            # Nothing goes on from it any more.
            RunStorage(runs / continues.run, plan=continues.plan).close()
        remove_past_runs(runs, approved=approved_plans(self._config.approvals))
        self._keys.keep_only(plans_of_runs(runs))
        self._status.update(phase="finished", round=self._plan.last_training_round, message="")
        return self._replies.write(request, state, storage=storage)

    def _take_part_in_ceremony(self, request: Request, body: bytes) -> bytes:
        ceremony = self._keys.ceremony(request.epoch)
        self._status.update(phase="agreeing on a key", message="")
        if request.kind == "deal":
            return ceremony.deal()
        return ceremony.open(body) if request.kind == "open" else ceremony.confirm(body)

    def _advertise(self, request: Request, state: RunState, *, storage: RunStorage) -> bytes:
        """This hospital's advert for a round; none if its budget does not reach that far."""
        if request.round <= state.applied.round:
            raise WrongRound(f"an advert for round {request.round} was asked for, which is over; refuse it")
        self._freshness.check_copy(request.run, storage, applied=state.applied.round)
        spent = self._sits_out(request.run, request.round)
        if spent is not None:
            log.warning("sitting out round %d: %s", request.round, spent)
            self._status.update(phase="observing", run=request.run, message=str(spent))
            raise spent
        EpochBook(self._plan, storage).note(request)
        own = own_advert(self._keys.member, storage, run=request.run, round_number=request.round, epoch=request.epoch)
        return encode_document(own.full.model_copy(update={"answers": self._freshness.answers(request)}))

    def _reveal(self, request: Request, state: RunState, *, history: History) -> bytes:
        number, storage = request.round + 1, history.storage
        latest = storage.last_attempt(request.round)
        if latest != request.attempt:
            raise WrongRound(
                f"round {request.round} attempt {request.attempt} is to be unmasked, this site answered "
                f"{'none' if latest is None else f'attempt {latest}'} last; refuse it"
            )
        self._freshness.check_copy(request.run, storage, applied=state.applied.round)
        given = (*request.survivors, *request.verdicts)
        history.recomputer.require_verdicts(given, run=request.run, applied=state.applied)
        following = None
        if number <= self._plan.last_round and self._sits_out(request.run, number) is None:
            epoch = EpochBook(self._plan, storage).epoch_of_next(number)
            following = own_advert(self._keys.member, storage, run=request.run, round_number=number, epoch=epoch).full
        expected = history.expectation(state, attempt=request.attempt, epoch=request.epoch)
        answers, nonce = self._freshness.answers(request), self._freshness.nonce(request.run)
        return Revealer(self._keys.member, storage, expected).answer(request, following, answers=answers, nonce=nonce)

    def _upload(self, request: Request, state: RunState, *, storage: RunStorage) -> bytes:
        opening = open_round(request, self._keys.member, storage)
        EpochBook(self._plan, storage).note(request)
        stored, revealed = storage.load_reply(request.round, request.attempt), storage.load_reveal(request.round)
        # Why a site sat a round out may have passed. What it said then went out without masks, so it may say another.
        if stored is not None and (revealed is not None or not self._sat_out(stored)):
            log.info("round %d attempt %d asked for again; the stored reply goes out", request.round, request.attempt)
            return stored
        if revealed is not None:
            # Its masks are known to the coordinator: under them nothing may go out any more.
            raise AlreadyRevealed(f"another attempt of round {request.round} after its unmasking; refuse it")
        if request.attempt < (storage.last_attempt(request.round) or 0):
            raise WrongRound(f"attempt {request.attempt} of round {request.round} after a later one; refuse it")
        reply = self._contribute(request, state, opening=opening, storage=storage)
        storage.save_reply(request.round, request.attempt, reply)
        return reply

    def _sat_out(self, reply: bytes) -> bool:
        manifest = decode_reply(reply, self._keys.member.identities).manifest
        return manifest.role == "observe" and bool(manifest.reason)

    def _contribute(self, request: Request, state: RunState, *, opening: Opening, storage: RunStorage) -> bytes:
        phase = PHASES[self._plan.kind_of(request.round)]
        try:
            self._freshness.check_copy(request.run, storage, applied=state.applied.round)
            self._contributor.check_budget(request.run, request.round)
            if opening.own is None:
                self._status.update(phase="observing", run=request.run, message="joins with the next round")
                return self._replies.write(request, state, storage=storage, opening=opening.digest)
            self._freshness.check(request.run)
            self._status.update(phase=phase, run=request.run, round=min(request.round, self._plan.last_training_round))
            integers = storage.load_update(request.round)
            if integers is None:
                integers = self._contributor.make_integers(request, state, storage=storage)
                storage.save_update(request.round, integers)
        except (BudgetExceeded, LedgerError, LedgerRolledBack, NotFresh) as refusal:
            log.warning("sitting out round %d: %s", request.round, refusal)
            self._status.update(phase="observing", run=request.run, message=str(refusal))
            return self._replies.write(request, state, storage=storage, reason=refusal.code, opening=opening.digest)
        self._status.update(phase="encrypting", epsilon_spent=self._contributor.spent())
        vector = self._keys.epoch(request.epoch).ckks.encrypt(integers, self._contributor.grid)
        opening.mask(vector, self._keys.member, run=request.run, attempt=request.attempt)
        self._status.update(phase="waiting", message="")
        return self._replies.write(request, state, storage=storage, body=encode_upload(vector), opening=opening.digest)

    def _sits_out(self, run: str, round_number: int) -> BudgetExceeded | None:
        """Why this hospital announces no masks for a round, if it does not."""
        try:
            self._contributor.check_budget(run, round_number)
        except BudgetExceeded as spent:
            return spent
        return None
