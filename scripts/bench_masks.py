"""One masked round in this process, step by step and timed: what masks, unmasking and verification cost.

Everything runs through the code of a real round, requests and documents as bytes; what is missing is Flower and SQLite.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from client.advert import own_advert
from client.encode import decode_sum_of_updates, encode_steps, weigh
from client.opening import Opening as SeenOpening
from client.opening import open_round
from client.recompute import recompute
from client.reveal import Revealer
from client.verify import Expectation, verify_aggregate
from common.ckks import encode_upload
from common.errors import LocalProtocolError
from common.mask_messages import FullAdvert, encode_document
from common.messages import NOTHING_APPLIED, Manifest, SignedReply, encode_reply, survivors_digest
from common.request_frames import decode_request
from common.transcript import EMPTY_CHAIN, merkle_root
from scripts.bench_codecs import NO_SLOTS
from scripts.bench_costs import RoundCosts
from scripts.bench_parties import Parties, make_parties
from server.admit import AdmittedReply, OpenExchange, admit
from server.aggregate import Aggregate, RunningSum
from server.ask import expected_answer
from server.masked_round import Opening, Unmasking, check_advert, read_advert
from server.steps import Rounds, Step

FIRST, SECOND = Step("train", 1), Step("train", 2)
STATE_TAG = "0" * 64


def run_masked_round(
    updates: NDArray[np.float64], declared_sizes: Sequence[int], *, gone: int = 0, trace_memory: bool = False
) -> RoundCosts:
    """Run a round up to the decrypted mean.

    Args:
        updates: Shape (hospitals, d), in parameter units.
        declared_sizes: Of each hospital.
        gone: How many of the last hospitals are lost between opening and upload.
        trace_memory: Also note peaks; it makes a round slower, so take no times from such a one.

    Raises:
        LocalProtocolError: If a reply is not admitted, or the shares are not enough.
    """
    # Memory, where there is any: what is measured is the processor, and hospitals flush each file to the disk.
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 -- the folder is new and private
    with TemporaryDirectory(prefix="fedward-bench-", dir=memory) as folder:
        parties = make_parties(Path(folder), updates.shape[1], declared_sizes)
        if trace_memory:
            tracemalloc.start()
        try:
            return _Round(parties, gone).run(updates, declared_sizes)
        finally:
            tracemalloc.stop()


class _Round:
    def __init__(self, parties: Parties, gone: int) -> None:
        self._parties, self._plan, self._run = parties, parties.plan, parties.run
        self._names = tuple(parties.members)
        self._present = self._names[: len(self._names) - gone]
        self._costs = RoundCosts()

    def run(self, updates: NDArray[np.float64], declared_sizes: Sequence[int]) -> RoundCosts:
        opening = self._opening()
        seen = {name: self._open(name, opening) for name in self._names}
        total, replies = RunningSum(self._parties.key.parameters), dict[str, SignedReply]()
        expected = expected_answer(self._plan, self._run, FIRST, attempt=0, epoch=1, opening=opening.digest)
        for name, update, size in zip(self._present, updates, declared_sizes, strict=False):
            frame = self._upload(name, seen[name], update=update, size=size)
            self._costs.message_bytes["up"] = len(frame)
            admitted = self._costs.serve("add", partial(self._add, frame, name, expected, total))
            replies[name] = SignedReply(admitted.signed, admitted.body)
            del frame, admitted
        unmasking = Unmasking(self._plan, self._run, opening, total.survivors(self._names))
        following = self._reveals(unmasking, replies, opening)
        self._costs.serve("combine", partial(unmasking.transcript, 0))
        aggregate, transcript = self._costs.serve("unmask", partial(total.unmasked, unmasking))
        del total
        entry = aggregate.entry.model_copy(update={"transcript": transcript})
        full = Aggregate.held(entry, b"".join((aggregate.body, *(reply.body for reply in replies.values()))))
        frame = self._delivery(aggregate, full, following)
        own = replies[self._names[0]]
        del replies, full
        mean = self._verify(frame, opening, own, survivors_digest(unmasking.survivors))
        there = slice(len(self._present))
        reference = np.average(updates[there], axis=0, weights=declared_sizes[there])
        self._costs.relative_error = float(np.linalg.norm(mean - reference) / np.linalg.norm(reference))
        return self._costs

    def _opening(self) -> Opening:
        adverts = []
        for name, member in self._parties.members.items():
            make = partial(own_advert, member, self._parties.storages[name], run=self._run, round_number=1, epoch=1)
            data = encode_document(self._costs.work("advert", make).full)
            self._costs.message_bytes["advert"] = len(data)
            read = partial(read_advert, data, name, plan=self._plan, run=self._run, round_number=1, epoch=1)
            adverts.append(self._costs.serve("read_adverts", read))
        return Opening(tuple(adverts))

    def _open(self, name: str, opening: Opening) -> SeenOpening:
        frame = self._request(FIRST, name, None, opening)

        def check() -> SeenOpening:
            request = decode_request(frame, self._parties.coordinator.public_hex).request
            return open_round(request, self._parties.members[name], self._parties.storages[name])

        return self._costs.work("opening", check)

    def _upload(self, name: str, opening: SeenOpening, *, update: NDArray[np.float64], size: int) -> bytes:
        grid, member = self._parties.grid, self._parties.members[name]

        def encrypted() -> bytes:
            integers = encode_steps(
                weigh(update, declared_size=size, grid=grid), declared_size=size, slots=NO_SLOTS, grid=grid
            )
            vector = self._parties.key.encrypt(integers, grid)
            self._costs.work("mask", partial(opening.mask, vector, member, run=self._run, attempt=0))
            return encode_upload(vector)

        body = self._costs.work("upload", encrypted)
        parameters = self._parties.key.parameters
        chunks = expected_answer(self._plan, self._run, FIRST, attempt=0, epoch=1).chunks
        manifest = Manifest(
            kind="train",
            run=self._run,
            plan=self._plan.digest,
            epoch=1,
            round=1,
            attempt=0,
            hospital=name,
            role="contribute",
            reason="",
            parameters=parameters.digest(),
            opening=opening.digest,
            revealed="",
            state_tag=STATE_TAG,
            applied=NOTHING_APPLIED,
            ledger_sequence=0,
            ledger_head=EMPTY_CHAIN,
            ledger=EMPTY_CHAIN,
            nonce="",
            chunks=chunks,
            root=merkle_root(body, chunks),
        )
        return encode_reply(manifest, body, member.identity.sign)

    def _add(self, frame: bytes, name: str, expected: OpenExchange, total: RunningSum) -> AdmittedReply:
        admitted = admit(frame, name, expected=expected, seen={})
        if admitted is None or admitted.upload is None:
            raise LocalProtocolError("an upload of the bench was not admitted")
        total.add(admitted.signed, admitted.upload)
        return admitted

    def _reveals(self, unmasking: Unmasking, replies: dict[str, SignedReply], opening: Opening) -> Opening:
        """All that are present reveal; what the next round opens with."""
        following, writer = [], self._parties.writer()
        for name in self._present:
            member, storage = self._parties.members[name], self._parties.storages[name]
            frame = writer.write_plain(Step("unmask", 1), name, survivors=unmasking.survivors)
            own, advert = replies[name], own_advert(member, storage, run=self._run, round_number=2, epoch=1).full
            revealer = Revealer(member, storage, self._expectation(name, opening, own, None))
            data = self._costs.work("reveal", partial(self._reveal, frame, revealer, advert))
            self._costs.message_bytes |= {"unmask_down": len(frame), "unmask_up": len(data)}
            given = self._costs.serve("take_shares", partial(unmasking.take, data, name))
            if given.next is None:
                raise LocalProtocolError("a hospital of the bench sent no advert for the next round")
            following.append(check_advert(given.next, name, plan=self._plan, run=self._run, round_number=2, epoch=1))
        return Opening(tuple(following))

    def _reveal(self, frame: bytes, revealer: Revealer, following: FullAdvert) -> bytes:
        return revealer.answer(decode_request(frame, self._parties.coordinator.public_hex).request, following)

    def _delivery(self, aggregate: Aggregate, full: Aggregate, following: Opening) -> bytes:
        """The request of the next round to the first hospital, and how many bytes of it are what."""
        name = self._names[0]
        light = len(self._request(SECOND, name, aggregate, following))
        frame = self._request(SECOND, name, full, following)
        without = len(self._request(SECOND, name, aggregate, None))
        self._costs.message_bytes |= {"down": light, "opening": light - without, "verify": len(frame) - light}
        return frame

    def _request(self, step: Step, name: str, aggregate: Aggregate | None, opening: Opening | None) -> bytes:
        rounds = {name: Rounds(1, step.round - 1)}
        ((_, frame),) = self._parties.writer(aggregate).write(step, attempt=0, rounds=rounds, opening=opening)
        return frame

    def _verify(self, frame: bytes, opening: Opening, own: SignedReply, revealed: str) -> NDArray[np.float64]:
        name = self._names[0]
        request = decode_request(frame, self._parties.coordinator.public_hex)
        del frame
        ((entry,), (body,)) = request.request.aggregates, request.aggregate_bodies()
        if entry.transcript is None:
            raise LocalProtocolError("the bench's aggregate has no transcript")
        expected = self._expectation(name, opening, own, revealed)
        check = partial(verify_aggregate, entry, body[: entry.sum_bytes], expected=expected)
        verified = self._costs.work("verify_sum", check)
        member, uploads = self._parties.members[name], body[entry.sum_bytes :]
        self._costs.work(
            "verify", partial(recompute, verified, entry, entry.transcript, uploads=uploads, member=member)
        )
        integers = self._costs.work("decrypt", partial(self._parties.key.decrypt, verified.total, self._parties.grid))
        return decode_sum_of_updates(
            integers,
            parameter_count=self._plan.agreed.trainable_parameters,
            slot_count=0,
            grid=self._parties.grid,
        ).mean_update

    def _expectation(self, name: str, opening: Opening, own: SignedReply, revealed: str | None) -> Expectation:
        return Expectation(
            member=self._parties.members[name],
            run=self._run,
            epoch=1,
            state_tag=STATE_TAG,
            applied=NOTHING_APPLIED,
            opening=opening.digest,
            revealed=revealed,
            own=own,
            revealed_before="",
        )
