"""One hospital's part of a run, request by request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from client.apply import apply_aggregate
from client.approval import approved_plans
from client.contribute import Contributor
from client.keys import Keys
from client.past_runs import remove_past_runs
from client.state import RunState, initial_state, state_tag
from client.status import StatusFile
from client.storage import RunStorage
from client.verify import Expectation
from common.ckks import PRESETS, chunks_for, encode_upload
from common.errors import BudgetExceeded, LedgerError, TranscriptError, WrongPlan, WrongRound
from common.messages import KEY_KINDS, AggregateEntry, Manifest, Request, decode_reply, decode_request, encode_reply
from common.site_config import SiteConfig
from common.transcript import aggregate_root, merkle_root

log = logging.getLogger(__name__)

Finish = Callable[[str, RunState, RunStorage], None]


class Hospital:
    """Answers the coordinator's requests for the one plan that this site approved."""

    def __init__(
        self, config: SiteConfig, contributor: Contributor, *, keys: Keys, status: StatusFile, finish: Finish
    ) -> None:
        self._config, self._contributor, self._keys = config, contributor, keys
        self._status, self._finish = status, finish
        self._plan = contributor.plan
        self._identities = {h.name: h.identity for h in self._plan.roster}

    def answer(self, frame: bytes) -> bytes:
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
        self._check_addressed(request)
        if request.kind in KEY_KINDS:
            return self._take_part_in_ceremony(request, signed.body)
        # Before anything is kept for a run: without the epoch's key no part of it can be answered.
        self._keys.epoch()
        storage = RunStorage(self._config.state / "runs" / request.run, plan=self._plan.digest)
        state = storage.load_state() or initial_state(self._contributor.learner.initial)
        for entry, body in zip(request.aggregates, signed.aggregate_bodies(), strict=True):
            state = self._catch_up(request, state, entry, body=body, storage=storage)
        if request.kind == "hello":
            if request.aggregates:
                self._status.update(phase="catching up", run=request.run, round=state.applied.round)
            return self._reply(request, state, body=b"", reason="")
        if state.applied.round != request.round - 1:
            raise WrongRound(
                f"round {request.round} was asked for, the model here is after round {state.applied.round}; "
                "send what lies between"
            )
        if request.kind == "finish":
            self._finish(request.run, state, storage)
            storage.finish(state)
            remove_past_runs(self._config.state / "runs", approved=approved_plans(self._config.approvals))
            self._status.update(phase="finished", round=self._plan.training.rounds, message="")
            return self._reply(request, state, body=b"", reason="")
        stored = storage.load_reply(request.round, request.attempt)
        if stored is not None:
            log.info("round %d attempt %d asked for again; the stored reply goes out", request.round, request.attempt)
            return stored
        reply = self._contribute(request, state, storage=storage)
        storage.save_reply(request.round, request.attempt, reply)
        return reply

    def _check_addressed(self, request: Request) -> None:
        plan = self._plan
        if request.hospital != self._config.hospital:
            raise WrongPlan(f"a request for {request.hospital} came to {self._config.hospital}; refuse it")
        if request.plan != plan.digest or request.epoch != plan.agreed.epoch:
            raise WrongPlan(
                f"a request for plan {request.plan[:16]}… epoch {request.epoch}; this site approved "
                f"{plan.digest[:16]}… epoch {plan.agreed.epoch}; refuse it"
            )
        allowed = {
            **dict.fromkeys(KEY_KINDS, request.round == 0 and not request.aggregates),
            "hello": request.round == 0,
            "train": 1 <= request.round <= plan.training.rounds,
            "eval": plan.training.rounds < request.round <= plan.last_round,
            "finish": request.round == plan.last_round + 1,
        }
        if not allowed[request.kind] or request.attempt >= plan.cohort.attempts:
            raise WrongRound(
                f"seen {request.kind} for round {request.round} attempt {request.attempt}; the plan has "
                f"{plan.training.rounds} rounds of at most {plan.cohort.attempts} attempts; refuse it"
            )

    def _take_part_in_ceremony(self, request: Request, body: bytes) -> bytes:
        ceremony = self._keys.ceremony
        self._status.update(phase="agreeing on a key", message="")
        if request.kind == "deal":
            return ceremony.deal()
        return ceremony.open(body) if request.kind == "open" else ceremony.confirm(body)

    def _catch_up(
        self, request: Request, state: RunState, entry: AggregateEntry, *, body: memoryview, storage: RunStorage
    ) -> RunState:
        if entry.round <= state.applied.round:
            if entry.round == state.applied.round and aggregate_root(body) != state.applied.root:
                raise TranscriptError(f"another aggregate of round {entry.round} than the one applied here; refuse it")
            return state
        own_frame, epoch = storage.load_reply(entry.round, entry.attempt), self._keys.epoch()
        applied = apply_aggregate(
            state,
            entry,
            body=body,
            expected=Expectation(
                plan=self._plan,
                run=request.run,
                hospital=self._config.hospital,
                min_cohort=self._config.privacy.min_cohort,
                state_tag=state_tag(state, epoch.tag),
                applied=state.applied,
            ),
            own=decode_reply(own_frame, self._identities) if own_frame is not None else None,
            key=epoch.ckks,
            grid=self._contributor.grid,
            refused=epoch.refused,
        )
        # History first: after a crash in between the row is written again, with the aggregate that comes then.
        row = {"contributors": list(applied.contributors), "counts_before": applied.counts.tolist()}
        storage.record_round(entry.round, row)
        storage.save_state(applied.state)
        log.info("applied aggregate %d of %d hospitals", entry.round, len(applied.contributors))
        return applied.state

    def _contribute(self, request: Request, state: RunState, *, storage: RunStorage) -> bytes:
        phase = "training" if request.kind == "train" else "evaluating"
        self._status.update(phase=phase, run=request.run, round=min(request.round, self._plan.training.rounds))
        integers = storage.load_update(request.round)
        if integers is None:
            try:
                integers = self._contributor.make_integers(request, state, storage=storage)
            except (BudgetExceeded, LedgerError) as refusal:
                log.warning("sitting out round %d: %s", request.round, refusal)
                self._status.update(phase="observing", message=str(refusal))
                return self._reply(request, state, body=b"", reason=refusal.code)
            storage.save_update(request.round, integers)
        self._status.update(phase="encrypting", epsilon_spent=self._contributor.spent())
        body = encode_upload(self._keys.epoch().ckks.encrypt(integers, self._contributor.grid))
        self._status.update(phase="waiting", message="")
        return self._reply(request, state, body=body, reason="")

    def _reply(self, request: Request, state: RunState, *, body: bytes, reason: str) -> bytes:
        plan = self._plan
        parameters = PRESETS[plan.encryption.preset]
        chunks = chunks_for(plan.upload_values, parameters) if body else 0
        manifest = Manifest(
            kind=request.kind,
            run=request.run,
            plan=plan.digest,
            epoch=plan.agreed.epoch,
            round=request.round,
            attempt=request.attempt,
            hospital=self._config.hospital,
            role="contribute" if body else "observe",
            reason=reason,
            parameters=parameters.digest(),
            state_tag=state_tag(state, self._keys.epoch().tag),
            applied=state.applied,
            ledger_sequence=self._contributor.ledger.sequence(),
            ledger_head=self._contributor.ledger.head(),
            chunks=chunks,
            root=merkle_root(body, chunks) if body else "",
        )
        return encode_reply(manifest, body, self._keys.identity.sign)
